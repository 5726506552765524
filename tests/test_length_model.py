"""The memory model over batch size and length: what it finds of a known one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import length_model
from autobatch.records import Outcome, Trial
from autobatch.units import MIB

RESIDENT = 50 * MIB


def trial(size: int, length: int, needed: float) -> Trial:
    peak = int(RESIDENT + needed)
    return Trial(
        batch_size=size,
        sequence_length=length,
        outcome=Outcome.FITS,
        peak_bytes=peak,
        step_peak_bytes=(peak, peak, peak),
        resident_bytes=RESIDENT,
    )


def needs(fixed: float, sample: float, token: float, pair: float, b: int, n: int) -> float:
    return fixed + b * (sample + n * (token + n * pair))


def test_nothing_is_known_without_trials() -> None:
    assert length_model.fit([]) is None
    assert length_model.fit([Trial(batch_size=1, outcome=Outcome.OUT_OF_MEMORY)]) is None


def test_one_length_foretells_others_by_tokens() -> None:
    model = length_model.fit([trial(64, 500, 64 * 500 * 4000)])
    assert model is not None
    assert model.lengths == 1
    assert model.largest_within(RESIDENT + 64 * 500 * 4000, 50) == pytest.approx(640)


@given(
    st.sampled_from([0.0, 5e6]),
    st.sampled_from([0.0, 1e5]),
    st.sampled_from([2e3, 2e4]),
    st.sampled_from([0.0, 20.0, 200.0]),
)
def test_two_lengths_foretell_those_between(
    fixed: float, sample: float, token: float, pair: float
) -> None:
    measured = [(2, 500), (40, 500), (80, 500), (30, 60), (700, 60)]
    trials = [trial(b, n, needs(fixed, sample, token, pair, b, n)) for b, n in measured]
    model = length_model.fit(trials)
    assert model is not None
    limit = RESIDENT + 1024 * MIB
    for length in (120, 250, 400):
        true = (1024 * MIB - fixed) / (sample + length * (token + length * pair))
        assert model.largest_within(limit, length) == pytest.approx(true, rel=0.12)
    assert min(model.fixed, model.per_sample, model.per_token, model.per_pair) >= 0


def test_attention_is_found_to_be_quadratic() -> None:
    measured = [(8, 512), (16, 512), (100, 64), (300, 64), (40, 256)]
    model = length_model.fit([trial(b, n, b * (1e4 * n + 400 * n * n)) for b, n in measured])
    assert model is not None
    assert model.per_pair == pytest.approx(400, rel=0.02)
    assert model.per_token == pytest.approx(1e4, rel=0.1)


def test_the_greatest_length_at_which_a_batch_fits() -> None:
    model = length_model.fit([trial(1, 100, 1e8), trial(1, 200, 2e8), trial(2, 200, 4e8)])
    assert model is not None
    assert model.longest_within(RESIDENT + 1.5e8, 1, 500) in range(148, 152)
    assert model.longest_within(RESIDENT, 1, 500) == 0
    assert model.longest_within(RESIDENT + 1e12, 1, 500) == 500


def test_what_fits_grows_with_the_room_and_falls_with_the_length() -> None:
    model = length_model.fit([trial(4, 500, 4e8), trial(30, 60, 3e8), trial(9, 200, 3.2e8)])
    assert model is not None
    sizes = [model.largest_within(RESIDENT + 1e9, n) for n in (50, 100, 200, 400)]
    assert sizes == sorted(sizes, reverse=True)
    assert model.predict(sizes[1], 100) == pytest.approx(RESIDENT + 1e9)
