"""The memory model: what it makes of measured peaks, and how far it trusts them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import memory_model
from autobatch.memory_model import MemoryModel, Point, fit, relative_spread
from autobatch.records import Outcome, Trial

MIB = 1 << 20


def trial(size: int, *peaks: float, resident: float | None = None, **fields: object) -> Trial:
    """A trial of these peaks in MiB, one a step."""
    steps = tuple(int(p * MIB) for p in peaks)
    return Trial(
        batch_size=size,
        outcome=fields.pop("outcome", Outcome.FITS),
        peak_bytes=max(steps, default=None),
        step_peak_bytes=steps,
        resident_bytes=None if resident is None else int(resident * MIB),
        **fields,
    )


def line(*sizes: int, resident: float = 100, slope: float = 2) -> MemoryModel:
    model = fit([trial(b, resident + slope * b, resident=resident) for b in sizes])
    assert model is not None
    return model


# -- fit -----------------------------------------------------------------------------------------


def test_nothing_measured_no_model() -> None:
    assert fit([]) is None
    assert fit([Trial(batch_size=2, outcome=Outcome.FITS)]) is None
    assert fit([trial(2, 100, outcome=Outcome.OUT_OF_MEMORY)]) is None
    assert fit([trial(2, 100, proof=True)]) is None


def test_only_search_trials_that_fitted_are_points() -> None:
    model = fit(
        [
            trial(4, 100, resident=50),
            trial(8, 300, outcome=Outcome.OUT_OF_MEMORY, resident=1),
            trial(8, 500, proof=True, resident=2),
            trial(2, 75, resident=60),
        ]
    )
    assert model == MemoryModel(
        (Point(2, 75 * MIB, 75 * MIB), Point(4, 100 * MIB, 100 * MIB)), 50 * MIB
    )


def test_the_first_step_counts_for_the_peak_but_not_for_the_scatter() -> None:
    model = fit([trial(4, 60, 110, 100, resident=50)])
    assert model is not None
    assert model.points == (Point(4, 110 * MIB, 100 * MIB),)


def test_trials_of_one_size_are_one_point() -> None:
    model = fit([trial(4, 100, 100, 98), trial(4, 104, 104, 99), trial(4, 101, 101, 101)])
    assert model is not None
    assert model.points == (Point(4, 104 * MIB, 98 * MIB),)


def test_a_lower_peak_at_a_larger_size_is_scatter() -> None:
    model = fit([trial(4, 100), trial(8, 90), trial(16, 120)])
    assert model is not None
    assert [p.peak_bytes // MIB for p in model.points] == [100, 100, 120]
    assert model.predict(6) == 100 * MIB


def test_a_peak_beside_replayed_steps_counts_with_as_much_fragmentation_as_they_had() -> None:
    # An LSTM at 1 GiB: the trial at 512 was not replayed, that at 674 needs 1.36 times its peak.
    trials = [
        trial(16, 64, resident=25),
        trial(512, 761, resident=25),
        trial(674, 975, resident=25, needed_bytes=1320 * MIB),
    ]
    model = fit(trials)
    assert model is not None
    assert model.predict(512) == pytest.approx((761 + 736 * 345 / 950) * MIB, rel=1e-3)
    assert 450 < model.largest_within(973 * MIB) < 500  # by peaks and needs mixed it was 522
    assert model.resident_bytes == 25 * MIB


def test_the_fragmentation_that_counts_is_that_of_the_nearest_size() -> None:
    trials = [
        trial(8, 100, resident=0, needed_bytes=200 * MIB),
        trial(9, 110, resident=0),
        trial(60, 600, resident=0),
        trial(64, 640, resident=0, needed_bytes=640 * MIB),
    ]
    of = memory_model.step_bytes(trials)
    assert [round(of(each) / MIB) for each in trials] == [200, 220, 600, 640]


def test_a_peak_above_what_replays_need_is_no_less_than_itself() -> None:
    of = memory_model.step_bytes([trial(8, 100, resident=0, needed_bytes=90 * MIB)])
    assert of(trial(4, 50)) == 50 * MIB


def test_unknown_resident_bytes_are_none() -> None:
    model = fit([trial(4, 100)])
    assert model is not None
    assert model.resident_bytes == 0


def test_resident_bytes_are_never_above_the_lowest_peak() -> None:
    model = fit([trial(4, 100, resident=900), trial(2, 80)])
    assert model is not None
    assert model.resident_bytes == 80 * MIB


# -- predict, and its inverse --------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 7, 10, 100, 1000])
def test_a_straight_line_is_predicted_inside_and_beyond(size: int) -> None:
    model = line(2, 10, 40)
    assert model.predict(size) == pytest.approx((100 + 2 * size) * MIB)
    assert model.largest_within((100 + 2 * size) * MIB) == pytest.approx(size)


@pytest.mark.parametrize("power", [1.0, 1.4, 2.0])
@pytest.mark.parametrize("size", [600, 1000, 2500, 7000])
def test_between_two_sizes_a_power_is_followed(power: float, size: int) -> None:
    def mib(batch_size: int) -> float:
        return 10 + 120 * (batch_size / 2500) ** power

    model = fit([trial(b, mib(b), resident=10) for b in (512, 7620)])
    assert model is not None
    assert model.predict(size) == pytest.approx(mib(size) * MIB, rel=1e-3)
    assert model.largest_within(mib(size) * MIB) == pytest.approx(size, rel=1e-3)


def test_where_memory_grows_slower_than_the_size_or_faster_than_its_square() -> None:
    """A straight line between the two, and a parabola."""
    for low, high, share in ((20, 21, 1 / 2), (10.001, 90, (30**2 - 10**2) / (50**2 - 10**2))):
        model = fit([trial(10, low, resident=10), trial(50, high, resident=10)])
        assert model is not None
        assert model.predict(30) == pytest.approx((low + share * (high - low)) * MIB, rel=1e-3)


def test_beyond_the_last_size_the_last_slope_holds() -> None:
    # flat to 64, then 1 MiB a sample: one line through everything would mislead
    model = fit([trial(b, max(100, 100 + b - 64), resident=90) for b in (2, 64, 164)])
    assert model is not None
    assert model.slope == pytest.approx(1 * MIB)
    assert model.predict(264) == pytest.approx(300 * MIB)


def test_the_scatter_between_two_near_sizes_is_no_slope() -> None:
    near = fit([trial(10, 120, resident=100), trial(100, 300), trial(101, 320)])
    assert near is not None
    # 20 MiB a sample between the last two; but 2.2 over the whole
    assert near.slope == pytest.approx(200 / 91 * MIB)
    noisy = fit([trial(10, 120, resident=100), trial(50, 260, 260, 210), trial(100, 300, 300, 260)])
    assert noisy is not None
    # a rise of 40 from 50 to 100 with a scatter of 90; that from 10 to 100 stands out of it
    assert noisy.slope == pytest.approx(180 / 90 * MIB)


def test_fragmentation_is_no_scatter() -> None:
    """A ResNet50 that XLA compiles, whose replays need 120 MiB more than its peaks at any size."""
    measured = ((8, 383, 505), (18, 447, 568), (34, 547, 668))
    model = fit([trial(b, p, p, resident=213, needed_bytes=n * MIB) for b, p, n in measured])
    assert model is not None
    assert model.slope == pytest.approx(100 / 16 * MIB)
    # but needs differ by as much as this from trace to trace
    near = ((8, 383, 505), (26, 505, 628), (34, 507, 645))
    model = fit([trial(b, p, p, resident=213, needed_bytes=n * MIB) for b, p, n in near])
    assert model is not None
    assert model.slope == pytest.approx(140 / 26 * MIB)


def test_with_nothing_to_compare_the_slope_is_that_from_no_sample() -> None:
    assert line(10).slope == pytest.approx(2 * MIB)


def test_a_flat_curve_has_a_slope_nevertheless() -> None:
    model = fit([trial(2, 100, resident=100), trial(200, 100, resident=100)])
    assert model is not None
    assert model.slope == 1.0
    assert model.largest_within(101 * MIB) == 200 + MIB


def test_not_even_one_sample() -> None:
    assert line(2, 10).largest_within(99 * MIB) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 8000)), min_size=1, max_size=8),
    st.none() | st.floats(0, 500),
    st.floats(0, 10000),
    st.integers(0, 10**7),
)
def test_whatever_was_measured_the_model_is_a_rising_curve(
    measured: list[tuple[int, float]], resident: float | None, limit: float, size: int
) -> None:
    model = fit([trial(b, p, resident=resident) for b, p in measured])
    assert model is not None
    low, high = model.predict(size), model.predict(size + 1)
    assert model.resident_bytes <= low <= high
    for b, p in measured:  # never below what was seen
        assert model.predict(b) >= int(p * MIB) - 1
    found = model.largest_within(limit * MIB)
    assert found >= 0
    if found:
        assert model.predict(found) <= limit * MIB * (1 + 1e-9) + 1
        assert model.predict(found * (1 + 1e-6) + 1) >= limit * MIB * (1 - 1e-9) - 1
    assert 0 <= model.largest_without_risk(limit * MIB) < float("inf")


# -- how far it is trusted -----------------------------------------------------------------------


def test_after_one_size_memory_may_be_quadratic() -> None:
    model = line(10)  # 20 MiB beyond what is resident
    assert model.largest_without_risk(100 * MIB + 20 * 4 * MIB) == pytest.approx(20)
    assert model.largest_without_risk(100 * MIB + 20 * 100 * MIB) == pytest.approx(100)


def test_two_sizes_are_trusted_further_and_three_further_still() -> None:
    limit = 100 * MIB + 20 * 100 * MIB  # 1000 samples on the straight line
    after = [line(*sizes).largest_without_risk(limit) for sizes in [(10,), (2, 10), (2, 5, 10)]]
    assert after[0] < after[1] < after[2] < 1000
    assert after[1] == pytest.approx(10 * 100 ** (1 / (1 + memory_model.EXPONENT_MARGIN)))
    assert after[2] == pytest.approx(10 * 100 ** (1 / (1 + memory_model.SEASONED_MARGIN)))


def test_fixed_costs_are_no_risk_that_grows() -> None:
    """Most of what the batches need is there at any size: 300 MiB of gradients, say."""

    def need(size: float) -> float:
        return 400 + 2 * size

    few = fit([trial(b, need(b), resident=100) for b in (4, 16)])
    more = fit([trial(b, need(b), resident=100) for b in (4, 16, 32)])
    assert few is not None
    assert more is not None
    assert few.largest_without_risk(need(64) * MIB) < 20
    # (64 - 32) * 2 MiB, were they added with the square of the size as the last 16 samples' were
    told = math.sqrt(32**2 + 64 * (32**2 - 16**2) / 32)
    assert more.largest_without_risk(need(64) * MIB) == pytest.approx(told)
    assert more.largest_without_risk(need(31) * MIB) < 32


@pytest.mark.parametrize("power", [1.0, 1.3, 1.6, 2.0])
@pytest.mark.parametrize("sizes", [(10,), (4, 16), (2, 8, 32), (2, 4, 8, 16)])
def test_without_risk_means_within_the_limit_for_any_power_up_to_the_square(
    power: float, sizes: tuple[int, ...]
) -> None:
    def need(size: float) -> float:
        return 100 + 0.5 * size**power

    model = fit([trial(b, need(b), resident=100) for b in sizes])
    assert model is not None
    for limit in (200, 1000, 10_000):
        largest = model.largest_without_risk(limit * MIB)
        assert need(largest) <= limit * 1.001 or largest <= sizes[-1]


def test_what_a_larger_size_went_through_with_a_smaller_one_surely_does() -> None:
    model = line(20, 40, 100)  # 300 MiB at 100
    assert model.largest_surely_within(250 * MIB) == pytest.approx(75)
    assert model.largest_surely_within(100 * MIB) == 0


def test_fixed_costs_do_not_grow_with_the_size() -> None:
    heavy = fit([trial(size, 300 + 10 * size, resident=0) for size in (5, 10, 20)])
    assert heavy is not None
    surely = heavy.largest_surely_within(600 * MIB)
    assert 20 * (600 / 500) ** 0.5 < surely < 30  # as if all of it did
    hidden = fit([trial(size, 300 + size / 100, resident=0) for size in (5, 10, 20)])
    assert hidden is not None  # a quadratic loss may be about to come out from behind them
    assert hidden.largest_surely_within(400 * MIB) <= 20 * (400 / 300) ** 0.5


def test_one_that_is_higher_than_those_near_it_does_not_decide_and_two_do() -> None:
    """Needs of an LSTM, in thousandths: threads in an unlucky order at 165 samples."""

    def surely(*needs: tuple[int, float]) -> float:
        points = [(68, 335), (123, 559), *needs]
        return MemoryModel(
            tuple(Point(size, round(each * MIB), round(each * MIB)) for size, each in points),
            75 * MIB,
        ).largest_surely_within(950 * MIB)

    unlucky = surely((165, 800), (183, 800), (190, 800))  # raised to what a smaller one needs
    assert 200 < unlucky < 215
    assert surely((165, 800)) < 195
    assert surely((165, 800), (170, 820), (190, 820)) < 200


def test_no_risk_is_taken_where_there_is_no_room() -> None:
    assert line(2, 10).largest_without_risk(50 * MIB) == 0.0


# -- the spread ----------------------------------------------------------------------------------


def test_the_spread_is_a_share_of_what_the_batch_needs() -> None:
    steady = trial(40, 0, 200, 190, 195)
    assert relative_spread([steady], 100 * MIB) == pytest.approx(0.1)
    assert relative_spread([steady], 0) == pytest.approx(0.05)


def test_the_first_step_does_not_spread() -> None:
    assert relative_spread([trial(40, 500, 200, 200, 200)], 0) == 0.0


def test_only_sizes_near_the_largest_tell_the_spread() -> None:
    small, large = trial(2, 10, 10, 5, 10), trial(40, 200, 200, 190, 200)
    assert relative_spread([small, large], 0) == pytest.approx(0.05)
    assert relative_spread([trial(10, 20, 20, 10, 20), large], 0) == pytest.approx(0.5)


def test_proofs_deaths_and_short_trials_tell_no_spread() -> None:
    assert relative_spread([], 0) == 0.0
    assert relative_spread([trial(40, 200, 100)], 0) == 0.0
    assert relative_spread([trial(40, 200, 100, 200, proof=True)], 0) == 0.0
    died = trial(40, 200, 100, 200, outcome=Outcome.OUT_OF_MEMORY)
    assert relative_spread([died], 0) == 0.0


def test_from_one_sample_one_goes_to_as_many_as_fit_with_each_needing_as_much() -> None:
    """A ResNet50's peak at one sample as measured; its weights and momenta by their number."""
    model = MemoryModel((Point(1, 355_002_368, 355_002_368),), resident_bytes=190_000_000)
    assert 3 <= model.largest_surely_within(735_000_000) < 4
    assert 2 <= model.largest_surely_within(525_000_000) < 3
    assert model.largest_surely_within(500_000_000) < 2
    assert model.largest_surely_within(1_200_000_000) == memory_model.FROM_ONE
    ten = MemoryModel((Point(10, 355_002_368, 355_002_368),), resident_bytes=190_000_000)
    assert ten.largest_surely_within(735_000_000) < 20


def test_beyond_half_of_what_there_is_a_sure_step_is_short_however_flat_memory_was() -> None:
    """Fragmentation sets in at once: nothing before it foretells it."""
    fitted = fit([trial(50, 505), trial(100, 520)])  # fixed costs of 490
    assert fitted is not None
    assert fitted.largest_surely_within(900 * MIB) == pytest.approx(memory_model.CLOSE_JUMP * 100)
    assert fitted.largest_surely_within(1_100 * MIB) > 1.4 * 100  # less than half
    small = fit([trial(2, 505), trial(4, 520)])
    assert small is not None
    assert small.largest_surely_within(900 * MIB) == 5  # one more may be tried
