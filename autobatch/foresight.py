"""What a training would need at other batch sizes, told by the allocations of two trials. Pure.

Most of what steps allocate is the same at every batch size (the gradient of a weight), or grows
with the size (an activation), or with its square (the similarities of all pairs): which, the trace
of a trial at another size tells, as it holds an allocation of just the bytes that there would be.
What XLA plans for a whole program is none of these, but near to a straight line through both.
Allocations of other bytes, in the same order, are a trace of a size that was never tried, and can
be replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from autobatch.footprint import FINEST, Allocation, at_peak, requested_peak
from autobatch.fragmentation import needed_under
from autobatch.replays import HUGE, Replay

EXPONENTS = (0, 1, 2)  # of the batch size
UNEXPLAINED = 0.02  # share of the bytes live at the peak that may follow no law
APART = 1.5  # times as large must one size be as the other, or laws are hard to tell apart
ORDERS = 6  # replays that must all go through at first; twice as many tell the need then
FARTHEST = 1024  # times the size, beyond which nothing is foretold
EXACT = 0.01  # of the size foretold
MOST = 50_000  # allocations; more are not replayed at another size
# From the size at which the bytes live alone would be too many, down in such steps, at most to:
STEP, LEAST_SHARE = 0.8, 0.25
ROUNDS, NEAR = 8, 0.02  # to find that size, and how near to it is near enough
# Allocations a step, of at least the bytes live at its peak over `FINEST`: fewer are few. (A CNN of
# two convolutions has 16 to 20, two towers of dense layers 26; a U-Net, a transformer and ResNet50
# have 136 to 496.)
FEW_TENSORS = 64


@dataclass(frozen=True)
class Traced:
    """The first steps of a trial.

    Attributes:
        batch_size: Its size.
        allocations, residents, grows, steps: See `Replay`.
    """

    batch_size: int
    allocations: tuple[Allocation, ...]
    residents: tuple[int, ...] = ()
    grows: bool = True
    steps: int = 1

    def replay(self) -> Replay:
        """Ready to be replayed."""
        return Replay(
            self.allocations, residents=self.residents, grows=self.grows, steps=self.steps
        )

    @cached_property
    def census(self) -> Census:
        """Which bytes it asked for."""
        number = Counter(a.requested_bytes for a in self.allocations)
        return Census(self.batch_size, {each: n / self.steps for each, n in number.items()})

    @cached_property
    def live_bytes(self) -> int:
        """Most bytes live at once."""
        return requested_peak(self.allocations, sum(self.residents))

    @property
    def has_loops(self) -> bool:
        """Some of it is a loop's."""
        return any(a.in_loop for a in self.allocations)

    @property
    def has_few_tensors(self) -> bool:
        """A step takes few large allocations, none of them all at once, and has no loop."""
        if self.has_loops or self.is_compiled:
            return False
        least = self.live_bytes / FINEST
        large = sum(a.start is not None and a.requested_bytes >= least for a in self.allocations)
        return 0 < large < FEW_TENSORS * self.steps

    @property
    def is_compiled(self) -> bool:
        """A program that XLA compiled takes most of what it needs at once."""
        largest = max((a.requested_bytes for a in self.allocations), default=0)
        return largest >= HUGE * self.live_bytes


@dataclass(frozen=True, slots=True)
class Census:
    """How often a step of a trial at this size asks for how many bytes."""

    batch_size: int
    times: Mapping[int, float]


class Growth:
    """How each allocation of a trace grows with the batch size.

    Args:
        traced: The trace.
        other: Of a trial at another size.
    """

    def __init__(self, traced: Traced, other: Census) -> None:
        self._traced = traced
        self._live = self._live_at(traced)
        self._exponents: dict[int, int] = {}
        self._slopes: dict[int, float] = {}
        self._lost = self._find_laws(traced.census, other, sum(self._live) // FINEST)

    def _find_laws(self, own: Census, other: Census, least: int) -> set[int]:
        """Which law each size in bytes follows; those of at least so many that follow none."""
        size, there = own.batch_size, other.batch_size
        laws = {each: _laws(each, size, there, other) for each in own.times}
        left = dict(other.times)
        unknown = [each for each, found in laws.items() if not found and each >= least]
        for each in sorted(laws, key=lambda each: len(laws[each])):  # the clear cases first
            times = own.times[each]

            def likeness(law: tuple[int, int], times: float = times) -> tuple[float, float, int]:
                exponent, image = law
                return _alike(times, left[image]), _alike(times, other.times[image]), exponent

            if laws[each]:  # of those followed as often, the one that grows fastest
                self._exponents[each], image = max(laws[each], key=likeness)
                left[image] -= times
        seen = {image for image, times in left.items() if times < other.times[image]}
        # What is left on both sides is paired by its rank: a straight line through the two.
        rest = sorted((e for e in other.times if e >= least and e not in seen), reverse=True)
        lost = set(unknown)
        for each, image in zip(sorted(unknown, reverse=True), rest, strict=False):
            if (each > image) == (size > there) and each != image:
                self._slopes[each] = (each - image) / (size - there)
                lost.remove(each)
        return lost

    def _live_at(self, traced: Traced) -> list[int]:
        """Bytes, in the trace that this is the growth of, of what lives at another one's peak."""
        every = self._traced.allocations
        return [every[number].requested_bytes for number in at_peak(traced.allocations)]

    def bytes_at(self, requested: int, batch_size: int) -> int:
        """What an allocation of so many bytes would be at another size."""
        own = self._traced.batch_size
        if requested in self._slopes:
            more = self._slopes[requested] * (batch_size - own)
            return max(1, round(requested + more))
        exponent = self._exponents.get(requested, 0)
        return int(requested // own**exponent * batch_size**exponent)

    def at(self, batch_size: int) -> Traced:
        """The trace, as it would be at another size."""
        known = {e: self.bytes_at(e, batch_size) for e in self._traced.census.times}
        return replace(
            self._traced,
            batch_size=batch_size,
            allocations=tuple(
                a
                if known[a.requested_bytes] == a.requested_bytes
                else a.resized(known[a.requested_bytes])
                for a in self._traced.allocations
            ),
        )

    @property
    def is_explained(self) -> bool:
        """All but `UNEXPLAINED` of the bytes live at the peak follow a law."""
        live = sum(self._live)
        return sum(each for each in self._live if each in self._lost) <= UNEXPLAINED * live

    def largest_within(self, limit_bytes: int, enough_bytes: int | None = None) -> int | None:
        """The largest size whose steps need no more than `enough_bytes` of a limit by their
        replays, to within some per cent; None where it is not in sight, or there is too much to be
        replayed.

        Args:
            limit_bytes: What there will be.
            enough_bytes: How much of it may be needed; by default all.
        """
        if len(self._traced.allocations) > MOST:
            return None
        most = self._most_live_within(limit_bytes)
        if most is None:
            return None
        low, high = most, most + 1
        while not self._goes_through(low, limit_bytes):
            low, high = int(STEP * low), low
            if low < max(1, most * LEAST_SHARE):
                return None
        while high - low > max(1, EXACT * low):
            middle = (low + high) // 2
            if self._goes_through(middle, limit_bytes):
                low = middle
            else:
                high = middle
        # A few replays went through; what is needed lies above what most of them do.
        resident = sum(self._traced.residents)
        room = (limit_bytes if enough_bytes is None else enough_bytes) - resident
        active = needed_under(self.at(low).replay(), limit_bytes, 2 * ORDERS) - resident
        return max(1, min(low, int(low * room / active)))

    def _goes_through(self, batch_size: int, limit_bytes: int) -> bool:
        replay = self.at(batch_size).replay()
        return all(replay.goes_through(order, limit_bytes) for order in range(ORDERS))

    def _most_live_within(self, limit_bytes: int) -> int | None:
        """A size that is no smaller than the largest at which all that is live at once fits; None
        where none is in sight."""
        size, most = self._traced.batch_size, None
        farthest = FARTHEST * size
        for _ in range(ROUNDS):
            # What is live at once at the peak of one size is so at every other, too.
            live = self._live_at(self.at(size))
            root = self._largest(live, limit_bytes - sum(self._traced.residents), farthest)
            if root is None:
                size = min(2 ** EXPONENTS[-1] * size, farthest)
                continue
            if not root or size >= root >= (1 - NEAR) * size:
                return root or None
            size = most = root
        return most

    def _largest(self, live: Sequence[int], room: int, farthest: int) -> int | None:
        """The largest size at which these allocations fit; None where it is beyond `farthest`."""

        def fits(batch_size: int) -> bool:
            return sum(self.bytes_at(each, batch_size) for each in live) <= room

        low, high = 0, farthest
        if fits(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


def _laws(requested: int, size: int, there: int, other: Census) -> list[tuple[int, int]]:
    """Powers of the size that an allocation may follow, and the bytes that there are of it at the
    other size."""
    found = []
    for exponent in EXPONENTS:
        factor, rest = divmod(requested, size**exponent)
        image = factor * there**exponent
        if not rest and image in other.times:
            found.append((exponent, image))
    return found


def _alike(one: float, other: float) -> float:
    """How near two rates are to each other: 1 for the same, 0 where one is none."""
    return max(0.0, min(one, other)) / max(one, other)


def nearest(sizes: Sequence[Census], batch_size: int) -> Census | None:
    """The trial nearest to this size, of those that lie well apart from it."""
    apart = [
        each
        for each in sizes
        if max(each.batch_size, batch_size) >= APART * min(each.batch_size, batch_size)
    ]
    return min(apart, key=lambda each: abs(each.batch_size - batch_size), default=None)


def begun(first: Traced, now: Traced) -> Traced | None:
    """What a process allocates whose first trial is at the size of `now`.

    A program that XLA compiled takes one long chunk, and what else a step needs lives in holes that
    the first step has left between the weights and slots: a trial in a process that has run others
    no longer shows how they came about, and its own first step dies where later ones would not.

    Args:
        first: Of the process's first trial, at another size.
        now: Of the present one.

    Returns:
        The first trial's trace at the present size; None where no compiled program is all that
        counts, or the first trial had less than the present one.
    """
    if first.batch_size == now.batch_size or not now.is_compiled:
        return None
    there = Growth(first, now.census).at(now.batch_size)
    return there if there.live_bytes >= (1 - UNEXPLAINED) * now.live_bytes else None
