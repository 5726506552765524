"""What replays begin with."""

from hypothesis import given
from hypothesis import strategies as st

from autobatch.footprint import Allocation
from autobatch.residents import residents
from autobatch.units import MIB

sizes = st.lists(st.integers(1, 8).map(lambda n: n * MIB), max_size=8)


def test_data_lies_between_weights_and_slots():
    assert residents((), [1 * MIB], [2 * MIB], [9 * MIB], 12 * MIB) == (MIB, 9 * MIB, 2 * MIB)


def test_what_is_in_use_besides_is_data_in_one_piece():
    found = residents((), [1 * MIB], [2 * MIB], [3 * MIB], 60 * MIB)
    assert found == (MIB, 3 * MIB, 54 * MIB, 2 * MIB)


def test_a_data_set_that_got_a_region_whole_asks_for_no_larger_one():
    """Small tensors beside it lie in regions of their own."""
    assert residents((), (), (), (), 64 * MIB + 300_000) == (64 * MIB, 300_000)
    assert residents((), (), (), (), 64 * MIB) == (64 * MIB,)
    assert residents((), (), (), (), 72 * MIB) == (72 * MIB,)


def test_a_chunk_may_be_twice_as_long_as_what_lies_in_it():
    assert residents((), [5 * MIB], [5 * MIB], (), 15 * MIB) == (5 * MIB, 5 * MIB)


def test_chunks_that_were_given_back_are_no_data():
    """Many of them waste more than one is long."""
    traced = [Allocation(MIB, None, k, MIB * 3 // 2) for k in range(100)]
    assert residents(traced, [MIB] * 100, (), (), 150 * MIB) == ()
    unknown = [Allocation(MIB, None, k) for k in range(100)]
    assert residents(unknown, [MIB] * 100, (), (), 150 * MIB) == (50 * MIB,)


def test_what_the_steps_allocate_is_in_the_trace():
    traced = [Allocation(MIB, 0, 1, 2 * MIB), Allocation(MIB, 2, None, 2 * MIB)]
    assert residents(traced, [MIB], (), (), MIB) == (MIB,)


@given(sizes, sizes, sizes, st.data())
def test_each_is_replayed_once(weights, slots, data, drawn):
    """Either because it stays, or because it is in the trace."""
    everything = [*weights, *data, *slots]
    given_back = drawn.draw(st.lists(st.sampled_from(everything or [MIB]), max_size=3))
    given_back = [size for size in given_back if given_back.count(size) <= everything.count(size)]
    traced = [Allocation(size, None, k, size) for k, size in enumerate(given_back)]
    stays = residents(traced, weights, slots, data, sum(everything))
    assert sorted([*stays, *given_back]) == sorted(everything)
