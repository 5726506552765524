"""What of a step's memory may grow with the batch size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.fragmentation import Allocation, requested_peak
from autobatch.growth import growing_bytes, tells_growth

VARIABLES = (4 * 7 * 7 * 3 * 64, 4 * 64 * 128, 4 * 3 * 3 * 128 * 128, 4 * 128)
FIXED = sorted({each for size in VARIABLES for each in (size, size // 2)})


def live_together(sizes, start=0):
    return [Allocation(size, start + place, 10_000) for place, size in enumerate(sizes)]


@given(
    st.integers(1, 200),
    st.lists(st.integers(1, 4096).map(lambda n: 4 * n), max_size=8),
    st.lists(st.sampled_from(FIXED), max_size=8),
    st.lists(st.integers(1, 1 << 20), max_size=4),
)
def test_what_has_a_batch_axis_counts_and_so_does_what_is_unknown(batch, samples, copies, unknown):
    batches = live_together([batch * sample for sample in samples])
    others = live_together([size for size in unknown if size not in FIXED], 100)
    fixed = live_together(copies, 200)
    found = growing_bytes([*batches, *others, *fixed], batch, VARIABLES)
    assert requested_peak([*batches, *others]) <= found
    assert found <= requested_peak([*batches, *others, *fixed])


@pytest.mark.parametrize(("batch", "grows"), [(1, 3), (4, 3), (11, 1), (10, 1)])
def test_gradients_and_copies_in_half_precision_do_not(batch, grows):
    size = VARIABLES[1]
    traced = live_together([size, size // 2, batch * size])
    assert growing_bytes(traced, batch, VARIABLES) == sum(
        each.requested_bytes for each in traced[-grows:]
    )


def test_only_what_is_live_at_once():
    one, two = Allocation(7 * 100, 0, 1), Allocation(7 * 50, 2, 3)
    assert growing_bytes([one, two], 7, ()) == 700


def test_powers_of_two_and_three_tell_nothing():
    assert [size for size in range(1, 25) if not tells_growth(size)] == [
        1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24,
    ]  # fmt: skip
