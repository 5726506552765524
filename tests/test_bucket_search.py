"""The search over several lengths, against devices that follow a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import bucket_search
from autobatch.batch_search import Prove, Search, Try
from autobatch.bucket_proof import proof_shapes
from autobatch.bucket_search import BucketSearch, Found, ProveTogether, Stuck
from autobatch.evidence import Plan
from autobatch.records import Outcome, Trial
from autobatch.sizes import SizeSpace
from autobatch.units import MIB

LENGTHS = (60, 110, 190, 300, 500)
BUDGET = 1024 * MIB
RESIDENT = 40 * MIB
MOST_TRIALS = 100


def fitting(size: int, peak: int, **more: object) -> Trial:
    return Trial(
        batch_size=size,
        outcome=Outcome.FITS,
        peak_bytes=peak,
        needed_bytes=peak,
        step_peak_bytes=(peak, peak, peak),
        resident_bytes=RESIDENT,
        **more,
    )


@dataclass
class Device:
    """A model whose memory follows a formula, on a device with more room than the budget.

    Args:
        needs: Bytes of a step at a size and a length.
        dies: Whether a proof of all buckets dies in one, at a size and a length.
        room: What search trials may use, in budgets.
        mixed: What lengths that follow each other need by replays, over what each needs alone.
    """

    needs: Callable[[int, int], float]
    dies: Callable[[int, int], bool] = lambda size, length: False
    room: float = 4.0
    mixed: float = 1.0
    tried: list[tuple[int, int]] = field(default_factory=list)
    proofs: list[tuple[int, ...]] = field(default_factory=list)
    passed: list[tuple[int, ...]] = field(default_factory=list)

    def measure(self, state: BucketSearch, bucket: int, size: int) -> Trial:
        length = state.lengths[bucket]
        self.tried.append((length, size))
        assert len(self.tried) < MOST_TRIALS
        return self._trial(size, length, self.room * BUDGET, proof=False)

    def prove(self, state: BucketSearch, sizes: tuple[int, ...]) -> tuple[Trial, ...]:
        self.proofs.append(sizes)
        assert len(self.proofs) < MOST_TRIALS
        passed = []
        for size, length in zip(sizes, state.lengths, strict=True):
            trial = self._trial(size, length, BUDGET, proof=True)
            if trial.outcome is not Outcome.FITS or self.dies(size, length):
                return (
                    Trial(
                        batch_size=size,
                        sequence_length=length,
                        outcome=Outcome.OUT_OF_MEMORY,
                        proof=True,
                    ),
                )
            passed.append(trial)
        needed = int(self.mixed * max(trial.peak_bytes or 0 for trial in passed))
        if needed > BUDGET:
            close = {"outcome": Outcome.TOO_CLOSE, "needed_bytes": needed}
            return tuple(msgspec.structs.replace(trial, **close) for trial in passed)
        self.passed.append(sizes)
        return tuple(passed)

    def _trial(self, size: int, length: int, limit: float, *, proof: bool) -> Trial:
        peak = int(RESIDENT + self.needs(size, length))
        if peak > limit:
            return Trial(
                batch_size=size,
                sequence_length=length,
                outcome=Outcome.OUT_OF_MEMORY,
                proof=proof,
            )
        return fitting(size, peak, sequence_length=length, proof=proof)

    def best(self, length: int, target: float) -> int:
        low, high = 0, 1 << 40
        while high - low > 1:
            middle = (low + high) // 2
            fits = RESIDENT + self.needs(middle, length) <= target
            low, high = (middle, high) if fits else (low, middle)
        return low


def recurrent(size: int, length: int) -> float:
    return 3e6 + size * length * 3800


def attention(size: int, length: int) -> float:
    return 8e6 + size * (2e5 + length * 9000 + length * length * 40)


def search(
    device: Device, lengths: tuple[int, ...] = LENGTHS, *, by_tokens: bool = False, **plan: object
) -> tuple[BucketSearch, Found | Stuck]:
    settings = {
        "space": SizeSpace(),
        "budget_bytes": BUDGET,
        "limit_bytes": int(device.room * BUDGET),
    }
    one = Search(Plan(**{**settings, **plan}))
    state = BucketSearch(lengths, (one,) * len(lengths), by_tokens)
    return bucket_search.run(state, device.measure, device.prove)


@pytest.mark.parametrize("needs", [recurrent, attention])
def test_every_bucket_gets_nearly_all_that_fits_for_a_trial_or_two(
    needs: Callable[[int, int], float],
) -> None:
    device = Device(needs)
    state, end = search(device)
    assert isinstance(end, Found)
    for size, length, one in zip(end.batch_sizes, LENGTHS, state.searches, strict=True):
        best = device.best(length, one.target_bytes)
        assert 0.95 * best <= size <= best
    assert device.proofs == [end.batch_sizes]
    of_each = [sum(length == each for length, _ in device.tried) for each in LENGTHS]
    assert of_each[-1] <= 7  # searched from below
    assert sum(of_each[:-1]) <= 7  # led by it
    assert all(t.outcome is Outcome.FITS for t in state.trials)


def test_a_trial_near_a_led_buckets_answer_is_the_only_one_it_takes() -> None:
    def bent(size: int, length: int) -> float:  # between the lengths, 2 % off any model of them
        return attention(size, length) * (0.99 if length in (110, 300) else 1.01)

    device = Device(bent)
    state, end = search(device)
    assert isinstance(end, Found)
    of_each = {length: [b for n, b in device.tried if n == length] for length in LENGTHS}
    assert [len(of_each[length]) for length in LENGTHS[1:-1]] == [1, 1, 2]  # 300 comes before them
    for size, length, one in zip(end.batch_sizes, LENGTHS, state.searches, strict=True):
        best = device.best(length, one.target_bytes)
        assert 0.95 * best <= size <= best
    tried = set(device.tried)
    assert any(each not in tried for each in zip(LENGTHS, end.batch_sizes, strict=True))
    assert device.proofs == [end.batch_sizes]  # whether a trial had them or not


def test_an_exact_answer_takes_as_many_trials_as_it_needs() -> None:
    def stepped(size: int, length: int) -> float:  # a line through one trial would be off
        return attention(size, length) + 4e6 * (size // 8)

    device = Device(stepped)
    state, end = search(device, precision=0.0)
    assert isinstance(end, Found)
    for size, length, one in zip(end.batch_sizes, LENGTHS, state.searches, strict=True):
        assert size == device.best(length, one.target_bytes)


def test_five_buckets_cost_far_less_than_five_searches() -> None:
    device, alone = Device(attention), []
    search(device)
    for length in LENGTHS:
        one = Device(attention)
        search(one, (length,))
        alone.append(len(one.tried) + len(one.proofs))
    assert len(device.tried) + len(device.proofs) <= 0.6 * sum(alone)


def test_a_size_that_dies_among_the_others_is_lowered_and_all_are_proven_anew() -> None:
    plain = Device(attention)
    _, found = search(plain)
    assert isinstance(found, Found)
    edge = found.batch_sizes[2]
    device = Device(attention, dies=lambda size, length: length == 190 and size >= edge)
    state, end = search(device)
    assert isinstance(end, Found)
    assert 0.9 * edge <= end.batch_sizes[2] < edge
    others = [0, 1, 3, 4]
    assert [end.batch_sizes[i] for i in others] == [found.batch_sizes[i] for i in others]
    assert device.proofs[-1] == end.batch_sizes
    assert state.proven == end.batch_sizes


def test_what_is_returned_was_proven_together_whatever_dies() -> None:
    for seed in range(40):
        number = [seed]

        def dies(size: int, length: int, number: list[int] = number) -> bool:
            number[0] = (number[0] * 1103515245 + 12345) % 2**31
            return number[0] % 100 < 15

        device = Device(recurrent, dies=dies)
        _, end = search(device)
        if isinstance(end, Found):
            assert end.batch_sizes == device.passed[-1]


def test_tokens_a_batch_are_the_largest_number_that_all_buckets_can_have() -> None:
    device = Device(attention)
    _, end = search(device, by_tokens=True)
    assert isinstance(end, Found)
    state, free = search(Device(attention))
    assert isinstance(free, Found)
    tokens = state.most_tokens(free.batch_sizes)
    assert tokens == min(a * b for a, b in zip(free.batch_sizes, LENGTHS, strict=True))
    assert end.batch_sizes == tuple(tokens // length for length in LENGTHS)
    assert device.proofs == [end.batch_sizes]  # those themselves, for a zone is not monotonic
    assert end.batch_sizes[-1] == free.batch_sizes[-1]


def test_a_bucket_with_few_samples_does_not_keep_the_tokens_of_others_down() -> None:
    device = Device(recurrent)
    plan = Plan(SizeSpace(), budget_bytes=BUDGET, limit_bytes=4 * BUDGET)
    few = replace(plan, space=SizeSpace(maximum=3))
    searches = (*(Search(plan) for _ in LENGTHS[1:]), Search(few))
    state = BucketSearch(LENGTHS, searches, by_tokens=True)
    _, end = bucket_search.run(state, device.measure, device.prove)
    assert isinstance(end, Found)
    assert end.batch_sizes[-1] == 3
    tokens = max(a * b for a, b in zip(end.batch_sizes, LENGTHS, strict=True))
    assert end.batch_sizes[:-1] == tuple(tokens // length for length in LENGTHS[:-1])
    assert tokens >= 0.95 * (BUDGET - RESIDENT) / 3800 * (1 - 0.025)
    all_few = BucketSearch(LENGTHS, (Search(few),) * len(LENGTHS), by_tokens=True)
    _, end = bucket_search.run(all_few, device.measure, device.prove)
    assert isinstance(end, Found)
    assert end.batch_sizes == (3,) * len(LENGTHS)


def test_a_longest_sequence_that_does_not_fit_at_all_stops_the_search_at_once() -> None:
    device = Device(lambda size, length: size * length * length * 5000)
    state, end = search(device)
    assert isinstance(end, Stuck)
    assert state.lengths[end.bucket] == 500
    assert {length for length, _ in device.tried} == {500}
    assert device.proofs == []


def test_sizes_keep_to_what_is_allowed() -> None:
    device = Device(recurrent)
    _, end = search(device, space=SizeSpace(1, 256, multiple_of=8))
    assert isinstance(end, Found)
    assert all(size % 8 == 0 and size <= 256 for size in end.batch_sizes)
    assert end.batch_sizes[0] == 256


def test_a_device_with_no_room_beyond_the_budget_still_gives_an_answer() -> None:
    device = Device(attention, room=1.0)
    state, end = search(device)
    assert isinstance(end, Found)
    for size, length, one in zip(end.batch_sizes, LENGTHS, state.searches, strict=True):
        assert size >= 0.9 * device.best(length, one.target_bytes)
    assert sum(t.outcome is Outcome.OUT_OF_MEMORY for t in state.trials) <= 2


def test_hurry_settles_for_what_fits() -> None:
    device = Device(recurrent)
    one = Search(Plan(space=SizeSpace(), budget_bytes=BUDGET, limit_bytes=4 * BUDGET))
    state = BucketSearch(LENGTHS, (one,) * len(LENGTHS))
    state, end = bucket_search.run(state, device.measure, device.prove, enough=lambda: True)
    assert isinstance(end, Found)
    assert len(device.tried) <= len(LENGTHS) + 1
    assert device.proofs == [end.batch_sizes]


@given(
    st.floats(0, 2e7),
    st.floats(0, 1e6),
    st.floats(500, 50000),
    st.floats(0, 300),
    st.sampled_from([1.0, 4.0]),
)
def test_no_answer_exceeds_the_budget_and_none_is_far_below(
    fixed: float, sample: float, token: float, pair: float, room: float
) -> None:
    device = Device(lambda b, n: fixed + b * (sample + n * (token + n * pair)), room=room)
    state, end = search(device)
    if isinstance(end, Stuck):
        assert device.best(500, state.searches[-1].target_bytes) == 0
        return
    assert len(device.tried) <= 40
    for size, length, one in zip(end.batch_sizes, LENGTHS, state.searches, strict=True):
        best = device.best(length, one.target_bytes)
        assert size <= best
        assert size >= 0.9 * best - 1


@given(
    st.floats(0, 2e8),
    st.floats(0, 2e6),
    st.floats(0, 50000),
    st.floats(0, 300),
    st.floats(0, 20000),
    st.floats(0, 0.04),
)
def test_where_memory_must_not_run_out_no_trial_of_any_bucket_does(
    fixed: float, sample: float, token: float, pair: float, pairs: float, bump: float
) -> None:
    def needs(b: int, n: int) -> float:
        bumps = 1 + bump * (n in (110, 300))  # above any line through the lengths about them
        return fixed + bumps * b * (sample + n * (token + n * pair)) + b * b * pairs

    device = Device(needs, room=1.0)
    state, end = search(device, careful=True, space=SizeSpace(1, 5000))
    if isinstance(end, Stuck):
        assert {length for length, _ in device.tried} == {500}
        return
    assert all(t.outcome is Outcome.FITS for t in state.trials)
    assert device.proofs == [end.batch_sizes]
    assert set(zip(LENGTHS, end.batch_sizes, strict=True)) <= set(device.tried)
    for size, length, one in zip(end.batch_sizes, LENGTHS, state.searches, strict=True):
        best = min(5000, device.best(length, one.target_bytes))
        least = 0.85 if one.plan.start else 0.7  # alone, from one sample, it takes longer steps
        assert least * best - 1 <= size <= best


def test_where_memory_must_not_run_out_buckets_start_at_what_fitted_and_cost_less_for_it() -> None:
    device = Device(attention, room=1.0)
    _, end = search(device, careful=True)
    assert isinstance(end, Found)
    of_each = {length: [b for n, b in device.tried if n == length] for length in LENGTHS}
    assert [of_each[length][0] for length in (500, 60)] == [1, end.batch_sizes[-1]]
    for place, length in ((3, 300), (2, 190), (1, 110)):
        assert end.batch_sizes[place + 1] < of_each[length][0] < end.batch_sizes[place]
    alone = Device(attention, room=1.0)
    for length in LENGTHS:
        search(alone, (length,), careful=True)
    assert len(device.tried) <= 0.75 * len(alone.tried)


def test_where_memory_must_not_run_out_a_models_error_leads_to_no_larger_size() -> None:
    plan = Plan(SizeSpace(), budget_bytes=BUDGET, limit_bytes=BUDGET, careful=True, start=3)
    failed = Trial(batch_size=3, outcome=Outcome.FAILED)
    assert Search(plan).next() == Try(3)
    assert Search(plan, (failed,)).next() == Try(1)


def test_a_proof_goes_up_and_down_through_the_buckets_and_ends_in_smaller_batches() -> None:
    shapes = proof_shapes((90, 40, 1), (10, 20, 30), rounds=3)
    whole = [(90, 10), (40, 20), (1, 30)]
    assert list(shapes[:6]) == [*whole, *reversed(whole)]
    assert sorted(shapes[6:9]) == sorted(whole)
    assert shapes[9:] == ((45, 10), (20, 20))


def test_a_led_bucket_goes_no_farther_than_what_failed() -> None:
    """By the memory model 100 samples fit, somewhat fewer are tried; another limit than memory
    stops them at 97."""
    plan = Plan(SizeSpace(), budget_bytes=BUDGET, limit_bytes=4 * BUDGET, start=96)
    target = Search(plan).target_bytes
    each = (target - RESIDENT) // 100
    fits = fitting(96, RESIDENT + 96 * each)
    crashed = Trial(batch_size=97, outcome=Outcome.CRASHED)
    assert Search(plan, (fits,)).next() in (Prove(98), Prove(99))
    assert Search(plan, (fits, crashed)).next() in (Prove(96), Prove(97), Try(97))


def test_a_led_bucket_is_told_less_far_upwards_than_downwards() -> None:
    plan = Plan(SizeSpace(), budget_bytes=BUDGET, limit_bytes=4 * BUDGET, start=93)
    each = (Search(plan).target_bytes - RESIDENT) // 100
    first = fitting(93, RESIDENT + 93 * each)
    action = Search(plan, (first,)).next()
    assert isinstance(action, Try)
    assert 96 <= action.batch_size <= 100
    for size in (96, 102):
        assert isinstance(Search(plan, (fitting(size, RESIDENT + size * each),)).next(), Prove)


def test_a_led_bucket_that_went_beyond_the_budget_is_measured_again() -> None:
    """One trial over the budget, and a proof that dies, must not bring it down to one sample."""
    plan = Plan(SizeSpace(), budget_bytes=BUDGET, limit_bytes=4 * BUDGET, start=105)
    each = (Search(plan).target_bytes - RESIDENT) // 100

    def needing(size: int) -> Trial:
        return fitting(size, RESIDENT + size * each)

    assert needing(105).peak_bytes > BUDGET
    action = Search(plan, (needing(105),)).next()
    assert isinstance(action, Try)
    assert 90 <= action.batch_size <= 100
    after = Search(plan, (needing(105), needing(action.batch_size))).next()
    assert isinstance(after, Prove)
    assert 98 <= after.batch_size <= 100


def test_the_longest_bucket_too_is_proven_at_what_its_trials_tell() -> None:
    """970 samples were tried, and 1000 would fit: a few more are in the proof, which is anyway."""
    plan = Plan(SizeSpace(), budget_bytes=BUDGET, limit_bytes=4 * BUDGET)
    each = (Search(plan).target_bytes - RESIDENT) // 1000
    found = Search(plan)
    for size in (2, 30, 970):
        found = found.add(fitting(size, RESIDENT + size * each, sequence_length=500))
    assert found.next() == Prove(970)
    assert BucketSearch((500,), (found,)).next() == ProveTogether((990,))


def test_sizes_that_went_through_together_by_luck_are_all_lowered() -> None:
    alone = Device(attention)
    _, apart = search(alone)
    device = Device(attention, mixed=1.05)
    _, together = search(device)
    assert isinstance(apart, Found)
    assert isinstance(together, Found)
    assert device.passed == [together.batch_sizes]
    assert 2 <= len(device.proofs) <= 3
    for length, first, size in zip(LENGTHS, apart.batch_sizes, together.batch_sizes, strict=True):
        assert 0.9 * first <= size < first, length


def test_only_without_loops_and_where_memory_may_run_out_are_all_lengths_replayed() -> None:
    plan = Plan(SizeSpace(), budget_bytes=BUDGET, limit_bytes=4 * BUDGET)
    traced = fitting(8, 500 * MIB, sequence_length=500)
    looped = msgspec.structs.replace(traced, loops=True)
    untraced = msgspec.structs.replace(traced, needed_bytes=None)

    def replayable(plan: Plan, *trials: Trial) -> bool:
        return BucketSearch((100, 500), (Search(plan), Search(plan, trials))).is_replayable

    assert replayable(plan, untraced, traced)
    assert not replayable(plan, untraced)
    assert not replayable(plan, traced, looped)
    assert not replayable(replace(plan, careful=True), traced)
