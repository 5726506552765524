"""Records: JSON both ways, its version, and failures as JSON."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch import errors, records
from autobatch.errors import AutobatchError
from autobatch.records import (
    SCHEMA_VERSION,
    Device,
    LearningRate,
    LimitedBy,
    LimitKind,
    Outcome,
    ProbeResult,
    Proof,
    ProofKind,
    Trial,
    error_json,
)

counts = st.integers(0, 1 << 62)
sizes = st.integers(1, 1 << 40)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | counts | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=5,
)
configs = st.none() | st.dictionaries(texts, values, max_size=3)


def tuples(of: st.SearchStrategy) -> st.SearchStrategy[tuple]:
    return st.lists(of, max_size=4).map(tuple)


trials = st.builds(
    Trial,
    batch_size=sizes,
    outcome=st.sampled_from(Outcome),
    peak_bytes=st.none() | counts,
    step_peak_bytes=tuples(counts),
    resident_bytes=st.none() | counts,
    step_seconds=tuples(numbers),
    why=st.none() | texts,
    phase=st.none() | texts,
    proof=st.booleans(),
)
devices = st.builds(
    Device,
    name=texts,
    kind=st.sampled_from(["cpu", "gpu"]),
    index=st.none() | st.integers(0, 15),
    limit_bytes=counts,
    budget_bytes=counts,
)
learning_rates = st.builds(
    LearningRate,
    optimizer=texts,
    rule=st.sampled_from(["linear", "sqrt", "none"]),
    reason=texts,
    factor=numbers,
    base_batch_size=sizes,
    batch_size=sizes,
    base_learning_rate=numbers,
    learning_rate=numbers,
    schedule=configs,
    hyperparameters=st.dictionaries(texts, numbers, max_size=3),
    advice=tuples(texts),
)
proofs = st.builds(
    Proof,
    kind=st.sampled_from(ProofKind),
    steps=sizes,
    validation_steps=counts,
    last_batch_size=st.none() | sizes,
    peak_bytes=tuples(counts),
)
results = st.builds(
    ProbeResult,
    batch_size=sizes,
    global_batch_size=sizes,
    learning_rate=st.none() | numbers,
    learning_rate_rule=st.none() | texts,
    learning_rate_schedule=configs,
    learning_rates=tuples(learning_rates),
    base_batch_size=st.none() | sizes,
    base_learning_rate=st.none() | numbers,
    limited_by=st.builds(LimitedBy, st.sampled_from(LimitKind), texts),
    device=devices,
    peak_bytes=st.none() | counts,
    headroom_bytes=counts,
    samples_per_second=st.none() | numbers,
    steps_per_epoch=st.none() | counts,
    proof=proofs,
    trials=tuples(trials),
    warnings=tuples(texts),
    seconds=numbers,
    load_seconds=st.none() | numbers,
    versions=st.dictionaries(texts, texts, max_size=3),
)
RESULT = ProbeResult(
    batch_size=88,
    global_batch_size=88,
    learning_rate=0.00275,
    limited_by=LimitedBy(LimitKind.MEMORY, "at 90: 512 MiB"),
    device=Device(name="CPU", kind="cpu", limit_bytes=1 << 31, budget_bytes=1 << 29),
    peak_bytes=500 << 20,
    headroom_bytes=5 << 20,
    proof=Proof(kind=ProofKind.FRESH_PROCESS, steps=8),
    trials=(Trial(batch_size=2, outcome=Outcome.FITS), Trial(batch_size=88, outcome=Outcome.FITS)),
    seconds=31.4,
    versions={"autobatch": "0.1.0"},
)


@settings(max_examples=60)
@given(results, st.sampled_from([None, 0, 2]))
def test_json_both_ways_is_the_same_result(result: ProbeResult, indent: int | None) -> None:
    text = result.to_json(indent=indent)
    assert ProbeResult.from_json(text) == result
    assert ProbeResult.from_json(text.encode()) == result
    assert ("\n" in text) == bool(indent)


def test_json_is_one_object_that_any_reader_reads() -> None:
    read = json.loads(RESULT.to_json())
    assert read["schema_version"] == SCHEMA_VERSION == 1
    assert read["batch_size"] == 88
    assert read["limited_by"] == {"kind": "memory", "evidence": "at 90: 512 MiB"}
    assert read["proof"]["kind"] == "fresh_process"
    assert read["trials"][0]["outcome"] == "fits"
    assert read["trials"][0]["proof"] is False


def test_json_has_every_key_that_the_design_promises() -> None:
    read = json.loads(RESULT.to_json())
    assert read.keys() >= {
        "batch_size", "global_batch_size", "learning_rate", "learning_rate_rule",
        "learning_rate_schedule", "base_batch_size", "base_learning_rate", "limited_by", "device",
        "peak_bytes", "headroom_bytes", "samples_per_second", "proof", "trials", "seconds",
        "versions",
    }  # fmt: skip
    assert read["device"].keys() >= {"name", "kind", "budget_bytes"}
    assert read["proof"].keys() >= {"kind", "steps"}
    assert read["trials"][0].keys() >= {
        "batch_size", "outcome", "peak_bytes", "step_seconds", "why", "proof",
    }  # fmt: skip


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_schema_version_is_refused_with_a_remedy(version: int) -> None:
    read = {**json.loads(RESULT.to_json()), "schema_version": version}
    with pytest.raises(AutobatchError) as caught:
        ProbeResult.from_json(json.dumps(read))
    assert f"schema version {version}" in str(caught.value)
    assert f"version {SCHEMA_VERSION}" in str(caught.value)
    assert "0.1.0" in str(caught.value)


def test_what_a_later_minor_version_adds_is_ignored() -> None:
    read = {**json.loads(RESULT.to_json()), "something_new": [1, 2]}
    assert ProbeResult.from_json(json.dumps(read)) == RESULT


DEEP = '{"learning_rate_schedule":{"a":' + "[" * 100_000


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "{", "nonsense", '{"batch_size": "x"}', b"\xff\xfe", DEEP,
             "\ud800", b'{"a": "\xff"}'],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_result_is_refused(text: str | bytes) -> None:
    with pytest.raises(AutobatchError, match=r"This is not a probe's result: .+"):
        ProbeResult.from_json(text)


@given(st.binary() | st.text())
def test_any_text_is_a_result_or_refused(text: str | bytes) -> None:
    with pytest.raises(AutobatchError):
        ProbeResult.from_json(text)


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        RESULT.trials[0].batch_size = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        RESULT.batch_size = 3  # type: ignore[misc]


def test_where_a_step_was_replayed_its_peak_is_not_what_counts() -> None:
    """In a pool of another size, the allocator hands out longer chunks than in training's."""
    trial = Trial(batch_size=8, outcome=Outcome.FITS, peak_bytes=300, other_peak_bytes=64)
    assert trial.required_bytes == 300
    replayed = msgspec.structs.replace(trial, needed_bytes=200)
    assert replayed.required_bytes == replayed.step_bytes == 200
    assert msgspec.structs.replace(replayed, other_peak_bytes=250).required_bytes == 250


def test_words_read_as_words() -> None:
    assert f"{Outcome.TIMED_OUT}" == str(Outcome.TIMED_OUT) == "timed_out"
    assert f"{LimitKind.HOST_MEMORY} {ProofKind.CALLER}" == "host_memory caller"


@pytest.mark.parametrize(
    ("seconds", "speed"),
    [
        ((), None),
        ((9.0,), None),
        ((9.0, 0.5), 64.0),
        ((9.0, 0.5, 0.25, 4.0), 64.0),
        ((9.0, 0.0, 0.0, 1.0), None),
    ],
)
def test_speed_is_the_median_after_the_first_step(
    seconds: tuple[float, ...], speed: float | None
) -> None:
    trial = Trial(batch_size=32, outcome=Outcome.FITS, step_seconds=seconds)
    assert trial.samples_per_second == speed


# -- failures ------------------------------------------------------------------------------------

ERRORS = [
    (errors.UsageError, "usage", 2),
    (errors.NothingFitsError, "nothing_fits", 3),
    (errors.ModelError, "model", 4),
    (errors.DeviceError, "device", 5),
    (errors.WorkerError, "worker", 6),
    (errors.DeviceChangedError, "device_changed", 7),
    (errors.StorageError, "storage", 1),
    (errors.ProbeInterrupted, "interrupted", 130),
]


@pytest.mark.parametrize(("error", "kind", "exit_code"), ERRORS)
def test_a_failure_as_json(error: type[AutobatchError], kind: str, exit_code: int) -> None:
    tried = (Trial(batch_size=2, outcome=Outcome.CRASHED, why="SIGSEGV"),)
    read = json.loads(error_json(error("It went wrong.", details="line 3", trials=tried)))
    assert read["schema_version"] == SCHEMA_VERSION
    assert read["error"] == {"kind": kind, "message": "It went wrong.", "details": "line 3"}
    assert msgspec.convert(read["trials"], tuple[Trial, ...], strict=False) == tried
    assert error.exit_code == exit_code


def test_every_error_of_ours_has_a_kind_and_a_status_of_its_own() -> None:
    ours = {e for e in vars(errors).values() if isinstance(e, type) and e is not AutobatchError}
    ours = {e for e in ours if AutobatchError in e.__bases__}  # a narrower one has its base's
    assert ours == {error for error, _, _ in ERRORS}
    assert len({e.kind for e in ours}) == len({e.exit_code for e in ours}) == len(ours)


def test_a_failure_for_want_of_memory_says_how_much() -> None:
    error = errors.NothingFitsError("Too large.", needed_bytes=700, budget_bytes=512)
    read = json.loads(error_json(error))
    assert read["error"] == {
        "kind": "nothing_fits", "message": "Too large.", "needed_bytes": 700, "budget_bytes": 512
    }  # fmt: skip
    assert read["trials"] == []
    assert "needed_bytes" not in json.loads(error_json(errors.NothingFitsError("?")))["error"]


def test_names_that_are_not_utf8_are_written_out() -> None:
    """A file named b'\\xff.py' is called '\\udcff.py' in Python, which JSON cannot hold."""
    tried = (Trial(batch_size=2, outcome=Outcome.FAILED, why="no file \udcff"),)
    read = json.loads(error_json(errors.ModelError("cannot read \udcff.py", trials=tried)))
    assert read["error"]["message"] == "cannot read \\udcff.py"
    assert read["trials"][0]["why"] == "no file \\udcff"
    result = msgspec.structs.replace(RESULT, trials=tried)
    assert ProbeResult.from_json(result.to_json()).trials[0].why == "no file \\udcff"


@settings(max_examples=40)
@given(st.recursive(st.text() | counts, lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_any_text_can_be_encoded(value: object) -> None:
    json.loads(records.encode(value))
