"""Replays of a training's beginning through the model of the allocator."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch import devices, fragmentation
from autobatch.bfc import FIRST_REGION, GRAIN, OutOfMemory, Pool
from autobatch.fragmentation import (
    JITTER,
    LARGE_JITTER,
    MOST_JITTER,
    WAIT,
    Allocation,
    Replay,
    needed_bytes,
    requested_peak,
)
from autobatch.options import ProbeOptions
from autobatch.units import MIB

SLACK = 1 + 1 / 60  # of the search's resolution


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


def survives(step, limit, grows, may_die=fragmentation.MAY_DIE):
    """Whether few enough replays die, of those there are at first or of all."""
    if not step:
        return True
    replay = Replay(step, may_die=may_die)
    return replay.survives(limit, grows=grows) or (
        replay.extend() and replay.survives(limit, grows=grows)
    )


@settings(max_examples=30, deadline=None)
@given(steps(), st.booleans())
def test_deterministic_and_enough(step, grows):
    need = needed_bytes(step, grows=grows)
    assert need == needed_bytes(step, grows=grows)
    assert survives(step, need, grows)


@settings(max_examples=30, deadline=None)
@given(steps(), st.booleans(), st.integers(0, 200 * MIB))
def test_what_is_needed_anyway_is_the_least(step, grows, at_least):
    need = needed_bytes(step, grows=grows, at_least=at_least)
    assert need >= at_least
    replay = Replay(step)
    assert not step or (need >= replay.least and survives(step, need, grows))
    # Where they survive under so much less that no median could ask for more, it is the answer.
    tail = fragmentation.TAIL
    enough = int((at_least + tail * replay.least) / (1 + tail))
    done = (replay.survives(limit, grows=grows) for limit in (enough, at_least))
    if enough >= replay.least and all(done):
        assert need == at_least


@settings(max_examples=30, deadline=None)
@given(steps(), st.booleans(), st.integers(0, 80 * MIB))
def test_where_no_replay_may_die_none_does(step, grows, limit):
    careful = Replay(step, may_die=0)
    need = needed_bytes(step, grows=grows, may_die=0)
    assert survives(step, need, grows, may_die=0)
    if careful.survives(limit, grows=grows):
        assert Replay(step).survives(limit, grows=grows)


def test_where_no_replay_may_die_more_is_needed():
    shuffle = random.Random(3)
    step = []
    for _ in range(60):
        start = shuffle.randrange(120)
        size = shuffle.randrange(1, 12) * MIB
        step.append(Allocation(size, start, start + shuffle.randrange(1, 30)))
    assert needed_bytes(step, may_die=0) > needed_bytes(step)


def test_the_more_it_depends_on_the_order_the_more_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the replays that overlap need two buffers at once, and others one."""
    size = 64 * MIB
    far = [Allocation(size, 0, 200), Allocation(size, 4_000, 4_999)]
    near = [Allocation(size, 0, 200), Allocation(size, 200 + JITTER * 3 // 4, 4_999)]
    found = [needed_bytes(each, grows=False) for each in (far, near)]
    monkeypatch.setattr(fragmentation, "TAIL", 0)
    plain = [needed_bytes(each, grows=False) for each in (far, near)]
    assert plain[0] < 1.02 * size
    assert plain[1] >= 2 * size
    assert found[0] == plain[0]
    assert 2.2 * size < found[1] < 2.4 * size


def test_where_few_replays_lie_far_apart_more_of_them_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the first 24 need both buffers at once, and so do four of 96: one in 24."""
    size = 64 * MIB
    step = [Allocation(size, 0, 200), Allocation(size, 200 + 106, 4_999)]
    assert needed_bytes(step, grows=False) < 1.02 * size
    monkeypatch.setattr(fragmentation, "MOST_EVENTS", 4 * fragmentation.REPLAYS)
    assert needed_bytes(step, grows=False) > 2 * size, "no more of them where that takes too long"


def test_more_replays_are_added_once() -> None:
    replay = Replay([Allocation(MIB, 0, 1)])
    assert replay.extend()
    assert not replay.extend()


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


def test_a_chunk_given_out_whole_leaves_nothing_for_the_smallest() -> None:
    """So dies an XLA program: its one large buffer takes all, and four bytes are then too many."""
    large = Allocation(100 * MIB, 0, 40)
    small = [Allocation(4, start, start + 2) for start in range(1, 30, 3)]
    limit = 180 * MIB  # 80 MiB would be left over: too little to be split off
    assert Replay([large]).survives(limit, grows=False)
    assert not Replay([large, *small]).survives(limit, grows=False)
    assert Replay([large, *small]).survives(240 * MIB, grows=False)  # split off: 140 MiB
    assert needed_bytes([large, *small], grows=False) > 199 * MIB


@pytest.mark.parametrize(
    ("events", "steps", "others", "apart", "change_places"),
    [
        (5_000, 1, 0, JITTER // 4, True),
        (5_000, 1, 0, JITTER + 1, False),
        (5_000, 40, 0, JITTER // 4, False),  # short steps: at most a tenth of one
        (5_000, 1, 0, JITTER // 2, True),
        (5_000, 1, 990, JITTER // 2, False),  # past other large ones, which are near
        (1_000_000, 1, 0, JITTER + 1, True),  # a loop's
        (1_000_000, 200, 0, JITTER + 1, False),
    ],
)
def test_what_runs_at_once_may_change_places(
    events: int, steps: int, others: int, apart: int, change_places: bool
) -> None:
    """One is released just before the other begins, or just after."""
    assert MOST_JITTER * 5_000 / 40 < JITTER // 4
    assert LARGE_JITTER * 5_000 / 990 < JITTER // 4
    size, half = 64 * MIB, events // 2
    trace = [
        Allocation(size, half - 200, half),
        Allocation(size, half + apart, events - 1),
        *(Allocation(MIB // 2, 2 * k, 2 * k + 1) for k in range(others)),
    ]
    replay = Replay(trace, steps=steps)
    assert replay.survives(2 * size - MIB, grows=False) is not change_places


@pytest.mark.parametrize(("later", "waits"), [(0, True), (30, False), (WAIT + 20, False)])
def test_a_request_waits_for_what_is_released_soon(later: int, waits: bool) -> None:
    """So long as a step has enough large allocations, as these that end one after the other."""
    size, many = 64 * MIB, 110
    start = 2 * many
    trace = [
        *(Allocation(MIB // 4, k, start + k) for k in range(many)),
        Allocation(size, start - 60, start + later),
        Allocation(size, start, 2 * start),
    ]
    limit = size + size // 2 + many * MIB // 4
    assert Replay(trace).survives(limit, grows=False) is waits
    assert Replay(trace).survives(limit + size, grows=False)


def test_the_beginning_counts_and_not_only_the_steps_alike() -> None:
    """What stays from the first step on may lie in the middle of what later steps need whole."""
    size, far = 64 * MIB, 10 * JITTER
    steps = [Allocation(size, k * far, (k + 1) * far - 1) for k in range(1, 6)]
    begun = [Allocation(size // 2, 0, far - 2), Allocation(size // 8, 1, None), *steps]
    assert needed_bytes(begun, grows=False) > requested_peak(begun) + size // 4


@pytest.mark.tensorflow
def test_a_trace_begins_with_the_first_batch_behind_weights_data_and_slots() -> None:
    """On real TensorFlow: what lies between steps is in the trace, too."""
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
    known, unknown = map(json.loads, done.stdout.splitlines())
    weights, values, targets = 512 * 300 * 4, 4000 * 512 * 4, 4000 * 300 * 4
    assert known["residents"] == [weights, values, targets, weights, weights]
    # Data of which no sizes are known is one tensor, where data lies.
    first, rest, *slots = unknown["residents"]
    assert (first, slots) == (weights, [weights, weights])
    assert values + targets <= rest <= 2 * (values + targets)
    for each in (known, unknown):
        assert each["steps"] == 5
        assert each["running"] == [True] * 4 + [False] * 3
        assert each["batches"] >= 5
        assert each["needed"] > weights + values + targets
        assert each["chunks"]
        assert min(each["chunks"]) >= 1
