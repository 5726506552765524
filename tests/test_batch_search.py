"""The search against devices that follow a script: what it answers, and what that costs."""

from __future__ import annotations

import itertools
import math
import os
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import msgspec
import pytest
from fake_device import MIB, Ending, Scenario, Thresholds
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autobatch.batch_search import MISLED, Done, GiveUp, Prove, Search, Try, run
from autobatch.errors import UsageError
from autobatch.evidence import (
    CAREFUL_HEADROOM,
    FEW_HEADROOM,
    LEAST_HEADROOM,
    MIXED_HEADROOM,
    MOST_HEADROOM,
    PEAKS_HEADROOM,
    Plan,
)
from autobatch.records import Outcome, Trial
from autobatch.sizes import SizeSpace

FITS, OOM, FAILED = Outcome.FITS, Outcome.OUT_OF_MEMORY, Outcome.FAILED
EXAMPLES = int(3000 * float(os.environ.get("AUTOBATCH_TEST_EXAMPLES", "1")))


def search(
    device: Thresholds, *, precision: float = 0.0, space: SizeSpace | None = None
) -> tuple[Search, Done | GiveUp]:
    plan = Plan(space=space or SizeSpace(maximum=1000), precision=precision)
    return run(plan, device.try_size, device.prove)


def plain_cost(capacity: int, first: int = 1) -> int:
    """Trials of doubling and bisection as anyone would write them, and one proof."""
    trials, low, high = 0, 0, first
    while True:
        trials += 1
        if high > capacity:
            break
        low, high = high, 2 * high
    while low and high - low > 1:
        trials += 1
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= capacity else (low, middle)
    return trials + 1


# -- exact, and cheap ----------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 7, 64, 999])
def test_search_is_exact_and_cheap(capacity: int) -> None:
    device = Thresholds.capacity(capacity)
    _, end = search(device)
    if capacity:
        assert end == Done(capacity)
        assert device.proofs == [capacity]
    else:
        assert isinstance(end, GiveUp)
        assert (end.last.batch_size, end.last.outcome) == (1, OOM)
        assert device.proofs == []
    assert len(device.tried) <= 2 * max(1, capacity).bit_length() + 1


def test_search_is_exact_at_every_capacity() -> None:
    for capacity in range(1, 300):
        device = Thresholds.capacity(capacity)
        result, end = search(device)
        assert end == Done(capacity)
        assert len(device.tried) <= result.allowance(capacity)


@pytest.mark.parametrize("octave", [1, 2, 4, 8, 64, 512])
def test_allowance_is_what_plain_doubling_and_bisection_cost_at_worst(octave: int) -> None:
    plain = Search(Plan(SizeSpace(maximum=1 << 20), precision=0.0))
    worst = max(plain_cost(capacity) for capacity in range(octave, 2 * octave))
    for capacity in range(octave, 2 * octave):
        assert plain.allowance(capacity) == worst


def test_precision_saves_trials_and_costs_no_more_than_it_says() -> None:
    for capacity in range(1, 2000, 7):
        coarse, exact = Thresholds.capacity(capacity), Thresholds.capacity(capacity)
        space = SizeSpace(maximum=1 << 20)
        result, end = search(coarse, precision=0.05, space=space)
        search(exact, space=space)
        assert isinstance(end, Done)
        assert 0.95 * capacity - 1 <= end.batch_size <= capacity
        assert len(coarse.tried) <= min(len(exact.tried), result.allowance(end.batch_size))
    assert len(coarse.tried) <= len(exact.tried) - 4


@pytest.mark.parametrize(
    ("space", "answer"),
    [
        (SizeSpace(maximum=50), 50),
        (SizeSpace(minimum=20), 100),
        (SizeSpace(multiple_of=8), 96),
        (SizeSpace(power_of_two=True), 64),
        (SizeSpace(power_of_two=True, multiple_of=16, maximum=1000), 64),
        (SizeSpace(minimum=100, maximum=100), 100),
        (SizeSpace(minimum=97, maximum=99, multiple_of=7), 98),
        (SizeSpace(maximum=1), 1),
    ],
    ids=str,
)
def test_sizes_outside_of_the_space_are_never_tried(space: SizeSpace, answer: int) -> None:
    device = Thresholds.capacity(100)
    assert search(device, space=space)[1] == Done(answer)
    assert all(space.at_most(t.batch_size) == t.batch_size for t in device.tried)


def test_a_space_above_the_capacity_gives_up() -> None:
    device = Thresholds.capacity(100)
    _, end = search(device, space=SizeSpace(minimum=101))
    assert isinstance(end, GiveUp)
    assert end.last.batch_size == 101
    assert len(device.tried) == 2


# -- whatever the memory curve -------------------------------------------------------------------


T = TypeVar("T")


def any_scenario(
    pick: Callable[[list[T]], T], between: Callable[[float, float], float]
) -> Scenario:
    """Any curve, device and wish; drawn by Hypothesis, which shrinks it, or by `random`, fast."""
    power_of_two = pick([False, False, False, True])
    space = SizeSpace(
        minimum=pick([1, 1, 1, 3, 16]),
        maximum=pick([40, 200, 5000, 10**6]),
        multiple_of=pick([1, 8] if power_of_two else [1, 1, 1, 6, 8]),
        power_of_two=power_of_two,
    )
    return Scenario(
        kind=pick(["linear", "kinked", "stepped", "quadratic", "flat", "bumpy"]),
        resident_mib=between(0, 400),
        mib_per_sample=10 ** between(-3, 2.5),
        bend=pick([1, 3, 7, 30, 64, 200, 1000, 3000]),
        factor=pick([0.0, 0.1, 0.5, 1.0, 3.0, 6.0]),
        budget_mib=pick([256, 512, 1024, 8000]),
        room=pick([1.0, 1.3, 2.0, 4.0]),
        noise=pick([0.0, 0.0, 0.02, 0.05, 0.15]),
        zone=pick([0.3, 0.7, 0.9]),
        deaths=pick([0.0, 0.0, 0.2, 0.6, 1.0]),
        precision=pick([0.0, 0.02, 0.1]),
        headroom_mib=pick([None, 0, 20]),
        usual_size=pick([None, 32]),
        measured=pick([True, True, True, False]),
        foretells=pick([None, None, 0.0, 0.05, 0.4, 3.0]),
        space=space,
        seed=int(between(0, 2**32)),
    )


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return any_scenario(
        lambda choices: draw(st.sampled_from(choices)), lambda low, high: draw(st.floats(low, high))
    )


# Found on the way: the headroom grew with the noise and took back what had fitted, and the
# search then closed in on the edge one by one.
CREEPING = Scenario(
    kind="kinked",
    resident_mib=126.0,
    mib_per_sample=0.0018,
    bend=3000,
    factor=1.0,
    budget_mib=1024,
    noise=0.05,
    precision=0.0,
    space=SizeSpace(maximum=10**6),
    seed=1115,
)


@settings(max_examples=EXAMPLES // 8, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios())
@example(CREEPING)
def test_any_search_ends_within_its_allowance_with_a_size_that_was_proven(
    scenario: Scenario,
) -> None:
    check(scenario.run())


def test_thousands_of_searches_end_within_their_allowance_with_a_size_that_was_proven() -> None:
    answers = 0
    for seed in range(EXAMPLES):
        drawn = random.Random(seed)
        ending = any_scenario(drawn.choice, drawn.uniform).run()
        check(ending)
        answers += isinstance(ending.end, Done)
    assert answers > EXAMPLES / 2  # else the scenarios would say little


def check(ending: Ending) -> None:
    """What must hold of any search. That it ends, the device sees to."""
    scenario = ending.scenario
    space, reached = scenario.space, max(ending.reached, scenario.space.first)
    # What is foretold may mislead so often.
    more = 0 if scenario.foretells is None else MISLED
    assert ending.trials <= ending.search.allowance(reached) + more, (ending.story, scenario)
    assert all(space.at_most(t.batch_size) == t.batch_size for t in ending.search.trials)
    if isinstance(ending.end, Done):
        passed = [t.batch_size for t in ending.search.trials if t.proof and t.outcome is FITS]
        assert ending.answer in passed, ending.story
        assert space.minimum <= ending.answer <= space.maximum
        failed = [t.batch_size for t in ending.search.trials if t.proof and t.outcome is not FITS]
        assert ending.answer < min(failed, default=math.inf), ending.story
    else:
        assert ending.end.last in ending.search.trials
    if scenario.monotonic:
        check_against_the_truth(ending)


def check_against_the_truth(ending: Ending) -> None:
    """What must hold where a size that fits always fits, and so does every smaller one."""
    scenario, best = ending.scenario, ending.best
    assert (ending.answer > 0) == (best > 0), ending.story
    assert ending.answer <= best, ending.story
    if best and scenario.foretells is None:
        assert ending.trials <= ending.search.allowance(ending.answer), ending.story
    if scenario.precision == 0:
        assert ending.answer == best, ending.story


# -- room to look beyond the budget --------------------------------------------------------------


def smooth(seed: int, kind: str) -> Scenario:
    """A smooth curve that the device has room to look beyond, and no size below is refused."""
    drawn = random.Random(seed)
    return Scenario(
        kind=kind,
        resident_mib=drawn.uniform(0, 200),
        mib_per_sample=10 ** drawn.uniform(-2, 1),
        bend=drawn.choice([3, 30, 300, 3000]),
        factor=drawn.choice([0.1, 1.0, 6.0]),
        budget_mib=drawn.choice([512, 1024, 8000]),
        room=drawn.choice([2.0, 4.0]),
        noise=drawn.choice([0.0, 0.02, 0.05]),
        usual_size=drawn.choice([None, 32]),
        space=SizeSpace(),
        seed=seed,
    )


def endings(kind: str, count: int) -> list[Ending]:
    found = [smooth(seed, kind).run() for seed in range(count)]
    # Where the truth is a handful of samples the first doubling already runs into the limit.
    return [each for each in found if each.best >= 8]


def test_a_straight_line_with_room_never_runs_out_of_memory() -> None:
    ended = endings("linear", 400)
    assert len(ended) > 300
    for each in ended:
        assert each.misses == 0, each.story
        # noise only adds, so the truth without it is an upper bound
        assert each.answer >= 0.9 * each.best - 1, (each.best, each.story)
        # two or three trials to learn the line, up to three at its end, a proof
        assert each.trials <= 8, each.story
    assert statistics.median(each.answer / each.best for each in ended) >= 0.95


def test_a_straight_line_without_room_never_runs_out_of_memory() -> None:
    """As on a card that has no more than the budget: doubling gives way to what is foretold."""
    ended = [replace(smooth(seed, "linear"), room=1.0).run() for seed in range(400)]
    for each in ended:
        assert each.misses == 0 or each.best < 8, each.story
        assert each.answer >= 0.9 * each.best - 1, (each.best, each.story)
    assert statistics.fmean(each.trials for each in ended) < 6.7


def steady(
    size: int, peak: int, need: int | None = None, *, resident: int, foretold: int | None = None
) -> Trial:
    """A search trial whose steps all need the same, in MiB."""
    return Trial(
        batch_size=size,
        outcome=FITS,
        peak_bytes=peak * MIB,
        step_peak_bytes=(peak * MIB,) * 4,
        resident_bytes=resident * MIB,
        needed_bytes=None if need is None else need * MIB,
        foretold=foretold,
    )


def next_after(*measured: tuple[int, int]) -> Prove | Try:
    """What is next after trials of these sizes, each with its peak in MiB; there is 1 GiB."""
    plan = Plan(SizeSpace(), budget_bytes=1024 * MIB, limit_bytes=1024 * MIB)
    found = Search(plan)
    for size, peak in measured:
        found = found.add(steady(size, peak, resident=200))
    action = found.next()
    assert isinstance(action, (Try, Prove))
    return action


def test_no_doubling_where_it_is_foretold_to_run_out_of_memory() -> None:
    """A ResNet50 that XLA compiles: fixed costs, a jump, and no trials to spare."""
    known = [(2, 370), (4, 370), (8, 383), (18, 447), (34, 547), (53, 671)]
    after = next_after(*known, (64, 871))
    assert isinstance(after, Try)
    assert 64 < after.batch_size < 80


def test_doubling_where_memory_grew_by_far_less_than_foretold() -> None:
    """What was measured below a jump tells nothing of what lies above it."""
    known = [(2, 386), (4, 387), (8, 388), (16, 389), (32, 900)]
    after = next_after(*known)
    assert isinstance(after, Try)
    assert 32 < after.batch_size < 40
    assert next_after(*known, (35, 901)) == Try(70)


def test_a_curve_with_room_is_followed_to_its_edge() -> None:
    ended = endings("quadratic", 400)
    assert len(ended) > 250
    for each in ended:
        assert each.misses <= 2, each.story
        assert each.answer >= 0.9 * each.best - 1, (each.best, each.story)
    # A quarter miss once: two sizes far apart show less curvature than there is at the larger one.
    assert sum(each.misses == 0 for each in ended) >= 0.7 * len(ended)


def test_measured_peaks_are_cheaper_than_yes_and_no() -> None:
    told, blind = [], []
    for seed in range(100):
        scenario = replace(smooth(seed, "linear"), noise=0.0)
        told.append(scenario.run().trials)
        blind.append(replace(scenario, measured=False).run().trials)
    assert statistics.median(told) <= 0.6 * statistics.median(blind)


def test_the_tutorials_models_at_their_budgets() -> None:
    """Curves like those of scripts/examples: hardly a miss, few trials, close to the edge."""
    for scenario in (
        Scenario(resident_mib=13, mib_per_sample=5.3, budget_mib=512),
        Scenario(resident_mib=70, mib_per_sample=0.3, bend=40, factor=1.9, kind="kinked",
                 budget_mib=256),
        Scenario(resident_mib=70, mib_per_sample=0.57, budget_mib=1024),
        Scenario(resident_mib=340, mib_per_sample=8, budget_mib=768),
        Scenario(resident_mib=50, mib_per_sample=0.1, bend=50, factor=1.0, kind="quadratic",
                 budget_mib=1024),
    ):  # fmt: skip
        for seed in range(5):
            ending = replace(scenario, room=4.0, noise=0.04, seed=seed).run()
            assert ending.misses <= (scenario.kind == "quadratic"), ending.story
            assert ending.trials <= 8, ending.story
            assert ending.answer >= 0.9 * ending.best, (ending.best, ending.story)


# -- headroom ------------------------------------------------------------------------------------


def test_the_headroom_follows_the_spread_between_its_bounds() -> None:
    still = Scenario(room=4.0, noise=0.0).run().search
    loose = Scenario(room=4.0, noise=0.07).run().search
    wild = Scenario(room=4.0, noise=0.5).run().search
    budget = 512 * MIB
    assert still.headroom_bytes == int(PEAKS_HEADROOM * budget)
    assert PEAKS_HEADROOM * budget < loose.headroom_bytes < MOST_HEADROOM * budget
    assert wild.headroom_bytes == int(MOST_HEADROOM * budget)


@pytest.mark.parametrize("room", [1.0, 4.0])
def test_the_headroom_asked_for_is_kept_free(room: float) -> None:
    for headroom in (0, 20, 100):
        ending = Scenario(headroom_mib=headroom, room=room, precision=0.0).run()
        assert ending.search.headroom_bytes == headroom * MIB
        assert ending.answer == 512 - headroom - 50


def test_a_size_that_fits_only_into_the_headroom_is_no_answer() -> None:
    # 500 MiB at any size: within the budget, and within the headroom
    ending = Scenario(kind="flat", resident_mib=500, headroom_mib=20).run()
    assert isinstance(ending.end, GiveUp)
    assert ending.end.last.outcome is FITS
    assert ending.end.last.peak_bytes == 500 * MIB


# -- outcomes that are not memory ----------------------------------------------------------------


@pytest.mark.parametrize("smallest", [2, 3, 8])
def test_an_error_at_sizes_too_small_for_the_model_is_no_limit(smallest: int) -> None:
    """A loss that needs two samples, say: the sizes begin where it goes through."""

    def ends(batch_size: int) -> Outcome:
        return FAILED if batch_size < smallest else FITS if batch_size <= 100 else OOM

    device = Thresholds(ends)
    assert search(device)[1] == Done(100)


def test_the_scripts_own_size_tells_whether_the_model_works_at_all() -> None:
    device = Thresholds(lambda b: FAILED if b < 30 else FITS if b <= 100 else OOM)
    plan = Plan(SizeSpace(maximum=1000), precision=0.0, usual_size=32)
    _, end = run(plan, device.try_size, device.prove)
    assert end == Done(100)
    assert device.sizes[:2] == [2, 32]


def test_a_size_baked_into_a_model_is_found_though_one_sample_is_stretched_to_it() -> None:
    device = Thresholds(lambda b: FITS if b in (1, 24) else FAILED)
    plan = Plan(SizeSpace(maximum=1000), usual_size=24)
    _, end = run(plan, device.try_size, device.prove)
    assert end == Done(24)
    assert device.sizes == [2, 24, 48, 25]


def test_sizes_between_a_models_own_error_and_the_memorys_end_are_looked_for() -> None:
    device = Thresholds(lambda b: FAILED if b < 5 else FITS if b <= 21 else OOM)
    plan = Plan(SizeSpace(maximum=1000), precision=0.0, usual_size=64)
    _, end = run(plan, device.try_size, device.prove)
    assert end == Done(21)
    assert device.sizes[:3] == [2, 64, 33]


def test_a_baked_size_that_is_too_large_is_told_with_its_own_trial() -> None:
    device = Thresholds(lambda b: OOM if b >= 24 else FAILED)
    plan = Plan(SizeSpace(maximum=1000), usual_size=24)
    found, end = run(plan, device.try_size, device.prove)
    assert end == GiveUp(found.trials[1])
    assert (found.trials[1].batch_size, found.trials[1].outcome) == (24, OOM)
    assert device.sizes == [2, 24, 13, 18, 21, 22, 23]


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.CRASHED,
        Outcome.TIMED_OUT,
        Outcome.FAILED,
        Outcome.HOST_OUT_OF_MEMORY,
        Outcome.OUT_OF_MEMORY,
    ],
)
@pytest.mark.parametrize("precision", [0.0, 0.02])
def test_whatever_stops_larger_sizes_the_largest_proven_one_is_the_answer(
    outcome: Outcome, precision: float
) -> None:
    device = Thresholds(lambda b: FITS if b < 37 else outcome)
    result, end = search(device, precision=precision)
    assert end == Done(36)
    assert device.proofs == [36]
    assert result.fails == 37


def test_a_model_that_never_works_gives_up_on_the_first_evidence() -> None:
    device = Thresholds(lambda _: FAILED)
    _, end = search(device)
    assert end == GiveUp(device.tried[0])
    assert device.sizes == [2, 8, 1]
    assert device.proofs == []


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.TIMED_OUT, OOM])
def test_nothing_fits(outcome: Outcome) -> None:
    device = Thresholds(lambda _: outcome)
    _, end = search(device)
    assert end == GiveUp(device.tried[-1])
    assert device.sizes == [2, 1]


# -- what a proof begins with --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "sample_mib", "room", "expected"),
    [
        (24, 40, 4.0, Try(25)),
        (24, 40, 1.0, Prove(24)),  # search trials have no more memory than the budget
        (12, 80, 4.0, Prove(12)),  # one more would need far too much
        (96, 10, 4.0, Prove(96)),  # one more is little
    ],
)
def test_of_few_samples_one_more_is_worth_a_trial(
    size: int, sample_mib: int, room: float, expected: Try | Prove
) -> None:
    """The size leaves 5 of the MiB there are to use, where a sample more needs 40, 80 or 10."""
    budget = 1000 * MIB
    plan = Plan(SizeSpace(), budget_bytes=budget, limit_bytes=int(room * budget))
    resident = Search(plan).target_bytes - 5 * MIB - size * sample_mib * MIB

    def needing(batch_size: int) -> Trial:
        needed = int(resident + batch_size * sample_mib * MIB)
        return Trial(
            batch_size=batch_size,
            outcome=FITS,
            peak_bytes=needed,
            needed_bytes=needed,
            step_peak_bytes=(needed,) * 3,
            resident_bytes=int(resident),
        )

    trials = tuple(map(needing, (2, size // 3, size)))
    assert Search(plan, trials).next() == expected


def test_a_proof_begins_with_a_size_larger_by_the_margin_where_training_could_have_it() -> None:
    plan = Plan(SizeSpace(), budget_bytes=1000 * MIB)
    nothing = Search(plan)
    assert [nothing.beyond(size) for size in (1, 39, 40, 200, 1000)] == [None, None, 41, 205, 1025]
    bounds = {
        "maximum": (SizeSpace(maximum=202), 202),
        "answer is the maximum": (SizeSpace(maximum=200), None),
        "multiples": (SizeSpace(multiple_of=4), 204),
        "powers of two": (SizeSpace(power_of_two=True), None),
        "fixed": (SizeSpace(minimum=200, maximum=200), None),
    }
    for name, (space, expected) in bounds.items():
        assert Search(replace(plan, space=space)).beyond(200) == expected, name
    for other in ({"careful": True}, {"headroom_bytes": 0}, {"budget_bytes": None}):
        assert Search(replace(plan, **other)).beyond(200) is None, other
    # Of a quadratic loss half as much more is as many bytes more.
    for size, need, expected in ((50, 125, 205), (50, 31, 202)):
        measured = (
            Trial(batch_size=n, outcome=FITS, peak_bytes=p) for n, p in ((size, need), (200, 500))
        )
        assert Search(plan, tuple(measured)).beyond(200) == expected


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        (Trial(batch_size=204, outcome=OOM), 203),
        (Trial(batch_size=204, outcome=FAILED), 203),
        (Trial(batch_size=201, outcome=Outcome.CRASHED), None),
        (Trial(batch_size=204, outcome=FITS, peak_bytes=1001 * MIB), 203),
        (Trial(batch_size=204, outcome=FITS, peak_bytes=999 * MIB), 205),  # in the headroom
        (Trial(batch_size=204, outcome=OOM, proof=True), 203),
        (Trial(batch_size=199, outcome=OOM), 205),
    ],
)
def test_what_was_seen_not_to_go_through_is_not_where_a_proof_begins(
    trial: Trial, expected: int | None
) -> None:
    plan = Plan(SizeSpace(), budget_bytes=1000 * MIB)
    assert Search(plan, (trial,)).beyond(200) == expected


# -- what trials foretell ------------------------------------------------------------------------


def told(*measured: tuple[int, int, int | None], room: float = 4.0, **plan: object) -> Search:
    """The search after trials of these sizes, each with what it needs in MiB and the size that it
    foretells; there is 1 GiB, and so many times as much for trials."""
    limit = int(room * 1024 * MIB)
    found = Search(Plan(SizeSpace(), budget_bytes=1024 * MIB, limit_bytes=limit, **plan))
    for size, need, foretold in measured:
        found = found.add(steady(size, need, need, resident=50, foretold=foretold))
    return found


LEARNT = ((2, 60, None), (15, 65, 900))


def test_what_is_foretold_is_tried_at_once_and_proven_after_that() -> None:
    assert told(*LEARNT).next() == Try(891)  # 1 % below, as a proof begins with more
    assert told((2, 60, None), (3, 65, 9)).next() == Try(9)  # of few samples no share
    assert told(*LEARNT, (891, 990, 905)).next() == Prove(895)
    over = told(*LEARNT, (891, 1010, 905))  # what is too large tells less: once more
    assert over.next() == Try(876)
    assert over.add(steady(876, 970, 970, resident=50)).next() == Prove(887)
    upwards = told(*LEARNT, (891, 960, 930)).next()  # more than was tried by a few per cent
    assert isinstance(upwards, Try)
    assert 912 <= upwards.batch_size <= 930


def test_what_a_trace_tells_from_near_is_proven_without_a_trial_of_it() -> None:
    """713 samples were tried, and by what they need 731 would fit."""
    once = told((2, 60, None), (15, 65, 720), (713, 980, None))
    assert once.next() == Prove(723)
    assert replace(once, plan=replace(once.plan, careful=True)).next() != Prove(723)
    died = once.add(Trial(batch_size=723, outcome=OOM, proof=True)).next()
    assert isinstance(died, Prove)
    assert died.batch_size < 705


def test_what_is_foretold_and_the_first_trial_of_it_are_each_others_only_witness() -> None:
    """A U-Net's 4 samples foretold 77; 76 needed 15 % too much in one layout, and train."""
    apart = told((2, 340, None), (4, 350, 77), (76, 1150, None))
    assert apart.estimate == 69  # 63 by what the trial needs
    assert apart.next() == Try(69)
    assert apart.add(steady(69, 930, 930, resident=60)).next() == Prove(74)
    wrong = told((2, 340, None), (4, 350, 77), (76, 1400, None))
    assert (wrong.estimate or 0) < 55
    once = told((2, 340, None), (4, 350, 77), (70, 1150, None), (76, 1150, None))
    assert (once.estimate or 0) < 60


def test_a_proof_that_would_need_too_much_leads_to_what_all_traces_tell_together() -> None:
    """By the trial 905 samples do, by the proof's replays 882: 894 on an average."""
    once = told(*LEARNT, (891, 988, 905))
    assert once.next() == Prove(897)
    close = steady(897, 1019, 1019, resident=50)
    again = once.add(msgspec.structs.replace(close, outcome=Outcome.TOO_CLOSE, proof=True)).next()
    assert again == Prove(885)
    far = steady(897, 1200, 1200, resident=50)
    again = once.add(msgspec.structs.replace(far, outcome=Outcome.TOO_CLOSE, proof=True)).next()
    assert again == Prove(852)  # no more than a step at once


def test_near_the_edge_what_trials_need_counts_on_an_average() -> None:
    # 882 samples need 980 MiB, or 1010: by the one 904 fit, by the other 876.
    assert told(*LEARNT, (882, 980, None)).fits == 882
    assert told(*LEARNT, (882, 1010, None)).fits == 15
    both = told(*LEARNT, (882, 980, None), (882, 1010, None))
    assert (both.estimate, both.fits, both.fails) == (890, 882, None)
    assert both.next() == Prove(881)
    more = told(*LEARNT, (882, 1000, None), (882, 1020, None))
    assert (more.fits, more.fails, more.next()) == (15, 882, Prove(868))
    # By the larger one's word 859 need what there is, by the other's 909.
    assert told(*LEARNT, (882, 1030, None), (840, 930, None)).estimate == 883
    # What its own need says goes before what it foretells, and before what others do.
    assert told(*LEARNT, (882, 940, 1400)).estimate == told(*LEARNT, (882, 940, None)).estimate
    assert told(*LEARNT, (882, 850, 1400)).estimate == 1400
    # What is in use outside of steps does not scatter.
    high = msgspec.structs.replace(both.trials[-1], other_peak_bytes=1100 * MIB)
    assert both.add(high).fails == 882


def test_what_trials_have_shown_to_be_wrong_is_foretold_no_more() -> None:
    wrong = told(*LEARNT, (882, 1500, None))
    assert wrong.estimate is not None
    assert wrong.estimate < 700  # between what was measured
    low = told((2, 60, None), (15, 65, 100), (98, 300, 400))
    assert low.next() == Try(396)


@pytest.mark.parametrize(
    ("teller", "room", "expected"),
    [
        ((15, 65, 900), 1.0, 240),  # far off: sixteen times
        ((100, 300, 900), 1.0, 765),  # 85 % of it
        ((300, 500, 900), 1.0, 891),  # near enough
        ((100, 300, 900), 1.5, 891),  # there is room to be wrong
    ],
)
def test_where_a_size_too_large_would_run_out_of_memory_a_far_foresight_is_not_relied_on(
    teller: tuple[int, int, int], room: float, expected: int
) -> None:
    assert told((2, 60, None), teller, room=room).next() == Try(expected)


@pytest.mark.parametrize("room", [1.0, 4.0])
def test_where_a_compiled_program_would_die_in_a_used_process_it_is_proven_at_once(
    room: float,
) -> None:
    known = told((2, 60, None), (15, 65, 900), room=room)
    compiled = msgspec.structs.replace(known.trials[-1], compiled=True)
    far = replace(known, trials=(known.trials[0], compiled))
    assert far.next() == Try(240 if room == 1.0 else 891)
    near = replace(far, trials=(*far.trials, msgspec.structs.replace(compiled, batch_size=300)))
    assert near.next() == (Prove(891) if room == 1.0 else Try(891))
    proven = near.add(Trial(batch_size=891, outcome=FITS, proof=True))
    assert room != 1.0 or proven.next() == Done(891)
    died = near.add(Trial(batch_size=891, outcome=OOM, proof=True))
    assert died.next() == Prove(846)
    exact = replace(near, plan=replace(near.plan, precision=0.0))
    assert isinstance(exact.next(), Try)
    half = replace(far, trials=(far.trials[0], msgspec.structs.replace(compiled, batch_size=60)))
    assert half.next() == Try(450 if room == 1.0 else 891)


def test_a_foresight_goes_before_the_certainty_of_doubling_until_it_misled_often() -> None:
    """From 4 samples on, 90 were too many; what they foretell is no guess of a few samples."""
    first = told((2, 60, None), (4, 70, 90), (88, 1200, 75))
    assert first.next() == Try(75)
    missed = (88, 1200, 75), (73, 1095, 70), (68, 1090, 66), (64, 1085, 63)
    again = told((2, 60, None), (4, 70, 90), *missed)
    after = again.next()
    assert isinstance(after, Try)
    assert after.batch_size < 60


def test_what_a_trial_needs_counts_where_it_is_foretold_though_it_needs_much_less() -> None:
    """An LSTM's 15 samples foretold 218; at 213 it needed 408 and 442 of 499 MiB, and 245 fit."""
    once = told((2, 60, None), (15, 70, 450), (441, 800, None))
    again = once.next()
    assert isinstance(again, Try)
    assert 520 < again.batch_size < 560
    other = told((2, 60, None), (15, 70, 450), (300, 600, None))
    assert other.estimate == 450


@pytest.mark.parametrize("room", [1.0, 4.0])
def test_of_few_samples_one_more_is_tried_where_traces_tell(room: float) -> None:
    """A transformer's 25 samples of length 500 foretold 25.8; 26 needed 972 MiB, and 28 trained."""
    measured = (2, 92, None), (7, 290, None), (14, 553, None), (25, 967, None)
    found = told(*measured, room=room)
    assert found.next() == Try(26)
    assert told(*measured, (26, 972, None), room=room).next() == Try(27)
    enough = told(*measured, (26, 972, None), (27, 1005, None), room=room)
    assert enough.next() == Prove(26)
    assert told(*measured, (26, 1005, None), room=room).next() == Prove(25)


def test_an_exact_answer_is_not_taken_from_what_is_foretold() -> None:
    exact = told(*LEARNT, (891, 990, 905), (891, 995, 897), precision=0.0)
    assert isinstance(exact.next(), Try)


def test_searches_that_foretell_take_few_trials_and_stay_within_the_budget() -> None:
    for kind in ("linear", "quadratic", "kinked"):
        ended = [replace(smooth(seed, kind), foretells=0.02).run() for seed in range(200)]
        ended = [each for each in ended if each.best >= 50]
        assert len(ended) > 50
        assert statistics.fmean(each.trials for each in ended) < 4.7, kind
        assert all(each.answer <= 1.01 * each.best for each in ended)
        assert all(each.answer >= 0.85 * each.best for each in ended)
        assert statistics.fmean(each.answer / each.best for each in ended) > 0.96
        assert not any(each.misses for each in ended)


# -- proofs that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("safe", [99, 97, 95, 90, 60, 20, 3])
@pytest.mark.parametrize("precision", [0.0, 0.02])
@pytest.mark.parametrize("failed", [OOM, Outcome.TOO_CLOSE])
def test_a_failed_proof_steps_down_to_a_size_that_passes(
    safe: int, precision: float, failed: Outcome
) -> None:
    device = Thresholds(
        lambda b: FITS if b <= 100 else OOM, lambda b: FITS if b <= safe else failed
    )
    result, end = search(device, precision=precision)
    assert isinstance(end, Done)
    assert end.batch_size <= safe
    assert end.batch_size in device.proofs
    assert len(device.tried) <= result.allowance(100)


def test_steps_down_grow_and_close_in_from_below() -> None:
    device = Thresholds(lambda b: FITS, lambda b: FITS if b <= 920 else OOM)
    _, end = search(device, precision=0.02)
    # by 5 %, then 10 %; then the middle of what passed and what did not, but not close to that
    assert device.proofs == [1000, 950, 855, 903]
    assert end == Done(903)


def test_a_users_error_in_a_proof_is_tried_at_the_smallest_size_at_once() -> None:
    device = Thresholds(lambda b: FITS, lambda b: FAILED)
    _, end = search(device, precision=0.02)
    assert isinstance(end, GiveUp)
    assert end.last.outcome is FAILED
    assert end.last.proof
    assert device.proofs == [1000, 1]


def test_an_error_in_proofs_of_large_sizes_alone_still_gives_an_answer() -> None:
    device = Thresholds(lambda b: FITS, lambda b: FITS if b <= 500 else FAILED)
    _, end = search(device, precision=0.02)
    assert isinstance(end, Done)
    assert 250 <= end.batch_size <= 500
    assert device.proofs[:2] == [1000, 1]


def test_proofs_that_all_run_out_of_memory_give_up() -> None:
    device = Thresholds(lambda b: FITS if b <= 64 else OOM, lambda b: OOM)
    result, end = search(device, precision=0.02)
    assert end == GiveUp(device.tried[-1])
    assert device.proofs[-1] == 1
    assert len(device.tried) <= result.allowance(64)


def test_what_fits_is_proven_before_it_is_given_up() -> None:
    """A failed proof never ends a search while a size that fitted has not been proven."""
    gave_up = []
    for seed in range(800):
        drawn = random.Random(seed)
        scenario = Scenario(
            kind=drawn.choice(["linear", "kinked", "stepped"]),
            resident_mib=drawn.uniform(0, 300),
            mib_per_sample=10 ** drawn.uniform(-1, 2),
            bend=drawn.choice([1, 7, 64, 300]),
            budget_mib=512,
            room=drawn.choice([1.0, 2.0]),
            zone=0.7,
            deaths=1.0,
            precision=0.02,  # an exact answer may take the trials that a second proof would need
            measured=drawn.random() < 0.7,
            space=SizeSpace(drawn.choice([1, 16]), 5000, drawn.choice([1, 8])),
            seed=seed,
        )
        ending = scenario.run()
        proofs = {t.batch_size for t in ending.search.trials if t.proof}
        if isinstance(ending.end, GiveUp) and proofs and scenario.space.first not in proofs:
            gave_up.append(f"{ending.story} | {scenario}")
    assert not gave_up, f"{len(gave_up)} of 800, such as {min(gave_up, key=len)}"


# -- what drives it ------------------------------------------------------------------------------


def test_each_step_follows_from_the_trials_alone() -> None:
    """The search is a value: the same trials give the same next step, and adding leaves it be."""
    ending = Scenario(room=4.0, noise=0.04, seed=3).run()
    again = Search(ending.scenario.plan())
    for trial in ending.search.trials:
        action, before = again.next(), again.trials
        assert action == Search(again.plan, before).next()
        assert isinstance(action, Prove if trial.proof else Try)
        assert action.batch_size == trial.batch_size
        grown = again.add(trial)
        assert again.trials == before
        again = grown
    assert again.next() == ending.end


def test_the_search_is_told_after_each_trial() -> None:
    device = Thresholds.capacity(10)
    seen: list[int] = []
    result, _ = run(
        Plan(SizeSpace(maximum=1000), precision=0.0),
        device.try_size,
        device.prove,
        on_trial=lambda s: seen.append(len(s.trials)),
    )
    assert seen == list(range(1, len(device.tried) + 1))
    assert result.trials == tuple(device.tried)


def countdown(trials: int) -> Callable[[Thresholds], Callable[[], bool]]:
    return lambda device: lambda: len(device.tried) >= trials


@pytest.mark.parametrize("after", range(1, 12))
def test_when_it_is_enough_what_fits_is_proven_and_returned(after: int) -> None:
    device = Thresholds.capacity(700)
    _, end = run(
        Plan(SizeSpace(maximum=1000), precision=0.0),
        device.try_size,
        device.prove,
        enough=countdown(after)(device),
    )
    fitted = max(b for b in device.sizes if b <= 700)
    assert end == Done(fitted)
    assert len(device.sizes) == after
    assert device.proofs == [fitted]


def test_enough_never_ends_a_search_in_which_nothing_fits_yet() -> None:
    device = Thresholds.capacity(1)
    _, end = run(
        Plan(SizeSpace(maximum=1000), precision=0.0),
        device.try_size,
        device.prove,
        enough=lambda: True,
    )
    assert device.sizes == [2, 1]
    assert end == Done(1)


def test_enough_with_a_failed_proof_still_steps_down() -> None:
    device = Thresholds(lambda b: FITS, lambda b: FITS if b <= 10 else OOM)
    _, end = run(
        Plan(SizeSpace(maximum=1000), precision=0.0),
        device.try_size,
        device.prove,
        enough=lambda: len(device.tried) >= 6,
    )
    assert device.proofs[0] == 64
    assert isinstance(end, Done)
    assert 1 <= end.batch_size <= 10
    assert device.proofs[-1] == end.batch_size  # the first proof that passes is enough


def test_an_exception_of_the_trials_comes_through() -> None:
    def interrupted(_: int) -> Trial:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Plan(SizeSpace()), interrupted, interrupted)


def test_no_space_no_search() -> None:
    with pytest.raises(UsageError):
        SizeSpace(minimum=5, maximum=4)


# -- where memory must not run out -----------------------------------------------------------------

CURVES = {
    "a line": lambda size: 60 * MIB + 400_000 * size,
    "flat, then a line": lambda size: 60 * MIB + max(26 * MIB, 500_000 * size),
    "a quadratic behind fixed costs": lambda size: 86 * MIB + 900 * size**2,
    "a line and a quadratic": lambda size: 60 * MIB + 100_000 * size + 2_000 * size**2,
    "a step between small sizes": lambda size: 91 * MIB + 20 * MIB * (size > 4) + 500_000 * size,
    "a bend upwards": lambda size: 60 * MIB + 200_000 * size + 400_000 * max(0, size - 150),
    "small": lambda size: 30 * MIB + 20_000 * size,
}


def careful_search(measure: Callable[..., Trial], budget: int) -> tuple[Search, Done]:
    """A search in the process that is to train."""
    plan = Plan(SizeSpace(), budget_bytes=budget, limit_bytes=budget, careful=True)
    found, end = run(plan, measure, lambda size: measure(size, proof=True))
    assert isinstance(end, Done)
    return found, end


# A ResNet50 on the emulated device: most of what a small batch needs are weights and gradients.
RESNET50 = {
    0: 335,
    1: 335,
    2: 343,
    5: 370,
    9: 407,
    14: 449,
    20: 492,
    26: 552,
    31: 577,
    36: 602,
    40: 627,
    53: 749,
    64: 852,
}


def test_a_careful_search_does_not_take_fixed_costs_for_what_samples_need() -> None:
    budget = 768 * MIB

    def measure(size: int, *, proof: bool = False) -> Trial:
        known = list(RESNET50.items())
        (low, before), (high, behind) = next(
            pair for pair in itertools.pairwise(known) if pair[0][0] <= size <= pair[1][0]
        )
        peak = int(MIB * (before + (behind - before) * (size - low) / (high - low)))
        assert peak <= budget
        return Trial(
            batch_size=size,
            outcome=Outcome.FITS,
            peak_bytes=peak,
            step_peak_bytes=(peak, peak, peak),
            resident_bytes=224 * MIB,
            proof=proof,
        )

    found, end = careful_search(measure, budget)
    best = 52  # the largest that leaves 5 % free of what the budget leaves to batches
    assert 0.95 * best <= end.batch_size <= best
    assert len(found.trials) <= found.allowance(end.batch_size)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("mebibytes", [256, 1024, 24_000])
def test_a_careful_search_comes_from_below_and_never_exceeds_the_budget(
    curve: Callable[[int], int], mebibytes: int
) -> None:
    budget = mebibytes * MIB
    largest = 0

    def measure(size: int, *, proof: bool = False) -> Trial:
        nonlocal largest
        largest = max(largest, size)
        peak = curve(size)
        assert peak <= budget, f"size {size} would have run out of memory"
        return Trial(
            batch_size=size,
            outcome=Outcome.FITS,
            peak_bytes=peak,
            step_peak_bytes=(peak, peak, peak),
            resident_bytes=int(0.9 * curve(0)),
            proof=proof,
        )

    found, end = careful_search(measure, budget)
    best = next(
        size
        for size in itertools.count(largest)
        if curve(size + 1) > (1 - CAREFUL_HEADROOM) * budget
    )
    assert end.batch_size >= 0.93 * best
    assert len(found.trials) <= found.allowance(end.batch_size)


def test_after_a_death_where_none_must_be_the_next_size_is_far_below_it() -> None:
    """Not one less: that dies most likely, too."""
    fitted = tuple(
        Trial(
            batch_size=size, outcome=FITS, peak_bytes=size * MIB // 4,
            step_peak_bytes=(size * MIB // 4,) * 3, resident_bytes=0,
        )
        for size in (100, 150, 200)
    )  # fmt: skip
    plan = Plan(space=SizeSpace(), budget_bytes=100 * MIB, limit_bytes=100 * MIB, careful=True)
    unhurt = Search(plan, fitted).next()
    assert isinstance(unhurt, Try)
    assert unhurt.batch_size == 240  # a fifth more: beyond half of what there is
    died = Trial(batch_size=unhurt.batch_size, outcome=OOM)
    after = Search(plan, (*fitted, died)).next()
    assert isinstance(after, Try)
    assert 200 < after.batch_size <= (200 + unhurt.batch_size) // 2


def test_an_error_of_the_users_own_is_no_death_to_stay_away_from() -> None:
    plan = Plan(
        space=SizeSpace(maximum=100), budget_bytes=1000 * MIB, limit_bytes=1000 * MIB, careful=True
    )
    tried = [Trial(batch_size=1, outcome=Outcome.FAILED)]
    tried += [
        Trial(batch_size=size, outcome=FITS, peak_bytes=size * MIB, resident_bytes=0)
        for size in (8, 54)
    ]
    assert Search(plan, tuple(tried)).next() == Try(100)


def test_where_memory_must_not_run_out_every_size_is_traced_once_two_are_known() -> None:
    plan = Plan(space=SizeSpace(), budget_bytes=1000 * MIB, limit_bytes=1000 * MIB)
    fitted = tuple(
        Trial(batch_size=size, outcome=FITS, peak_bytes=size * MIB, resident_bytes=0)
        for size in (1, 8)
    )
    assert not Search(plan, fitted).is_near(16)
    estimate = Search(plan, fitted).estimate
    assert estimate is not None
    assert not Search(plan, fitted).is_near(int(0.14 * estimate))
    assert Search(plan, fitted).is_near(int(0.2 * estimate))  # the jump to the edge begins there
    assert Search(replace(plan, careful=True), fitted).is_near(16)


@pytest.mark.parametrize("small", [[(2, 54, None), (16, 64, None)], [(2, 54, None)]])
def test_a_size_that_was_not_replayed_no_longer_fits_where_its_neighbours_need_more(
    small: list[tuple[int, int, int | None]],
) -> None:
    plan = Plan(space=SizeSpace(), budget_bytes=1024 * MIB, limit_bytes=2048 * MIB)
    tried = tuple(
        steady(*each, resident=25) for each in [*small, (512, 761, None), (674, 975, 1320)]
    )
    assert Search(plan, tried[:-1]).fits == 512
    found = Search(plan, tried)
    assert (found.fits, found.fails) == (small[-1][0], 512)
    action = found.next()
    assert isinstance(action, Try)  # between the two, where the model sees the edge
    assert 440 < action.batch_size < 500


def test_no_trial_is_cut_short_that_might_yet_fit() -> None:
    """Once a trial was replayed, what is to stay free is known; before, the least of it counts."""
    plan = Plan(space=SizeSpace(), budget_bytes=1000 * MIB, limit_bytes=2000 * MIB)
    scattered = Trial(
        batch_size=8,
        outcome=FITS,
        peak_bytes=800 * MIB,
        step_peak_bytes=(800 * MIB, 700 * MIB, 800 * MIB),
        resident_bytes=0,
    )
    found = Search(plan, (scattered,))
    assert found.headroom_bytes == MOST_HEADROOM * 1000 * MIB
    assert found.enough_bytes == (1 - LEAST_HEADROOM) * 1000 * MIB
    replayed = found.add(msgspec.structs.replace(scattered, batch_size=9, needed_bytes=900 * MIB))
    assert replayed.enough_bytes == replayed.target_bytes == (1 - LEAST_HEADROOM) * 1000 * MIB
    asked = replace(plan, headroom_bytes=10 * MIB)
    assert Search(asked, (scattered,)).enough_bytes == 990 * MIB
    # A proof's replays may need what lies half a headroom higher, where they can be compared.
    assert replayed.proof_bytes == (1 - LEAST_HEADROOM / 2) * 1000 * MIB
    mixed = replace(plan, mixed=True)
    assert Search(mixed, replayed.trials).headroom_bytes == MIXED_HEADROOM * 1000 * MIB
    looped = msgspec.structs.replace(replayed.trials[-1], loops=True)
    assert Search(mixed, (scattered, looped)).headroom_bytes == LEAST_HEADROOM * 1000 * MIB
    few = msgspec.structs.replace(replayed.trials[-1], few_tensors=True)
    assert Search(plan, (scattered, few)).headroom_bytes == FEW_HEADROOM * 1000 * MIB
    assert Search(asked, (scattered, few)).headroom_bytes == 10 * MIB
    # The last trace counts: at a small size hardly anything is large beside the weights.
    assert not Search(plan, (few, replayed.trials[-1])).has_few_tensors
    careful = replace(plan, careful=True)
    for other in (found, replace(replayed, plan=asked), replace(replayed, plan=careful)):
        assert other.proof_bytes == 1000 * MIB
