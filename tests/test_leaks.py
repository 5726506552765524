"""Memory that grows with each step, and peaks that only look like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.leaks import growth_per_step, rises

MIB = 1 << 20


@given(
    st.integers(0, 1 << 40),
    st.integers(1, 1 << 30),
    st.lists(st.floats(0, 1), min_size=6, max_size=40),
)
def test_steady_growth_is_seen_whatever_it_starts_from(start, rate, parts):
    peaks = [0, start]
    for part in parts:
        peaks.append(peaks[-1] + rate + int(part * rate))
    found = growth_per_step(peaks)
    assert found is not None
    assert rate <= found <= 2 * rate


@pytest.mark.parametrize(
    "peaks",
    [
        [],
        [5],
        [0, 100, 100, 100, 100, 100, 100, 100],
        [0, 100, 101, 102, 103, 104],  # too few to tell
        [0, 100, 104, 101, 105, 102, 106, 103, 107],  # scatter
        [0, 100, 150, 175, 187, 193, 196, 198],  # grows into a limit: a cache that fills
        [100, 90, 80, 70, 60, 50, 40],
        # the eager Dense of the survival tests, as measured
        [31744, 32768, 32768, 33280, 32512, 26624, 26880, 32000, 32768],
    ],
)
def test_what_is_no_leak(peaks):
    assert growth_per_step(peaks) is None


def test_the_first_step_may_add_what_it_likes():
    assert growth_per_step([1, 500, 504, 508, 512, 516, 520]) == 4


def test_a_real_leak_of_ten_mib_a_step() -> None:
    """As the emulated device told it of `samples/misbehaves.py`: with a dip."""
    peaks = [33575680, 44063744, 54549504, 67132416, 77612288, 88096256, 75516928, 98589440]
    rate = growth_per_step(peaks)
    assert rate is not None
    assert 8 * MIB < rate < 12 * MIB


@pytest.mark.parametrize(
    ("peaks", "answer"),
    [
        ([], False),
        ([0, 100, 100, 100], False),
        ([0, 100, 110, 120], True),
        ([500, 100, 110, 105], True),
        ([113, 113, 92, 92], False),  # as measured, without a leak
    ],
)
def test_a_short_trial_bears_a_leak_out_or_does_not(peaks, answer):
    assert rises(peaks) == answer
