"""Peak bytes as a function of batch size, fitted to the trials so far. Pure.

Memory over batch size is only piecewise linear: fixed costs hide the slope at small sizes, other
kernels bend it at large ones, and some losses are quadratic. So the model is no formula: it
interpolates between measured sizes (along a power of the size where memory grows faster than the
size does), extrapolates along the last slope that stands out of the noise, and says how far that
may be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from autobatch.records import Outcome, Trial

# How much faster than measured so far memory may grow beyond the largest size measured, as an
# exponent on the size: a quadratic loss hides behind fixed costs until it is measured at two sizes.
FIRST_EXPONENT = 2.0
EXPONENT_MARGIN = 0.35  # after two sizes
SEASONED_MARGIN = 0.15  # after more
NEED_VARIES = 0.03  # from trace to trace, as a share of what batches need by replay
# Where memory must not run out: how far a size may lie above the largest measured, and which share
# of what batches need must have been added since half that size for it to tell of the rest.
CAREFUL_JUMP = 2.0
STANDS_OUT = 0.2
CLOSE_JUMP = 1.2  # the same once batches need more than half of what there is for them
FROM_ONE = 4.0  # samples to try at most after a single one


@dataclass(frozen=True, slots=True)
class Point:
    """What one size needs, and the least that it may need: what its steady steps' peaks, and needs
    from trace to trace, differ by is no slope."""

    batch_size: int
    peak_bytes: int
    least_bytes: int


@dataclass(frozen=True)
class MemoryModel:
    """Peak bytes over batch size.

    Attributes:
        points: What was measured, by size, at least one.
        resident_bytes: In use between steps: what a batch of no samples would need.
    """

    points: tuple[Point, ...]
    resident_bytes: int

    def predict(self, batch_size: float) -> float:
        """Bytes at the peak that are to be expected at this size."""
        before = Point(0, self.resident_bytes, self.resident_bytes)
        for point in self.points:
            if batch_size <= point.batch_size:
                exponent, low, high = self._powers(before, point)
                share = (batch_size**exponent - low) / (high - low)
                return float(before.peak_bytes + share * (point.peak_bytes - before.peak_bytes))
            before = point
        return before.peak_bytes + self.slope * (batch_size - before.batch_size)

    @property
    def slope(self) -> float:
        """Bytes a sample beyond the largest size measured; at least one."""
        last, before = self.points[-1], self.foothold
        if before is None:
            return max(1.0, (last.peak_bytes - self.resident_bytes) / last.batch_size)
        rise = last.peak_bytes - before.peak_bytes
        return max(1.0, rise / (last.batch_size - before.batch_size))

    @cached_property
    def foothold(self) -> Point | None:
        """The last point that lies clearly below the largest, in size and in bytes, so that the
        scatter between two near sizes is not taken for a slope; None where there is none yet."""
        last = self.points[-1]
        for point in reversed(self.points[:-1]):
            rise = last.peak_bytes - point.peak_bytes
            scatter = last.peak_bytes - last.least_bytes + point.peak_bytes - point.least_bytes
            if point.batch_size <= 0.8 * last.batch_size and rise > 2 * scatter:
                return point
        return None

    def largest_within(self, limit_bytes: float) -> float:
        """The size whose expected peak meets the limit; 0 where even no sample fits."""
        before = Point(0, self.resident_bytes, self.resident_bytes)
        if before.peak_bytes > limit_bytes:
            return 0.0
        for point in self.points:
            if point.peak_bytes > limit_bytes:
                share = (limit_bytes - before.peak_bytes) / (point.peak_bytes - before.peak_bytes)
                exponent, low, high = self._powers(before, point)
                return float((low + share * (high - low)) ** (1 / exponent))
            if point.peak_bytes > before.peak_bytes or point.batch_size > before.batch_size:
                before = point
        return before.batch_size + (limit_bytes - before.peak_bytes) / self.slope

    def _powers(self, low: Point, high: Point) -> tuple[float, float, float]:
        """With which exponent on the size a batch's need grows from one size to the other, at least
        1 and at most 2, and both sizes raised to it."""
        exponent = min(FIRST_EXPONENT, max(1.0, self._growth(low, high) or 1.0))
        return exponent, low.batch_size**exponent, high.batch_size**exponent

    def _growth(self, low: Point, high: Point) -> float | None:
        """The power of the size with which a batch's need grew; None where it did not."""
        first, last = low.peak_bytes - self.resident_bytes, high.peak_bytes - self.resident_bytes
        if low.batch_size < 1 or not 0 < first < last:
            return None
        return math.log(last / first) / math.log(high.batch_size / low.batch_size)

    def largest_without_risk(self, limit_bytes: float) -> float:
        """The size that stays within the limit even if memory grows faster than it did so far."""
        last = self.points[-1]
        active = max(1, last.peak_bytes - self.resident_bytes)
        room = max(0.0, limit_bytes - self.resident_bytes)
        size = float(last.batch_size * (room / active) ** (1 / self._pessimistic_exponent))
        if self.foothold is None or len(self.points) < 3 or limit_bytes <= last.peak_bytes:
            return size
        # Fixed costs may be most of what batches need: they do not grow, whatever the samples do.
        return max(size, self._squared(self.foothold, limit_bytes - last.peak_bytes))

    def _squared(self, low: Point, room: float) -> float:
        """The size for which the room does if what was added since that point, and all that is to
        come, grows with the square of the size."""
        last = self.points[-1]
        squares = last.batch_size**2 - low.batch_size**2
        return math.sqrt(last.batch_size**2 + room * squares / (last.peak_bytes - low.peak_bytes))

    def largest_surely_within(self, limit_bytes: float) -> float:
        """The size for which the limit does even where memory bends upwards from here on.

        Twice a size may need four times what its batch needed (a quadratic loss), and the steepest
        slope so far may double with the size (one that fixed costs have hidden). The steepest, for
        a peak that is low for its size is luck with the order of threads; but one of several that
        is higher for its size than all others is bad luck, and does not count. Of one sample alone
        nothing is taken to be quadratic yet, for gradients and other fixed costs outweigh it: two
        may be tried where twice as much fits.
        """
        last = self.points[-1]
        room = limit_bytes - last.peak_bytes
        if room <= 0:  # a size beyond went through, so one between the two does
            return self.largest_within(limit_bytes)
        active = max(1, last.peak_bytes - self.resident_bytes)
        size = last.batch_size * math.sqrt(1 + room / active)
        size = max(size, (size + min(CAREFUL_JUMP * last.batch_size, self._bent(room, active))) / 2)
        if last.batch_size == 1:
            size = max(size, min(FROM_ONE, 1 + room / active))
        if room < active:  # fragmentation may set in at once, whatever the slope so far
            size = min(size, max(CLOSE_JUMP * last.batch_size, last.batch_size + 1))
        slope, bounds = self._steepest, []
        for place, point in enumerate(reversed(self.points)):
            near = 4 * point.batch_size >= 3 * last.batch_size
            if not near and (place > 1 or 2 * point.batch_size < last.batch_size):
                break  # those between were not all luck; and fixed costs may be none by now
            # point.peak_bytes + slope * (size - point.batch_size) * size / last.batch_size
            over = (limit_bytes - point.peak_bytes) / slope * last.batch_size
            half = point.batch_size / 2
            bounds.append(half + math.sqrt(half * half + max(0.0, over)))
        bounds.sort()
        return min(size, bounds[1 if len(bounds) > 2 else 0])

    def _bent(self, room: float, active: float) -> float:
        """The size for which the room does if all that was added lately grows quadratically.

        Fixed costs, such as gradients, then count once and not with the square of the size; 0.0
        while nothing stands out of them, for a quadratic loss may hide behind. Larger sizes may
        also bring other kernels: so a search goes half as far.
        """
        last = self.points[-1]
        for point in reversed(self.points[:-1]):
            rise = last.peak_bytes - point.peak_bytes
            if 2 * point.batch_size <= last.batch_size and rise > STANDS_OUT * active:
                return self._squared(point, room)
        return 0.0

    @property
    def _steepest(self) -> float:
        """Bytes a sample between two of the larger sizes, well apart, where that was most.

        Among small ones it tells of kernels that begin to serve, and not of samples.
        """
        slope = self.slope if len(self.points) > 1 else 1.0
        large = [p for p in self.points if 4 * p.batch_size >= self.points[-1].batch_size]
        for place, point in enumerate(large):
            for before in large[:place]:
                if before.batch_size <= 0.75 * point.batch_size:
                    run = point.batch_size - before.batch_size
                    slope = max(slope, (point.peak_bytes - before.peak_bytes) / run)
        return slope

    @property
    def exponent(self) -> float:
        """The power of the size with which a batch's need grows at the largest sizes, from 1 to 2;
        1 where that is not known."""
        return min(FIRST_EXPONENT, max(1.0, self._seen_exponent or 1.0))

    @property
    def _pessimistic_exponent(self) -> float:
        if self._seen_exponent is None:
            return FIRST_EXPONENT
        margin = EXPONENT_MARGIN if len(self.points) < 3 else SEASONED_MARGIN
        return min(FIRST_EXPONENT, max(1.0, self._seen_exponent) + margin)

    @property
    def _seen_exponent(self) -> float | None:
        """The power by which it grew to the largest size from one that is no more than half."""
        last = self.points[-1]
        for point in reversed(self.points[:-1]):
            seen = self._growth(point, last)
            if point.batch_size <= 0.5 * last.batch_size and seen is not None:
                return seen
        return None


def step_bytes(trials: Iterable[Trial]) -> Callable[[Trial], int | None]:
    """What the steps of each of these trials need, all in one kind of number.

    Replays count fragmentation, peaks do not. Where some trials were replayed, the peaks of others
    are raised by as much, above what is in use between steps, as at the nearest size replayed: a
    peak beside needs would bend the curve.

    Args:
        trials: All there are.

    Returns:
        For one of them its bytes; None where it was not measured.
    """
    replayed = [t for t in _measured(trials) if t.needed_bytes is not None]

    def of(trial: Trial) -> int | None:
        peak = trial.step_bytes
        if peak is None or not replayed or trial.needed_bytes is not None:
            return peak
        nearest = min(replayed, key=lambda t: abs(math.log(t.batch_size / trial.batch_size)))
        resident = nearest.resident_bytes or 0
        assert nearest.peak_bytes is not None
        assert nearest.needed_bytes is not None
        active = max(1, nearest.peak_bytes - resident)
        ratio = max(1.0, (nearest.needed_bytes - resident) / active)
        return peak + int((ratio - 1) * max(0, peak - resident))

    return of


def _measured(trials: Iterable[Trial]) -> list[Trial]:
    """Search trials with a peak."""
    fitted = (t for t in trials if not t.proof and t.outcome is Outcome.FITS)
    return [t for t in fitted if t.peak_bytes is not None]


def fit(trials: Iterable[Trial]) -> MemoryModel | None:
    """The model of these trials; None while no search trial has been measured.

    Proofs are left out: under the tight limit itself peaks say little. So is the first step of
    a trial, which builds what later ones find. Peaks never fall as sizes grow, so a lower one at
    a larger size is scatter, and the higher one stands for both.
    """
    measured: dict[int, Point] = {}
    resident = None
    trials = _measured(trials)
    needed = step_bytes(trials)
    for trial in trials:
        assert trial.peak_bytes is not None
        steady = trial.step_peak_bytes[1:] or trial.step_peak_bytes or (trial.peak_bytes,)
        required = needed(trial) or trial.peak_bytes
        least = min(steady)
        if trial.needed_bytes is not None and trial.peak_bytes:
            # Fragmentation is no scatter, however much there is of it.
            varies = NEED_VARIES * (required - (trial.resident_bytes or 0))
            least = int(least * required / trial.peak_bytes - varies)
        point = Point(trial.batch_size, required, min(least, required))
        known = measured.get(trial.batch_size)
        if known is not None:
            point = Point(
                point.batch_size,
                max(point.peak_bytes, known.peak_bytes),
                min(point.least_bytes, known.least_bytes),
            )
        measured[trial.batch_size] = point
        if trial.resident_bytes is not None:
            lowest = min(trial.resident_bytes, trial.peak_bytes)
            resident = lowest if resident is None else min(resident, lowest)
    if not measured:
        return None
    points: list[Point] = []
    for size in sorted(measured):
        point = measured[size]
        if points and points[-1].peak_bytes > point.peak_bytes:
            point = Point(size, points[-1].peak_bytes, point.least_bytes)
        points.append(point)
    floor = points[0].peak_bytes
    return MemoryModel(tuple(points), min(resident if resident is not None else 0, floor))


def relative_spread(trials: Iterable[Trial], resident_bytes: int) -> float:
    """How far the peaks of a training at one size lie apart, as a share of what its batch needs.

    The largest over the trials at sizes near the largest; 0.0 where no trial had steady steps.
    """
    measured = [t for t in _measured(trials) if len(t.step_peak_bytes) > 2]
    largest = max((t.batch_size for t in measured), default=0)
    spreads = [0.0]
    for trial in measured:
        if trial.batch_size >= largest / 4:
            steady = trial.step_peak_bytes[1:]
            active = max(1, max(steady) - resident_bytes)
            spreads.append((max(steady) - min(steady)) / active)
    return max(spreads)
