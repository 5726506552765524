"""What sizes of buckets amount to, and how a person and other tools read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from autobatch import as_trained, bucket_data, bucket_proof, length_buckets
from autobatch.batch_search import Search
from autobatch.bucket_options import NOT_HERE, BucketOptions
from autobatch.bucket_records import BucketResult
from autobatch.bucket_report import BucketFindings, bucket_fields
from autobatch.bucket_search import BucketSearch
from autobatch.endings import Ending
from autobatch.errors import UsageError
from autobatch.evidence import Plan
from autobatch.learning_rate import scale_learning_rate
from autobatch.length_buckets import Lengths
from autobatch.probing import Bucketed
from autobatch.protocol import Prepared, TrialDone
from autobatch.records import Device, LimitKind, OptimizerInfo, Outcome, Proof, ProofKind, Trial
from autobatch.report import answers
from autobatch.sizes import SizeSpace
from autobatch.units import MIB
from autobatch.verdict import Bounds

DATA = Lengths(counts=((50, 600), (80, 200), (150, 150), (390, 50)))
BOUNDARIES, SIZES, ENDS = (100, 200), (400, 200, 100), (99, 199, 400)


def prepared(**fields: Any) -> Prepared:
    start = Prepared(
        model="m", device_name="CPU", limit_bytes=1, resident_bytes=0, lengths=DATA, max_length=400
    )
    return msgspec.structs.replace(start, **fields)


def trial(size: int, length: int, *, proof: bool = False, seconds: float = 2.0) -> Trial:
    return Trial(
        batch_size=size,
        sequence_length=length,
        outcome=Outcome.FITS,
        peak_bytes=900 * MIB,
        step_peak_bytes=(900 * MIB,) * 3,
        step_seconds=(9.0, seconds, seconds),
        resident_bytes=MIB,
        proof=proof,
    )


def findings(*, known: bool = True) -> BucketFindings:
    searches = []
    for size, length in zip(SIZES, ENDS, strict=True):
        plan = Plan(SizeSpace(maximum=size), budget_bytes=1000 * MIB, limit_bytes=4000 * MIB)
        searches.append(Search(plan, (trial(size, length), trial(size, length, proof=True))))
    inside = length_buckets.count(DATA, BOUNDARIES)
    return BucketFindings(
        state=BucketSearch(ENDS, tuple(searches)),
        sizes=SIZES,
        bounds=tuple(Bounds(1000 * MIB, maximum=size) for size in SIZES),
        lengths=inside if known else (None,) * 3,
    )


def result(**fields: Any) -> BucketResult:
    found = findings()
    optimizer = OptimizerInfo(class_name="SGD", learning_rate=0.1)
    rate = scale_learning_rate(
        optimizer, base_batch_size=32, batch_size=round(found.mean_batch_size)
    )
    made = BucketResult(
        boundaries=BOUNDARIES,
        max_length=400,
        on_too_long="drop",
        **bucket_fields(found, (rate,)),
        device=Device(name="CPU", kind="cpu", limit_bytes=4000 * MIB, budget_bytes=1000 * MIB),
        headroom_bytes=25 * MIB,
        proof=Proof(kind=ProofKind.FRESH_PROCESS, steps=14, validation_steps=3),
        trials=found.state.trials,
        warnings=("A word.",),
        seconds=12.5,
        versions={"autobatch": "0"},
    )
    return msgspec.structs.replace(made, **fields)


def test_the_mean_is_weighted_by_how_often_each_bucket_occurs() -> None:
    # 800 samples in batches of 400, 150 of 200, 50 of 100: 2 + 0.75 + 0.5 steps
    assert findings().mean_batch_size == pytest.approx(1000 / 3.25)
    assert findings(known=False).mean_batch_size == pytest.approx(700 / 3)
    fields = bucket_fields(findings(), ())
    assert fields["steps_per_epoch"] == 2 + 1 + 1
    assert bucket_fields(findings(known=False), ())["steps_per_epoch"] is None


def test_each_bucket_has_its_factor_by_the_rule_of_the_rate() -> None:
    made = result()
    mean = round(1000 / 3.25)
    factors = [bucket.learning_rate_factor for bucket in made.buckets]
    assert factors == pytest.approx([size / mean for size in SIZES], rel=1e-4)
    assert made.learning_rate == pytest.approx(0.1 * mean / 32)
    assert [bucket.samples for bucket in made.buckets] == [800, 150, 50]
    assert [bucket.step_seconds for bucket in made.buckets] == [2.0] * 3
    assert [bucket.tokens for bucket in made.buckets] == [39600, 39800, 40000]


def test_padding_and_speed_are_those_of_one_pass() -> None:
    padding = result().padding
    assert padding is not None
    tokens = 600 * 50 + 200 * 80 + 150 * 150 + 50 * 390
    # in 100 random samples there is nearly always one of 390, in 400 of the first bucket one of 80
    assert padding.static_batch_size == 100
    assert padding.static_padded == pytest.approx(1 - tokens / 390_000, abs=0.01)
    in_buckets = 800 * 80 + 150 * 150 + 50 * 390
    assert padding.padded == pytest.approx(1 - tokens / in_buckets, abs=0.001)
    seconds = 2.0 * (2 * 80 / 99 + 0.75 * 150 / 199 + 0.5 * 390 / 400)
    assert padding.tokens_per_second == pytest.approx(tokens / seconds, rel=0.001)
    one = 10 * 2.0 * 390 / 400
    assert padding.static_tokens_per_second == pytest.approx(tokens / one, rel=0.01)
    assert bucket_fields(findings(known=False), ())["padding"] is None


def few_of_the_longest() -> BucketFindings:
    """One bucket, of which the data has three samples, each of 2 MiB."""
    longest = (trial(2, 400), trial(3, 400), trial(3, 400, proof=True))
    small = [
        msgspec.structs.replace(each, peak_bytes=(50 + 2 * each.batch_size) * MIB)
        for each in longest
    ]
    plan = Plan(SizeSpace(maximum=3), budget_bytes=1000 * MIB, limit_bytes=4000 * MIB)
    searches = (Search(plan, tuple(small)),)
    return replace(
        findings(),
        state=BucketSearch(ENDS[-1:], searches),
        sizes=(3,),
        bounds=(Bounds(1000 * MIB, samples=3),),
        lengths=(Lengths(counts=((390, 3),)),),
    )


def test_a_static_size_is_no_less_for_there_being_few_long_samples() -> None:
    found = few_of_the_longest()
    crowd = replace(found, lengths=(Lengths(counts=((50, 997), (390, 3))),))
    fields = bucket_fields(crowd, ())
    expected = (1000 * (1 - 0.025) - 50) / 2  # at most, by the trials' peaks
    assert 0.9 * expected < fields["padding"].static_batch_size <= expected + 1
    assert fields["padding"].static_tokens_per_second is None  # three samples tell no speed
    assert bucket_fields(found, ())["padding"].static_batch_size == 3  # there are no more


def test_what_follows_from_tokens_is_limited_by_them() -> None:
    known = findings()
    by_tokens = replace(known.state, by_tokens=True)
    found = replace(known, state=by_tokens, sizes=(50, 200, 90))
    fields = bucket_fields(found, ())
    assert fields["tokens_per_batch"] == 200 * 199
    first, most, last = (bucket.limited_by for bucket in fields["buckets"])
    assert first.kind is last.kind is LimitKind.TOKENS
    assert first.evidence == "batches have 39800 tokens at most, by the bucket of 100 to 199"
    assert most.kind is LimitKind.MAXIMUM


def test_several_replicas_are_counted_together() -> None:
    made = result(device=msgspec.structs.replace(result().device, replicas=2))
    assert made.batch_sizes == (800, 400, 200)
    assert BucketResult.from_json(made.to_json()) == made


# -- the data ------------------------------------------------------------------------------------


def test_what_becomes_of_longer_samples() -> None:
    short = prepared(max_length=100)
    with pytest.raises(UsageError, match=r"200 of 1000 samples are longer .* 100 .* has 390"):
        bucket_data.settled_lengths(short, "error")
    lengths, (note,) = bucket_data.settled_lengths(short, "truncate")
    assert lengths is not None
    assert (lengths.longest, lengths.samples) == (100, 1000)
    assert "they are cut" in note
    lengths, (note,) = bucket_data.settled_lengths(short, "drop")
    assert lengths is not None
    assert (lengths.longest, lengths.samples) == (80, 800)
    assert "left out" in note
    assert bucket_data.settled_lengths(prepared(), "error") == (DATA, ())


def test_what_is_not_known_is_said() -> None:
    lengths, (note,) = bucket_data.settled_lengths(prepared(lengths=None), "error")
    assert lengths is None
    assert "is not known" in note
    part = msgspec.structs.replace(DATA, complete=False)
    _, (note,) = bucket_data.settled_lengths(prepared(lengths=part), "error")
    assert "in part only" in note


def test_longer_samples_may_come_where_not_all_were_read() -> None:
    part = msgspec.structs.replace(DATA, complete=False)
    up_to = DATA.longest
    _, (_, note) = bucket_data.settled_lengths(prepared(lengths=part, max_length=up_to), "error")
    assert f"{up_to} is the longest of those read" in note
    assert f"proven up to a length of {up_to}" in note
    assert "--max-length" in note
    padded = prepared(
        lengths=part, max_length=499, bucket_boundaries=(500,), bucket_batch_sizes=(8, 8)
    )
    _, (_, note) = bucket_data.settled_lengths(padded, "error")
    assert "proven up to a length of 499" in note
    _, notes = bucket_data.settled_lengths(prepared(lengths=part, max_length=up_to + 1), "error")
    assert len(notes) == 1, "somebody gave the greatest length"


def test_boundaries_are_those_asked_for_or_the_scripts_or_the_datas() -> None:
    asked = BucketOptions.checked(boundaries=[70, 120])
    own = prepared(bucket_boundaries=(60,), bucket_batch_sizes=(64, 16))
    nothing, auto = BucketOptions.checked(), BucketOptions.checked(boundaries="auto", buckets=2)
    assert bucket_data.settled_boundaries(own, DATA, asked) == ((70, 120), ())
    assert bucket_data.settled_boundaries(own, DATA, nothing) == ((60,), ())
    assert bucket_data.settled_boundaries(own, DATA, auto) == ((81,), ())
    assert bucket_data.settled_boundaries(prepared(), DATA, nothing) == ((51, 81, 151), ())
    with pytest.raises(UsageError, match="lengths of the data are not known"):
        bucket_data.settled_boundaries(prepared(), None, nothing)
    wide = BucketOptions.checked(boundaries=[100, 500])
    with pytest.raises(UsageError, match="maximum length, 400; received 500"):
        bucket_data.settled_boundaries(prepared(), DATA, wide)


@pytest.mark.parametrize(
    ("own", "reached"), [((60, 400, 401, 500), (60, 400)), ((401,), ()), ((60, 400), (60, 400))]
)
def test_a_scripts_own_boundaries_may_lie_above_its_samples(
    own: tuple[int, ...], reached: tuple[int, ...]
) -> None:
    data = prepared(bucket_boundaries=own, bucket_batch_sizes=(8,) * (len(own) + 1))
    found, notes = bucket_data.settled_boundaries(data, DATA, BucketOptions.checked())
    assert found == reached
    left = own[len(reached) :]
    assert len(notes) == bool(left)
    for note in notes:
        assert f"maximum length, 400: {', '.join(map(str, left))}." in note


# -- a script that buckets its data --------------------------------------------------------------


def asked_of_buckets(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[list[str], Any]:
    """What is said, and what buckets are probed with, where a script turns out to have its own."""
    asked: dict[str, Any] = {}

    def bucketed(*_: Any, **__: Any) -> Any:
        raise Bucketed("The script buckets its data.")

    monkeypatch.setattr("autobatch.as_trained.find_one", bucketed)
    monkeypatch.setattr("autobatch.as_trained.probe_buckets", lambda *_, **x: asked.update(x))
    said: list[Any] = []
    as_trained.find_sizes("train.py", observer=said.append, **options)
    return [event.text for event in said], asked


def test_options_that_mean_nothing_for_buckets_are_left_out_aloud(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, asked = asked_of_buckets(monkeypatch, steps=3)
    assert said == ["The script buckets its data."]
    assert asked["steps"] == 3
    loud = {"prefer": "throughput", "sequence_length": 9, "journal": "trials", "resume": True}
    silent = {"cache": False}  # there is none for buckets
    said, asked = asked_of_buckets(monkeypatch, **loud, **silent)
    assert set(loud) | set(silent) | {"target_batch_size"} == set(NOT_HERE)
    assert not set(NOT_HERE) & set(asked)
    for words in ("(--prefer) throughput is left out", "(--sequence-length) 9", "journal"):
        assert any(words in line for line in said[1:]), words


def test_a_scripts_own_sizes_have_a_mean_to_scale_from() -> None:
    own = prepared(bucket_boundaries=(100,), bucket_batch_sizes=(40, 10), script_batch_size=3)
    # 800 samples in 20 batches of 40, 200 in 20 of 10
    assert bucket_data.with_its_mean(own).script_batch_size == 25
    assert bucket_data.with_its_mean(prepared()).script_batch_size is None


# -- the proof -----------------------------------------------------------------------------------


def ending(step: int, phase: str = "step") -> Ending:
    died = Trial(batch_size=400, outcome=Outcome.OUT_OF_MEMORY, phase=phase, proof=True)
    return Ending(died, None, reusable=False, step=step)


def test_a_death_is_its_buckets_whose_batch_was_trained() -> None:
    state = findings().state
    shapes = bucket_proof.proof_shapes(SIZES, ENDS, 3)
    for step, (_, length) in enumerate([*shapes, *shapes[:2]], start=1):
        bucket = bucket_proof.died_in(ending(step), shapes, state)
        assert ENDS[bucket] == length
    larger = msgspec.structs.replace(trial(200, 199), needed_bytes=930 * MIB)
    state = state.add(1, larger)
    for phase, step in (("validation", 12), ("loading", 0)):
        assert bucket_proof.died_in(ending(step, phase), shapes, state) == 1


def test_a_passed_proof_is_told_for_each_bucket() -> None:
    shapes = bucket_proof.proof_shapes((4, 2), (10, 20), 3)
    count = len(shapes) + 2
    done = TrialDone(
        step_peak_bytes=tuple(range(count)),
        step_seconds=(1.0,) * count,
        other_peak_bytes=0,
        resident_bytes=0,
    )
    whole = Trial(batch_size=4, outcome=Outcome.FITS, proof=True)
    told = bucket_proof.passed(whole, done, (4, 2), (10, 20), shapes)
    assert [(each.batch_size, each.sequence_length) for each in told] == [(4, 10), (2, 20)]
    for each, shape in zip(told, [(4, 10), (2, 20)], strict=True):
        own = [i for i, ran in enumerate([*shapes, *shapes[:2]]) if ran == shape]
        assert each.step_peak_bytes == tuple(own)
        assert len(own) == 4  # three rounds, and the beginning of a second epoch
    # several steps a call: they cannot be told apart, and count for all
    few = msgspec.structs.replace(done, step_peak_bytes=(7, 9), step_seconds=(1.0, 1.0))
    told = bucket_proof.passed(whole, few, (4, 2), (10, 20), shapes)
    assert [each.peak_bytes for each in told] == [9, 9]


def test_of_a_proof_that_was_too_close_all_count_that_can_be_smaller() -> None:
    searches = [Search(Plan(SizeSpace(minimum=least))) for least in (1, 8, 8)]
    state = BucketSearch(ENDS, tuple(searches))
    told = tuple(trial(8, length, proof=True) for length in ENDS)
    assert bucket_proof.too_close(told, state) == told[:1]
    smallest = tuple(msgspec.structs.replace(each, batch_size=1) for each in told)
    state = BucketSearch(ENDS, tuple(Search(Plan(SizeSpace())) for _ in ENDS))
    assert bucket_proof.too_close(smallest, state) == smallest


# -- how it is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_page_fits_and_says_what_to_write(width: int, unicode: bool) -> None:
    page = answers.page(result(), width=width, color=False, unicode=unicode, command="autobatch x")
    lines = page.splitlines()
    assert max(map(len, lines)) <= width
    assert unicode or page.isascii()
    said = " ".join(page.split())
    for words in (
        "bucket_boundaries=[100, 200]",
        "bucket_batch_sizes=[400, 200, 100]",
        "BATCH SIZES",
        "weighted by how often each bucket occurs",
        "passed in one fresh process",
        "padding",
        "A word.",
        "autobatch x",
    ):
        assert words in said or width == 40


def test_the_page_says_where_the_proof_ran() -> None:
    here = msgspec.structs.replace(result().proof, kind=ProofKind.THIS_PROCESS)
    page = answers.page(msgspec.structs.replace(result(), proof=here), width=100, color=False)
    assert "passed in this process, the one that trains" in " ".join(page.split())


def test_the_table_of_trials_tells_their_lengths() -> None:
    lines = answers.page(result(), width=100, color=False).splitlines()
    head = next(line for line in lines if "length" in line)
    row = next(line for line in lines if "proof passed" in line)
    assert head.index("length") < head.index("batch")
    assert row.split()[:2] == ["99", "400"]


def test_values_for_other_tools() -> None:
    tomllib = pytest.importorskip("tomllib")  # came with Python 3.11
    made = result()
    assert "BUCKET_BOUNDARIES=100,200" in answers.values(made, "env").splitlines()
    read = tomllib.loads(answers.values(made, "toml"))
    assert read["bucket_batch_sizes"] == [400, 200, 100]
    assert read["learning_rate"] == made.learning_rate
    assert "bucket_batch_sizes: [400, 200, 100]" in answers.values(made, "yaml").splitlines()
    assert answers.found(made) == "The batch sizes 400, 200, 100 were"
