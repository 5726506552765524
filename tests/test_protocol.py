"""The codec of the messages between parent and worker, and the worker's end of the channel."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch import protocol
from autobatch.errors import WorkerError
from autobatch.protocol import (
    MAX_MESSAGE_BYTES,
    Answer,
    Channel,
    DeviceRequest,
    Failed,
    Imported,
    Inbox,
    Prepare,
    Prepared,
    Request,
    RunTrial,
    Stage,
    Target,
    TrialDone,
    encode,
)
from autobatch.records import OptimizerInfo, Outcome

counts = st.integers(0, 1 << 62)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.dictionaries(texts, texts, max_size=3)


def tuples(of: st.SearchStrategy) -> st.SearchStrategy[tuple]:
    return st.lists(of, max_size=4).map(tuple)


targets = st.builds(
    Target,
    kind=st.sampled_from(["script", "module", "factory", "saved", "pickle"]),
    path=st.none() | texts,
    module=st.none() | texts,
    name=st.none() | texts,
    arguments=tuples(texts),
    pickle=st.none() | st.binary(),
)
device_requests = st.builds(
    DeviceRequest,
    kind=st.sampled_from(["cpu", "gpu"]),
    indices=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    strategy=st.sampled_from([None, "mirrored"]),
    limit_bytes=st.none() | counts,
    fail_fast=st.booleans(),
)
optimizers = st.builds(
    OptimizerInfo,
    class_name=texts,
    learning_rate=st.none() | numbers,
    schedule=st.none() | st.dictionaries(texts, counts | texts, max_size=3),
)
requests = st.builds(
    Prepare,
    target=targets,
    device=device_requests,
    input_shapes=st.dictionaries(texts, tuples(counts), max_size=3),
    sequence_length=st.none() | counts,
) | st.builds(
    RunTrial, batch_size=counts, steps=counts, validation=st.booleans(), proof=st.booleans()
)
answers = st.one_of(
    st.builds(Stage, stage=texts, step=counts, steps=counts),
    st.builds(Imported, versions=words),
    st.builds(
        Prepared,
        model=texts,
        device_name=texts,
        limit_bytes=counts,
        resident_bytes=counts,
        samples=st.none() | counts,
        optimizers=tuples(optimizers),
        environment=words,
        warnings=tuples(texts),
        prelude_seconds=numbers,
    ),
    st.builds(
        TrialDone,
        step_peak_bytes=tuples(counts),
        step_seconds=tuples(numbers),
        other_peak_bytes=counts,
        resident_bytes=counts,
    ),
    st.builds(
        Failed,
        exception_types=tuples(texts),
        message=texts,
        causes=tuples(st.tuples(tuples(texts), texts)),
        free_bytes=st.none() | counts,
    ),
)


def all_messages(inbox: Inbox) -> list:
    return list(iter(inbox.next, None))


@given(st.lists(requests, max_size=4))
def test_requests_come_out_as_they_went_in(messages: list) -> None:
    inbox = Inbox(Request)
    inbox.feed(b"".join(map(encode, messages)))
    assert all_messages(inbox) == messages


@settings(max_examples=60)
@given(st.lists(answers, max_size=4), st.data())
def test_answers_come_out_however_the_pipe_cuts_them(messages: list, data: st.DataObject) -> None:
    stream = b"".join(map(encode, messages))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    inbox, seen = Inbox(Answer), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        inbox.feed(stream[begin:end])
        seen += all_messages(inbox)
    assert seen == messages


def test_a_message_is_there_with_its_last_byte_and_not_before() -> None:
    stream, inbox = encode(Stage(stage="step", step=3, steps=8)), Inbox(Answer)
    for at in range(len(stream)):
        assert inbox.next() is None
        inbox.feed(stream[at : at + 1])
    assert inbox.next() == Stage(stage="step", step=3, steps=8)
    assert inbox.next() is None


@given(st.binary(max_size=200), st.sampled_from([Request, Answer]))
def test_any_bytes_are_an_error_of_ours_or_nothing_yet(data: bytes, expected: object) -> None:
    inbox = Inbox(expected)
    inbox.feed(data)
    with contextlib.suppress(WorkerError):
        assert inbox.next() is None


@given(st.binary(max_size=200) | texts.map(str.encode), st.sampled_from([Request, Answer]))
def test_any_body_is_an_error_of_ours_and_what_follows_is_read(
    body: bytes, expected: object
) -> None:
    good = RunTrial(batch_size=1, steps=1) if expected is Request else Stage(stage="step")
    inbox = Inbox(expected)
    inbox.feed(len(body).to_bytes(4, "big") + body + encode(good))
    with pytest.raises(WorkerError, match="could not be read"):
        inbox.next()
    assert inbox.next() == good


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"type":"Stage"}',
        b'{"type":"Nothing"}',
        b'{"type":"Stage","stage":7}',
        b'{"type":"RunTrial","batch_size":1,"steps":1}',  # a request is no answer
        b'{"type":"Stage","stage":"\xff"}',
        b'{"type":"Prepared","optimizers":[{"schedule":{"a":' + b"[" * 100_000,
    ],
    ids=range(7),
)
def test_json_that_is_no_answer(body: bytes) -> None:
    inbox = Inbox(Answer)
    inbox.feed(len(body).to_bytes(4, "big") + body)
    with pytest.raises(WorkerError):
        inbox.next()


def test_a_size_beyond_the_limit_is_corruption_and_one_within_is_waited_for() -> None:
    within, beyond = Inbox(Answer), Inbox(Answer)
    within.feed(MAX_MESSAGE_BYTES.to_bytes(4, "big") + b"{")
    assert within.next() is None
    beyond.feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(WorkerError, match="corrupt"):
        beyond.next()
    text = Inbox(Answer)
    text.feed(b"Traceback (most recent call last):")  # a print that went the wrong way
    with pytest.raises(WorkerError, match="corrupt"):
        text.next()


def test_text_that_json_cannot_hold_does_not_kill_the_worker() -> None:
    inbox = Inbox(Answer)
    inbox.feed(encode(Failed(exception_types=("OSError",), message="no file '\udcff.csv'")))
    assert inbox.next().message == "no file '\\udcff.csv'"


def test_the_length_counts_bytes_not_letters() -> None:
    stream = encode(Stage(stage="größer ☃"))
    assert int.from_bytes(stream[:4], "big") == len(stream) - 4


# -- the worker's end ----------------------------------------------------------------------------


class Pipes:
    """A channel, and the parent's ends of its pipes."""

    def __init__(self) -> None:
        self.child_in, self.requests = os.pipe()
        self.answers, self.child_out = os.pipe()
        self.channel = Channel(self.child_in, self.child_out)
        self.open = {self.child_in, self.requests, self.answers, self.child_out}

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self.open):
            os.close(fd)
            self.open.discard(fd)


@pytest.fixture
def pipes(nothing_left_open: None) -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def test_the_channel_gives_one_request_after_the_other_and_then_none(pipes: Pipes) -> None:
    first, second = RunTrial(batch_size=1, steps=2), RunTrial(batch_size=4, steps=8, proof=True)
    os.write(pipes.requests, encode(first) + encode(second))
    assert pipes.channel.receive() == first
    assert pipes.channel.receive() == second
    pipes.close(pipes.requests)
    assert pipes.channel.receive() is None


def test_a_request_that_is_cut_off_by_the_parents_death_is_none(pipes: Pipes) -> None:
    os.write(pipes.requests, encode(RunTrial(batch_size=1, steps=2))[:-1])
    pipes.close(pipes.requests)
    assert pipes.channel.receive() is None


def test_an_answer_larger_than_the_pipe_goes_through_whole(pipes: Pipes) -> None:
    answer = Failed(exception_types=("A",), message="x" * 3_000_000)
    sender = threading.Thread(target=pipes.channel.send, args=(answer,))
    sender.start()
    inbox, received = Inbox(Answer), None
    while received is None:
        inbox.feed(os.read(pipes.answers, 1 << 16))
        received = inbox.next()
    sender.join()
    assert received == answer


def test_a_request_larger_than_the_pipe_is_received_whole(pipes: Pipes) -> None:
    target = Target(kind="pickle", pickle=os.urandom(1_000_000))
    request = Prepare(target=target, device=DeviceRequest(kind="cpu"))

    def write() -> None:
        with os.fdopen(os.dup(pipes.requests), "wb") as file:
            file.write(encode(request))

    sender = threading.Thread(target=write)
    sender.start()
    assert pipes.channel.receive() == request
    sender.join()


def test_the_words_of_the_protocol_are_those_of_its_docstring() -> None:
    for message in (*Request.__args__, *Answer.__args__):
        assert f"`{message.__name__}`" in protocol.__doc__


def test_a_proof_whose_replays_need_more_than_is_there_went_through_by_luck() -> None:
    done = TrialDone(
        step_peak_bytes=(90, 100), step_seconds=(1.0, 0.1), other_peak_bytes=10,
        resident_bytes=10, needed_bytes=1 << 30,
    )  # fmt: skip
    trial = done.as_trial(RunTrial(batch_size=8, steps=2, proof=True))
    assert trial.outcome is Outcome.TOO_CLOSE
    assert "1 GiB" in (trial.why or "")
    assert done.as_trial(RunTrial(batch_size=8, steps=2)).outcome is Outcome.FITS
    spared = msgspec.structs.replace(done, needed_bytes=None)
    assert spared.as_trial(RunTrial(batch_size=8, steps=2, proof=True)).outcome is Outcome.FITS


def test_a_proof_of_several_lengths_is_replayed_where_there_is_a_limit() -> None:
    shapes = ((8, 10), (4, 20), (4, 20), (8, 10), (4, 10), (2, 20))
    plain = RunTrial.of_shapes(shapes, validation=True)
    assert (plain.trace, plain.enough_bytes, plain.lengths) == (False, None, 2)
    traced = RunTrial.of_shapes(shapes, validation=True, limit_bytes=1 << 30)
    assert (traced.trace, traced.enough_bytes, traced.limit_bytes) == (True, 1 << 30, 1 << 30)
    assert RunTrial(batch_size=8, steps=2).lengths == 0
