"""Replays of a training's beginning through the model of the allocator."""

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch import devices, fragmentation, replays
from autobatch.bfc import FIRST_REGION, GRAIN, OutOfMemory, Pool
from autobatch.footprint import COARSEST, FINEST, MOST, Allocation, coarsened, requested_peak
from autobatch.fragmentation import (
    BEYOND_WORST,
    DEVIATIONS,
    FAR_TOO_MUCH,
    FEW,
    FINE_SCALE,
    MAY_DIE,
    REPLAYS,
    SCALE,
    Limits,
    Scales,
    needed_bytes,
    needed_under,
)
from autobatch.options import ProbeOptions
from autobatch.replays import (
    JITTER,
    LARGE_JITTER,
    LEAST_JITTER,
    LOOP_JITTER,
    MOST_JITTER,
    WAIT,
    Replay,
)
from autobatch.units import MIB

SLACK = 1 + 2 / replays.RESOLUTION


# What stays beside, so that nothing is huge: in pieces, as the last would get all that is left.
BESIDE = [50 * MIB] * 14


@st.composite
def steps(draw):
    """Allocations with distinct places in the order, some live before, some left live."""
    count = draw(st.integers(1, 25))
    places = draw(st.permutations(range(2 * count)))
    made = []
    for k in range(count):
        start, end = sorted(places[2 * k : 2 * k + 2])
        before, left = draw(st.booleans()), draw(st.booleans())
        size = draw(st.integers(1, 64 * MIB))
        made.append(
            Allocation(
                size,
                None if before and not left else start,
                None if left else end,
            )
        )
    return made


def test_one_allocation_needs_itself_in_one_region():
    size = 100 * MIB
    one = [Allocation(size, 0, 1)]
    assert size <= needed_bytes(one, grows=False) <= size * SLACK


def test_nothing_needs_nothing():
    assert needed_bytes([]) == 0


def test_residents_count():
    one = [Allocation(10 * MIB, 0, 1)]
    alone = needed_bytes(one, grows=False)
    assert needed_bytes(one, residents=[90 * MIB], grows=False) >= alone + 88 * MIB


def test_a_hole_that_is_too_short_costs_its_length():
    """A, a small wall B and C in a row; A goes, and D is a little longer than A."""
    size = 64 * MIB
    step = [
        Allocation(size, 0, 4),
        Allocation(size // 4, 1, 7),
        Allocation(size, 2, 7),
        Allocation(size + size // 8, 5, 8),
    ]
    live = requested_peak(step)
    # A's hole stays empty while B, C and D are live.
    assert needed_bytes(step, grows=False) >= live + size // 2


def test_regions_that_do_not_join_cost_more_than_one():
    """Sizes just over half a region: each region of a growing pool holds one of them."""
    step = [Allocation(70 * MIB, k, 10 + k) for k in range(4)]
    assert needed_bytes(step, grows=True) > needed_bytes(step, grows=False)


@settings(max_examples=60, deadline=None)
@given(steps(), st.integers(0, 100 * MIB), st.booleans())
def test_never_below_what_is_live(step, resident_bytes, grows):
    need = needed_bytes(step, residents=[resident_bytes], grows=grows)
    assert need >= requested_peak(step, resident_bytes)


@settings(max_examples=30, deadline=None)
@given(steps(), st.booleans())
def test_deterministic_and_enough(step, grows):
    need = needed_bytes(step, grows=grows)
    assert need == needed_bytes(step, grows=grows)
    if step:
        limits = Limits(Replay(step, grows=grows))
        limits.extend(REPLAYS)
        limits.extend(limits.enough)
        assert need == limits.need
        assert sum(limit > need for limit in limits.found) <= len(limits.found) * MAY_DIE


@settings(max_examples=30, deadline=None)
@given(steps(), st.booleans(), st.integers(0, 3), st.floats(0, 2))
def test_a_replay_goes_through_under_its_limit_and_not_a_step_below(step, grows, order, near):
    replay = Replay(step, grows=grows)
    limit = replay.least_limit(order, round(near * replay.least))
    assert limit >= replay.least
    assert replay.goes_through(order, limit)
    below = limit - max(GRAIN, replay.least // replays.RESOLUTION)
    assert below < replay.least or not replay.goes_through(order, below)


@settings(max_examples=30, deadline=None)
@given(steps(), st.booleans(), st.floats(0.3, 4))
def test_at_a_scale_the_steps_are_so_much_larger_and_what_they_find_is_not(
    step, grows, scale
) -> None:
    """None is so small that it is left out."""
    before = [each for each in step if each.start is None]
    own = [
        each.resized(8 * MIB + each.requested_bytes // GRAIN * GRAIN)
        for each in step
        if each.start is not None
    ]
    larger = [each.resized(int(scale * each.requested_bytes)) for each in own]
    one, other = (Replay([*before, *each], grows=grows) for each in (own, larger))
    for limit in range(other.least // 2, 2 * other.least + 1, max(MIB, other.least // 9)):
        assert one.deaths([0], limit, scale) == other.deaths([0], limit)


def test_what_is_held_and_does_not_fit_by_itself_is_told_as_far_too_much() -> None:
    step = [Allocation(MIB, k, 10 + k, in_loop=True) for k in range(4)]
    for there in (50 * MIB, 100 * MIB):
        assert needed_bytes(step, residents=[100 * MIB], edge=there) >= FAR_TOO_MUCH * 100 * MIB
    held = [Allocation(64 * MIB, None, None, in_loop=True)]
    assert 64 * MIB <= needed_bytes(held, edge=1024 * MIB) < 65 * MIB


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("careful", [False, True])
def test_loops_are_replayed_under_what_there_is(looped: bool, careful: bool) -> None:
    """Four buffers lie in regions of their own where these are just long enough for one; where
    there is more, regions are longer than they."""
    step = [Allocation(70 * MIB, k, 10 + k, in_loop=looped) for k in range(4)]
    alone = needed_bytes(step, careful=careful)
    within = needed_bytes(step, edge=1024 * MIB, careful=careful)
    assert (within < 0.95 * alone) is (looped and not careful)
    assert within <= alone


@pytest.mark.parametrize("careful", [False, True])
def test_near_what_there_will_be_it_counts_how_much_larger_steps_could_be_under_that(
    careful: bool,
) -> None:
    step = [Allocation(70 * MIB, k, 10 + k) for k in range(4)]
    alone = needed_bytes(step, careful=careful)
    for edge in (alone // 2, 2 * alone):
        assert needed_bytes(step, edge=edge, careful=careful) == alone
    for edge in (int(0.85 * alone), alone, int(1.2 * alone)):
        under = alone if careful else needed_under(Replay(step), edge, REPLAYS)
        assert needed_bytes(step, edge=edge, careful=careful) == under
    assert needed_bytes(step, edge=alone, at_least=2 * alone, careful=careful) == 2 * alone


def test_wherever_it_is_looked_for_first_the_limit_is_the_same() -> None:
    """In one region a larger limit never is worse for these."""
    step = [Allocation(70 * MIB, k, 10 + k) for k in range(4)]
    replay = Replay(step, grows=False)
    found = {replay.least_limit(3, near * MIB) for near in (0, 200, 280, 281, 300, 900, 4000)}
    assert len(found) == 1
    assert 280 * MIB <= found.pop() < 282 * MIB


def test_a_limit_is_found_sooner_where_it_is_looked_for_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As far above what is live as regions of their own make it."""
    replay = Replay([Allocation(70 * MIB, k, 10 + k) for k in range(4)])
    runs = []
    pool = replays.Pool
    monkeypatch.setattr(replays, "Pool", lambda *a, **k: runs.append(a) or pool(*a, **k))
    limit = replay.least_limit(0)
    without = len(runs)
    assert replay.least_limit(0, limit) == limit
    assert 2 <= len(runs) - without < without


@settings(max_examples=30, deadline=None)
@given(steps(), st.booleans(), st.integers(0, 200 * MIB))
def test_what_is_needed_anyway_is_the_least(step, grows, at_least):
    need = needed_bytes(step, grows=grows, at_least=at_least)
    assert need >= at_least
    alone = needed_bytes(step, grows=grows)
    assert need in (at_least, alone)
    if alone > 2 * at_least or not step:
        assert need == max(alone, at_least)


def test_the_more_it_depends_on_the_order_the_more_is_needed() -> None:
    """Two replays in nine need two buffers at once, and the others one."""
    size = 64 * MIB
    far = [Allocation(size, 0, 200), Allocation(size, 4_000, 4_999)]
    near = [Allocation(size, 0, 200), Allocation(size, 200 + JITTER // 3, 4_999)]
    slack = 0.02 * (sum(BESIDE) + size)
    needed = [needed_bytes(each, residents=BESIDE, grows=False) for each in (far, near)]
    assert sum(BESIDE) + size <= needed[0] < sum(BESIDE) + size + slack
    assert sum(BESIDE) + 2 * size < needed[1] < sum(BESIDE) + 3.2 * size


class Orders:
    """In place of a replay: limits as they are given, one an order."""

    events = 1000
    least = 1

    def __init__(self, limits: Sequence[int], *, loops: bool = False) -> None:
        self.loops = loops
        self._limits = limits
        self.asked: list[tuple[int, int]] = []

    def least_limit(self, order: int, near: int = 0) -> int:
        self.asked.append((order, near))
        return self._limits[order % len(self._limits)]


class Loops:
    """In place of a replay under a limit: whether an order dies at a scale, as it is given."""

    held, least = 100, 300

    def __init__(
        self, dies: Callable[[int, float], bool], events: int = 1000, *, loops: bool = True
    ) -> None:
        self._dies, self.events, self.loops = dies, events, loops
        self.asked: set[int] = set()

    def deaths(self, orders: Iterable[int], limit: int, scale: float) -> int:
        assert limit == 1000  # so that 4.5 is the most
        self.asked.update(orders)
        return sum(self._dies(order, scale) for order in orders)


@pytest.mark.parametrize(
    ("dies", "largest"),
    [
        (lambda _order, scale: scale > 1.3, 1.3),
        (lambda _order, scale: scale > 0.7, 0.7),
        (lambda order, scale: scale > 1 + order / REPLAYS, 1 + MAY_DIE),
        (lambda order, scale: scale > 1.3 or order == 40, 1.3),  # an accident
        (lambda order, scale: scale > 1.3 or (order % 4 == 3 and order > 8 and scale > 0.8), 0.8),
        (lambda order, scale: scale > 1.2 or (order % 4 == 1 and 1 < scale < 1.1), 1.0),
        (lambda _order, _scale: False, 4.5),
    ],
)
@pytest.mark.parametrize("loops", [True, False])
def test_steps_may_be_made_so_large_that_hardly_a_replay_dies(
    dies: Callable[[int, float], bool], largest: float, loops: bool
) -> None:
    """And no larger, where fewer die again at a size beyond."""
    found = Scales(Loops(dies, loops=loops), 1000, REPLAYS).largest
    step = SCALE if loops else FINE_SCALE
    assert largest / step**2 < found <= largest * step**2
    need = needed_under(Loops(dies, loops=loops), 1000, REPLAYS)
    assert need == 100 + round(900 / found)
    assert need >= 300


@pytest.mark.parametrize("looped", [False, True])
def test_what_lives_briefly_in_a_loop_is_released_as_much_later_as_it_is_taken(
    looped: bool,
) -> None:
    many = 300
    brief = [Allocation(MIB, 4 * k, 4 * k + 2, in_loop=looped) for k in range(many)]
    long = [Allocation(MIB, 4 * k + 1, 4 * k + 403, in_loop=looped) for k in range(many)]
    replay = Replay([*brief, *long])
    moments = {(i, begins): moment for moment, i, begins in replay._order(1)}
    lives = [moments[i, False] - moments[i, True] for i in range(2 * many)]
    assert all(each == pytest.approx(2, abs=1e-6) for each in lives[:many]) is looped
    assert statistics.pstdev(lives[many:]) > 0.1


def test_loops_that_fit_at_no_scale_need_far_too_much() -> None:
    assert needed_under(Loops(lambda _order, _scale: True), 1000, REPLAYS) == FAR_TOO_MUCH * 300


@pytest.mark.parametrize(("events", "replays"), [(1000, 48), (10_000, 30), (200_000, FEW)])
def test_so_many_replays_tell_what_loops_need_as_there_is_time_for(
    events: int, replays: int
) -> None:
    loops = Loops(lambda _order, scale: scale > 1.3, events)
    needed_under(loops, 1000, REPLAYS)
    assert len(loops.asked) == replays


def test_the_mean_and_so_many_of_the_mean_deviation_are_needed() -> None:
    limits = Limits(Orders([970, 1000, 1000, 1000, 1030]))
    limits.extend(10)
    assert limits.need == 1000 + round(DEVIATIONS * 12)


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("careful", [False, True])
def test_no_more_is_foretold_than_a_little_beyond_the_worst_order_but_of_loops_or_with_care(
    loops: bool, careful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two heaps, far apart: their deviation says nothing of what lies above the upper one."""
    orders = Orders([900, 1100], loops=loops)
    monkeypatch.setattr(fragmentation, "Replay", lambda *_a, **_k: orders)
    need = 1000 + DEVIATIONS * 100 if loops or careful else BEYOND_WORST * 1100
    assert needed_bytes([], careful=careful) == round(need)


def test_rare_orders_far_beyond_the_others_may_die_but_no_more_of_them() -> None:
    for rare, need in ((2, 1000), (3, 9000)):
        limits = Limits(Orders([9000] * rare + [1000] * (REPLAYS - rare)))
        limits.extend(REPLAYS)
        usual = 1000 + rare / REPLAYS * 8000 * (1 + DEVIATIONS * 2 * (1 - rare / REPLAYS))
        assert limits.need == max(need, round(usual))


def test_each_limit_is_looked_for_where_the_others_are() -> None:
    orders = Orders([900, 1100, 1000])
    Limits(orders).extend(3)
    assert orders.asked == [(0, 0), (1, 900), (2, 1000)]


def test_as_many_replays_tell_as_their_scatter_asks_for() -> None:
    """The error of the answer, were they normal; and what there may be of them at most."""
    shuffle = random.Random(0)
    for deviation, most in ((1, REPLAYS), (40, 255), (400, fragmentation.MOST_REPLAYS)):
        orders = Orders([round(shuffle.gauss(1000, deviation)) for _ in range(1000)])
        limits = Limits(orders)
        limits.extend(REPLAYS)
        limits.extend(limits.enough)
        assert REPLAYS <= len(orders.asked) <= most
        if deviation == 400:
            assert len(orders.asked) == most
        if deviation == 40:
            assert len(orders.asked) > REPLAYS
            assert 0.8 < limits.error / (limits.need * fragmentation.ERROR) < 1.25
            orders.events = fragmentation.MOST_EVENTS // 60
            assert limits.enough == 60


def test_needs_are_asked_of_as_many_replays_as_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffle = random.Random(0)
    for at_least, deviation, most in ((0, 1, REPLAYS), (0, 40, 255), (2000, 40, REPLAYS)):
        orders = Orders([round(shuffle.gauss(1000, deviation)) for _ in range(1000)])
        monkeypatch.setattr(fragmentation, "Replay", lambda *_a, each=orders, **_k: each)
        need = needed_bytes([], at_least=at_least)
        assert need == at_least or 1000 < need < 1200
        assert REPLAYS < len(orders.asked) <= most or len(orders.asked) == most == REPLAYS


def test_with_care_more_replays_tell_near_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffle = random.Random(0)
    asked = {}
    for edge in (None, 1020, 1120, 1140, 1250):
        orders = Orders([round(shuffle.gauss(1000, 40)) for _ in range(1000)])
        monkeypatch.setattr(fragmentation, "Replay", lambda *_a, each=orders, **_k: each)
        assert 1080 < needed_bytes([], edge=edge, careful=True) < 1200
        asked[edge] = len(orders.asked)
    usual = asked[None]
    assert abs(asked[1250] - usual) < usual / 3
    assert abs(asked[1020] - usual) < usual / 3
    assert asked[1120] > 1.5 * usual
    assert asked[1140] > 1.5 * usual


def test_nothing_to_replay_needs_what_is_live() -> None:
    """Small allocations that live briefly fit into any hole."""
    assert needed_bytes([], residents=[MIB]) >= MIB
    assert 100 * MIB <= needed_bytes([Allocation(256, 0, 1)], residents=[100 * MIB]) < 101 * MIB


def test_the_error_is_that_of_many_samples() -> None:
    shuffle = random.Random(1)
    needs, errors = [], []
    for _ in range(300):
        limits = Limits(Orders([round(shuffle.gauss(1e6, 1e4)) for _ in range(64)]))
        limits.extend(64)
        needs.append(limits.need)
        errors.append(limits.error)
    assert statistics.pstdev(needs) == pytest.approx(statistics.fmean(errors), rel=0.2)


@settings(max_examples=30, deadline=None)
@given(steps(), st.integers(2, 6))
def test_grows_with_the_sizes(step, factor):
    """In one region, sizes far above the merging and waste thresholds scale: so does the need."""
    larger = [Allocation(a.requested_bytes * factor, a.start, a.end) for a in step]
    assert needed_bytes(larger, grows=False) >= needed_bytes(step, grows=False)


def test_many_small_allocations_are_taken_together():
    rng = random.Random(0)
    step = [Allocation(64 << 10, k, 40_000 - k) for k in range(20_000)]
    step += [Allocation(60 * MIB, 40_001 + k, 40_020 + k) for k in range(5)]
    rng.shuffle(step)
    need = needed_bytes(step, grows=False)
    live = requested_peak(step)
    assert live <= need <= 1.2 * live


def test_pool_takes_best_fit_and_joins_neighbours():
    pool = Pool(64 * MIB, grows=False)
    chunks = [pool.allocate(8 * MIB) for _ in range(8)]
    with pytest.raises(OutOfMemory):
        pool.allocate(1)
    pool.release(chunks[2])
    pool.release(chunks[4])
    with pytest.raises(OutOfMemory):
        pool.allocate(16 * MIB)
    pool.release(chunks[3])
    assert pool.allocate(24 * MIB).address == chunks[2].address


def test_pool_gives_a_whole_chunk_below_twice_the_request():
    pool = Pool(64 * MIB, grows=False)
    assert pool.allocate(33 * MIB).size == 64 * MIB
    pool = Pool(64 * MIB, grows=False)
    assert pool.allocate(32 * MIB - 1).size == 32 * MIB


def test_pool_splits_where_128_mib_would_be_wasted():
    pool = Pool(512 * MIB, grows=False)
    assert pool.allocate(384 * MIB).size == 384 * MIB


def test_pool_grows_by_doubling_regions():
    pool = Pool(1024 * MIB, grows=True)
    sizes = [pool.allocate(FIRST_REGION << k).size for k in range(4)]
    assert sizes == [FIRST_REGION << k for k in range(4)]
    with pytest.raises(OutOfMemory):
        pool.allocate(1023 * MIB)


def test_pool_rounds_to_the_grain():
    assert Pool(MIB, grows=False).allocate(1).size == GRAIN


def survive(trace, limit, steps=1, beside=BESIDE, *, freely=False):
    """Whether all replays but those that may die go through, in one region."""
    replay = Replay(trace, residents=beside, grows=False, steps=steps, freely=freely)
    limit += sum(beside)
    return sum(not replay.goes_through(k, limit) for k in range(REPLAYS)) <= MAY_DIE * REPLAYS


def test_a_chunk_given_out_whole_leaves_nothing_for_the_smallest() -> None:
    """So dies an XLA program: its one large buffer takes all, and four bytes are then too many."""
    large = Allocation(100 * MIB, 0, 40)
    small = [Allocation(4, start, start + 2) for start in range(1, 30, 3)]
    limit = 180 * MIB  # 80 MiB would be left over: too little to be split off
    assert survive([large], limit)
    assert not survive([large, *small], limit)
    assert survive([large, *small], 240 * MIB)  # split off: 140 MiB
    assert needed_bytes([large, *small], grows=False) > 199 * MIB


@pytest.mark.parametrize(("end", "room"), [(42, True), (300, False)])
def test_what_is_soon_released_leaves_room_for_the_smallest(end: int, room: bool) -> None:
    """Whichever it is, the first allocation, too."""
    trace = [
        Allocation(60 * MIB, 0, end),
        *(Allocation(MIB, 2 + 2 * k, 3 + 2 * k) for k in range(15)),
        Allocation(100 * MIB, 41, 80),  # is given all that is left
        *(Allocation(4, start, start + 2) for start in range(33, 39, 3)),
    ]
    assert Replay(trace, grows=False).goes_through(0, 180 * MIB) is room


@pytest.mark.parametrize(
    ("events", "steps", "others", "apart", "change_places"),
    [
        (5_000, 1, 0, JITTER // 4, True),
        (5_000, 1, 0, JITTER + 1, False),
        (5_000, 200, 0, JITTER // 4, False),  # short steps: at most a tenth of one
        (5_000, 1, 0, JITTER // 2, True),
        (5_000, 1, 990, JITTER // 2, False),  # past other large ones, which are near
        (1_000_000, 1, 0, JITTER + 1, False),
    ],
)
def test_what_runs_at_once_may_change_places(
    events: int, steps: int, others: int, apart: int, change_places: bool
) -> None:
    """One is released just before the other begins, or just after."""
    assert MOST_JITTER * 5_000 / 200 < JITTER // 4
    assert LARGE_JITTER * 5_000 / 990 < JITTER // 2
    size, half = 64 * MIB, events // 2
    trace = [
        Allocation(size, half - 200, half),
        Allocation(size, half + apart, events - 1),
        *(Allocation(MIB, 2 * k, 2 * k + 1) for k in range(others)),
    ]
    assert survive(trace, 2 * size - MIB, steps=steps) is not change_places


@pytest.mark.parametrize(
    ("taker", "looped", "freely", "change_places"),
    [
        (1, False, False, False),
        (2, False, False, True),
        (None, False, False, True),
        (1, True, False, True),
        (1, False, True, True),
    ],
)
def test_what_one_thread_does_keeps_its_order_but_in_loops_and_where_orders_are_free(
    taker: int | None, looped: bool, freely: bool, change_places: bool
) -> None:
    size = 64 * MIB
    trace = [
        Allocation(size, 2_300, 2_500, in_loop=looped, taker=1, giver=1),
        Allocation(size, 2_501, 4_999, in_loop=looped, taker=taker, giver=1),
    ]
    assert survive(trace, 2 * size - MIB, freely=freely) is not change_places


@pytest.mark.parametrize("freely", [True, False])
def test_free_orders_are_farther_from_the_trace(freely: bool) -> None:
    size = 64 * MIB
    trace = [Allocation(size, 2_300, 2_500), Allocation(size, 2_500 + 2 * JITTER, 4_999)]
    assert survive(trace, 2 * size - MIB, freely=freely) is not freely


def test_where_memory_must_not_run_out_orders_are_free() -> None:
    size = 64 * MIB
    trace = [
        Allocation(size, 2_300, 2_500, taker=1, giver=1),
        Allocation(size, 2_501, 4_999, taker=1, giver=1),
    ]
    needs = [
        needed_bytes(trace, residents=BESIDE, grows=False, careful=careful)
        for careful in (False, True)
    ]
    assert needs[0] == size + sum(BESIDE)
    assert needs[1] >= 2 * size + sum(BESIDE)


def test_the_order_of_a_thread_holds_in_every_replay_but_others_come_between() -> None:
    trace = [Allocation(MIB, 2 * k, 2 * k + 1, taker=k % 2, giver=k % 2) for k in range(60)]
    replay = Replay(trace, residents=BESIDE)
    orders = [[(i, begins) for _, i, begins in replay._order(number)] for number in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    for thread in range(2):
        assert len({tuple(e for e in order if e[0] % 2 == thread) for order in orders}) == 1


@pytest.mark.parametrize(
    ("events", "looped", "apart", "change_places"),
    [
        (100_000, True, JITTER + 10, True),
        (100_000, True, LOOP_JITTER + 1, False),
        (100_000, False, JITTER + 10, False),
        (10_000, True, JITTER + 10, False),  # short steps: at most a tenth of one
        (2_000_000, True, 2 * LOOP_JITTER, True),  # a long loop's: a share of a step
        (2_000_000, False, 2 * LOOP_JITTER, False),
    ],
)
def test_passes_of_a_loop_overtake_each_other(
    events: int, looped: bool, apart: int, change_places: bool
) -> None:
    """In steps of 2,500 events and more, however many are large."""
    size, half = 64 * MIB, events // 2
    trace = [
        Allocation(size, half - 200, half, in_loop=looped),
        Allocation(size, half + apart, events - 1, in_loop=looped),
        *(Allocation(MIB, 2 * k, 2 * k + 1, in_loop=looped) for k in range(80)),
    ]
    assert survive(trace, 2 * size - MIB, steps=40) is not change_places


def test_what_a_loop_makes_keeps_nothing_outside_of_it_in_order() -> None:
    large, others = Allocation(64 * MIB, 0, 4_999), range(990)
    straight = [large, *(Allocation(MIB, 2 * k, 2 * k + 1) for k in others)]
    looped = [large, *(Allocation(MIB, 2 * k, 2 * k + 1, in_loop=True) for k in others)]
    assert replays._widths(straight, MIB, 1, JITTER)[0] == pytest.approx(LARGE_JITTER * 5_000 / 991)
    assert replays._widths(looped, MIB, 1, JITTER)[0] == LEAST_JITTER * 5_000


@pytest.mark.parametrize(
    ("beside", "change_places"),
    [
        ([], False),
        (BESIDE[:1], False),
        (BESIDE[:2], True),  # two fifths of the peak
        (BESIDE, True),
    ],
)
def test_what_is_huge_keeps_its_order(beside: list[int], change_places: bool) -> None:
    """As an XLA program's memory is: given back before the program takes it again."""
    size, half, apart = 64 * MIB, 2_500, JITTER // 4
    trace = [Allocation(size, half - 200, half), Allocation(size, half + apart, 4_999)]
    assert survive(trace, 2 * size - MIB, beside=beside) is not change_places


def test_small_allocations_of_a_loop_move_as_far_when_taken_together() -> None:
    for looped in (True, False):
        small = [Allocation(MIB, k, 3_000 + k, in_loop=looped) for k in range(40)]
        merged = coarsened(small, 100 * 1024 * MIB)
        assert len(merged) < len(small)
        assert {each.in_loop for each in merged} == {looped}


def test_what_would_be_too_many_to_replay_is_taken_together_by_larger_pieces() -> None:
    """But none of those that are large in any case."""
    peak, every = 1024 * MIB, 4 * MOST

    def trace(size: int) -> list[Allocation]:
        return [Allocation(size, k, k + every) for k in range(every)]

    assert len(coarsened(trace(peak // COARSEST), peak)) == every
    merged = coarsened(trace(peak // (2 * FINEST)), peak)
    assert len(merged) <= MOST
    larger = coarsened(trace(peak // (2 * COARSEST)), peak)
    assert COARSEST <= len(larger) <= every // 2
    for size, kept in ((peak // (2 * FINEST), merged), (peak // (2 * COARSEST), larger)):
        assert sum(each.requested_bytes for each in kept) == every * size


@pytest.mark.parametrize(("later", "waits"), [(0, True), (30, False), (WAIT + 20, False)])
def test_a_request_waits_for_what_is_released_soon(later: int, waits: bool) -> None:
    """So long as a step has enough large allocations, as these that end one after the other."""
    size, many = 64 * MIB, 110
    start = 2 * many
    trace = [
        *(Allocation(MIB, k, start + k) for k in range(many)),
        Allocation(size, start - 60, start + later),
        Allocation(size, start, 2 * start),
    ]
    limit = size + size // 2 + many * MIB
    assert survive(trace, limit) is waits
    assert survive(trace, limit + size)


@pytest.mark.parametrize(
    ("taker", "giver", "looped", "waits"),
    [
        (1, 2, False, True),
        (1, 1, False, False),
        (None, 1, False, True),
        (1, None, False, True),
        (1, 1, True, True),  # the passes of a loop go from thread to thread
    ],
)
def test_a_request_waits_for_nothing_that_its_own_thread_gives_back(
    taker: int | None, giver: int | None, looped: bool, waits: bool
) -> None:
    """As the two large tensors of one operation, which are given back when it has ended."""
    size, many = 64 * MIB, 110
    start = 2 * many
    trace = [
        *(Allocation(MIB, k, start + k, in_loop=looped) for k in range(many)),
        Allocation(size, start - 60, start + 1, giver=giver),
        Allocation(size, start, 2 * start, taker=taker),
    ]
    replay = Replay(trace, residents=BESIDE, grows=False)
    assert replay.goes_through(0, size + size // 2 + many * MIB + sum(BESIDE)) is waits


@pytest.mark.parametrize(("events", "waits"), [(9, 1), (40, 2), (500, 30)])
def test_it_waits_for_no_more_than_a_share_of_a_step(events: int, waits: int) -> None:
    trace = [Allocation(MIB, 2 * k, 2 * k + 1) for k in range(events)]
    assert Replay(trace, steps=2)._wait == waits


def test_the_beginning_counts_and_not_only_the_steps_alike() -> None:
    """What stays from the first step on may lie in the middle of what later steps need whole."""
    size, far = 64 * MIB, 10 * JITTER
    steps = [Allocation(size, k * far, (k + 1) * far - 1) for k in range(1, 6)]
    begun = [Allocation(size // 2, 0, far - 2), Allocation(size // 8, 1, None), *steps]
    assert needed_bytes(begun, grows=False) > requested_peak(begun) + size // 4


@pytest.mark.tensorflow
def test_a_trace_begins_with_the_first_batch_behind_weights_data_and_slots() -> None:
    """On real TensorFlow: what lies between steps is in the trace, too, what loops make is told
    apart, and two small sizes foretell a large one."""
    root = Path(__file__).resolve().parent
    device = devices.choose(ProbeOptions.checked(memory_limit="512MiB", device="cpu"))
    emulated = {**device.environment(proof=True), "PYTHONPATH": str(root.parent)}
    done = subprocess.run(
        [sys.executable, str(root / "samples" / "traces.py")],
        env={**os.environ, **emulated},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    known, unknown, foretold, recurrent = map(json.loads, done.stdout.splitlines())
    weights, values, targets = 512 * 300 * 4, 4000 * 512 * 4, 4000 * 300 * 4
    assert known["residents"] == [weights, values, targets, weights, weights]
    # Data of which no sizes are known is one tensor, where data lies.
    before, rest, *slots = unknown["residents"]
    assert (before, slots) == (weights, [weights, weights])
    assert values + targets <= rest <= 2 * (values + targets)
    for each in (known, unknown):
        assert each["steps"] == 5
        assert each["running"] == [True] * 4 + [False] * 3
        assert each["batches"] >= 5
        assert each["needed"] > weights + values + targets
        assert each["chunks"]
        assert min(each["chunks"]) >= 1
        assert each["in_loop"] == 0
        assert each["threads"] >= 2  # one makes batches, others train
        assert each["of_no_thread"] == 0
    # A single size foretells nothing; two small ones do.
    assert (foretold["steps"], foretold["lonely"]) == (2, None)
    assert foretold["told"] == foretold["true"] == [12_000 * 300 * 4, 12_000 * 512 * 4]
    # Beside its batch a sample takes at least one activation, and at most the six of a step.
    sample, activation = (512 + 300) * 4, 300 * 4
    room = foretold["limit"] - sum(known["residents"])
    least, most = room / (sample + 6 * activation), room / (sample + activation)
    assert 0.9 * least < foretold["size"] < most
    assert (foretold["loops"], recurrent["loops"]) == (False, True)
    # The input's and the state's products with the kernels, at each place of the sequence, twice.
    assert recurrent["gates"] >= 2 * 2 * recurrent["length"]
