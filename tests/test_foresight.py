"""What other batch sizes would need, foretold from the allocations of two."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.footprint import Allocation, at_peak, requested_peak
from autobatch.foresight import (
    FARTHEST,
    FEW_TENSORS,
    LEAST_SHARE,
    MOST,
    STEP,
    Census,
    Growth,
    Traced,
    begun,
    nearest,
)
from autobatch.fragmentation import Limits

MIB = 1 << 20
WEIGHTS = tuple(4 * n for n in (3 * 3 * 64 * 64, 64 * 512, 512 * 10, 10))


def training(batch_size: int, *, steps: int = 3, quadratic: int = 0, planned: int = 0) -> Traced:
    """A made-up training: a gradient for each weight, activations that live until the way back, and
    if asked for similarities of all pairs, or one program's buffer of `planned` and as much for
    each sample."""
    activations = [batch_size * width * 4 for width in (6_000, 6_000, 1_000, 10)]
    if quadratic:
        activations.append(quadratic * batch_size**2)
    if planned:
        activations = [planned + planned * batch_size, batch_size * 500]
    made: list[Allocation] = []
    place = 0
    for _ in range(steps):
        forward = list(range(place, place + len(activations)))
        place += len(activations)
        backward = place
        for number, (start, size) in enumerate(zip(forward, activations, strict=True)):
            end = backward + 2 * (len(activations) - number) + 1
            made.append(Allocation(size, start, end))
        for number, size in enumerate(WEIGHTS):
            start = backward + 2 * number
            made.append(Allocation(size, start, start + 2 * len(WEIGHTS) + 1))
        place = backward + 4 * max(len(WEIGHTS), len(activations)) + 2
    return Traced(batch_size, tuple(made), WEIGHTS, steps=steps)


def need(traced: Traced) -> int:
    limits = Limits(traced.replay())
    limits.extend(16)
    return limits.need


def growth(size: int, other: int, **kinds: int) -> Growth:
    return Growth(training(size, **kinds), training(other, **kinds).census)


@pytest.mark.parametrize(("size", "other"), [(16, 2), (2, 16), (15, 2), (128, 4), (7, 1), (64, 8)])
@pytest.mark.parametrize("quadratic", [0, 4, 40])
def test_a_trace_at_another_size_is_what_that_size_allocates(
    size: int, other: int, quadratic: int
) -> None:
    made = growth(size, other, quadratic=quadratic)
    assert made.is_explained
    for wanted in (1, 3, 100, 1000):
        there = made.at(wanted)
        assert there.allocations == training(wanted, quadratic=quadratic).allocations
        assert (there.batch_size, there.residents) == (wanted, WEIGHTS)


def test_what_a_compiler_plans_lies_on_the_straight_line_through_both() -> None:
    made = growth(32, 4, planned=100_000)
    assert made.is_explained
    assert made.at(200).allocations == training(200, planned=100_000).allocations


def test_of_the_laws_that_would_do_the_one_that_is_as_often_followed_counts() -> None:
    """At a size of 64 a weight of 4096 bytes is also what one of 128 bytes at 2 would have grown
    to: but there was one of 4096 in each step, and of 128 there were many."""
    own = [Allocation(4096, 2 * k, 2 * k + 1) for k in range(3)]
    there = [Allocation(4096, 2 * k, 2 * k + 1) for k in range(3)]
    there += [Allocation(128, 2 * k, 2 * k + 1) for k in range(3, 30)]
    made = Growth(Traced(64, tuple(own), steps=3), Traced(2, tuple(there), steps=3).census)
    assert made.bytes_at(4096, 640) == 4096
    # The same by the step, where one trial was traced for longer.
    longer = [Allocation(4096, 2 * k, 2 * k + 1) for k in range(6)]
    longer += [Allocation(128, 2 * k, 2 * k + 1) for k in range(6, 9)]
    made = Growth(Traced(64, tuple(own), steps=3), Traced(2, tuple(longer), steps=6).census)
    assert made.bytes_at(4096, 640) == 4096


def test_an_allocation_that_follows_no_law_is_told() -> None:
    """As many bytes at one size as at no other: nothing is foretold from such a trace."""
    traced = training(16)
    strange = Allocation(3 * MIB + 256, 0, None)
    other = training(2).census
    assert not Growth(Traced(16, (*traced.allocations, strange)), other).is_explained
    small = Allocation(1536, 0, None)
    assert Growth(Traced(16, (*traced.allocations, small)), other).is_explained
    # Nor is what became smaller as the size grew on any line.
    larger = Traced(2, (*training(2).allocations, Allocation(4 * MIB, 0, None)))
    assert not Growth(Traced(16, (*traced.allocations, strange)), larger.census).is_explained


@given(
    size=st.sampled_from([7, 15, 16, 31, 64]),
    aim=st.integers(40, 3000),
    quadratic=st.sampled_from([0, 4, 40]),
    grows=st.booleans(),
)
def test_the_size_foretold_fits_and_a_somewhat_larger_one_does_not(
    size: int, aim: int, quadratic: int, grows: bool
) -> None:
    def traced(batch_size: int) -> Traced:
        made = training(batch_size, quadratic=quadratic)
        return Traced(batch_size, made.allocations, made.residents, grows, made.steps)

    limit = traced(aim).live_bytes
    made = Growth(traced(size), traced(2).census)
    found = made.largest_within(limit)
    assert found is not None
    assert found <= aim  # what lives at once is no less than that
    assert found >= LEAST_SHARE * aim
    assert need(traced(found)) <= 1.3 * limit  # these few allocations meet few layouts
    assert need(traced(math.ceil(found / STEP) + 2)) > 0.9 * limit


def test_nothing_is_foretold_where_no_size_is_in_sight_or_there_is_too_much_to_replay() -> None:
    flat = tuple(Allocation(MIB, 2 * k, 2 * k + 1) for k in range(10))
    made = Growth(Traced(16, flat), Traced(2, flat).census)
    assert made.is_explained
    assert made.largest_within(64 * MIB) is None
    assert growth(16, 2).largest_within(training(1).live_bytes // 2) is None
    assert growth(16, 2).largest_within(training(20 * FARTHEST).live_bytes) is None
    many = tuple(Allocation(16, 2 * k, 2 * k + 1) for k in range(MOST + 1))
    fewer = tuple(Allocation(2, 2 * k, 2 * k + 1) for k in range(MOST + 1))
    assert Growth(Traced(16, many), Traced(2, fewer).census).largest_within(4096) is None
    assert Growth(Traced(16, many[:9]), Traced(2, fewer[:9]).census).largest_within(4096) == 4096


def test_the_peak_may_move_to_where_only_large_batches_need_most() -> None:
    """At a small size the gradients are the peak; the activations are it where memory ends."""
    weights = [Allocation(20 * MIB, 0, 9)]
    activations = [Allocation(7 * MIB // 16, 10, 19), Allocation(14 * MIB // 16, 11, 18)]
    other = [*weights, Allocation(MIB // 16, 10, 19), Allocation(2 * MIB // 16, 11, 18)]
    made = Growth(Traced(7, (*weights, *activations)), Traced(1, tuple(other)).census)
    assert [made._traced.allocations[n] for n in at_peak(made._traced.allocations)] == weights
    found = made.largest_within(300 * MIB)
    assert found is not None
    assert 0.5 * 300 * 16 / 3 < found <= 300 * 16 / 3


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 50), st.integers(1, 9)), max_size=30))
def test_what_lives_at_the_peak_adds_up_to_it(drawn: list[tuple[int, int, int]]) -> None:
    places = list(range(2 * len(drawn)))
    random.Random(len(drawn)).shuffle(places)
    made = []
    for number, (size, kind, _) in enumerate(drawn):
        start, end = sorted(places[2 * number : 2 * number + 2])
        begins, ends = (None if kind < 5 else start), (None if kind > 45 else end)
        made.append(Allocation(size, begins, ends))
    assert sum(made[n].requested_bytes for n in at_peak(made)) == requested_peak(made)


def test_the_nearest_trial_that_lies_well_apart_is_compared_with() -> None:
    made = [Census(size, {}) for size in (2, 16, 100, 110)]
    for size, expected in ((120, 16), (60, 100), (2, 16), (3, 2)):
        found = nearest(made, size)
        assert found is not None
        assert found.batch_size == expected
    assert nearest(made[:1], 2) is None
    assert nearest([], 2) is None


# -- compiled programs -----------------------------------------------------------------------------


def program(batch_size: int, *, first: bool) -> Traced:
    """Steps of one XLA program on a GPU's single region: its buffer, and small outputs. The first
    step of a process makes the slots, and lets go of what they are made from."""
    buffer = 40 * MIB + batch_size * 4 * MIB
    slots = tuple(8 * MIB + k * 256 for k in range(4))
    made: list[Allocation] = []
    place = 0
    if first:
        for size in slots:
            made += [Allocation(size, place, place + 20), Allocation(size + 512, place + 1, None)]
            place += 2
        place = 30
    for _ in range(3):
        made += [Allocation(buffer, place, place + 3), Allocation(40_000, place + 1, place + 40)]
        place += 4
    residents = (30 * MIB,) if first else (30 * MIB, *slots)
    return Traced(batch_size, tuple(made), residents, grows=False, steps=3)


def test_few_tensors_are_those_of_no_loop_and_no_program() -> None:
    few = training(16)
    assert few.has_few_tensors
    looped = [msgspec.structs.replace(each, in_loop=True) for each in few.allocations]
    assert not Traced(16, tuple(looped), WEIGHTS, steps=3).has_few_tensors
    # So many a step, and not in all; small ones do not count.
    number = FEW_TENSORS * 3
    more = [*few.allocations, *(Allocation(40_000, 900 + k, 901 + k) for k in range(number))]
    assert not Traced(16, tuple(more), WEIGHTS, steps=3).has_few_tensors
    assert Traced(16, tuple(more), WEIGHTS, steps=4).has_few_tensors
    small = [*few.allocations, *(Allocation(256, 900 + k, 901 + k) for k in range(number))]
    assert Traced(16, tuple(small), WEIGHTS, steps=3).has_few_tensors
    assert not program(16, first=False).has_few_tensors


def test_a_compiled_programs_trial_is_replayed_as_a_process_that_begins_with_it() -> None:
    later = program(100, first=False)
    assert later.is_compiled
    there = begun(program(2, first=True), later)
    assert there is not None
    assert there.allocations == program(100, first=True).allocations
    assert there.residents == program(2, first=True).residents


def test_only_where_the_first_trial_had_all_that_the_present_one_has() -> None:
    first = program(2, first=True)
    more = program(100, first=False)
    more = Traced(100, more.allocations, (*more.residents, 90 * MIB), more.grows, more.steps)
    assert begun(first, more) is None
    assert begun(first, first) is None  # it is its own beginning
    assert not training(16).is_compiled
    assert begun(training(2), training(16)) is None  # no program takes most of it
