"""How many bytes training needs with fragmentation counted: its beginning, replayed.

A training dies where no free chunk is long enough, which is before the bytes in use reach the
limit: chunks lie scattered, a request gets a whole chunk of up to twice its size, and an allocator
that grows never joins its regions. So the peak alone does not foretell deaths. The allocations of
its first steps do, from the first batch of data on, for that is where memory is laid out; replayed
under the limit in question, in orders that threads may take.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from autobatch.bfc import GRAIN, Chunk, OutOfMemory, Pool, rounded
from autobatch.units import MIB

REPLAYS = 48  # at first; then as many as tell what is needed to within
ERROR = 0.01  # of it, as a standard error; but not more than
MOST_REPLAYS = 256
MOST_EVENTS = 300_000  # in all
# A size needs the mean of the limits that its replays need, and so many times their mean absolute
# deviation from it: where memory is laid out differently from order to order, trainings meet rarer
# orders than replays do. (Less noisy than a quantile of the limits or their standard deviation.)
DEVIATIONS = 3.3
MAY_DIE = 1 / 24  # share of the replays that may die all the same: orders that are accidents
# Where memory must not run out.
CAREFUL_DEVIATIONS = 4.1
CAREFULLY = 1 / 96
# How far threads move an event: in events, for what runs at once does not grow with the step, but
# no farther than past a large allocation (from one step to the next these keep their order to
# within one or two, one among twenty to within four to seven). A step of tens of thousands of
# events, as a loop makes them, has short operations: there it is a share of them. All of it is
# fitted to the deaths of five models, whose steps have from 1,300 to 44,000 events: their safe
# maxima need from 94 to 101 % of the limit by replay.
JITTER = 130
MOST_JITTER, LEAST_JITTER = 0.1, 0.02  # of a step's events
LARGE_JITTER = 1  # large allocations, those of at least the peak over `FINEST`
# For how many events a request that finds no chunk waits (kMaxMillisToWait, 10 s) while the
# operations that run beside it end, and gets what they release; of those that are no small
# allocation's, as a convolution takes hundreds for its shards, no more than a share of a step's.
WAIT = 200
MOST_WAIT = 0.06
FINEST = 1024  # what is smaller than the peak over this is merged with its like: 0.1 % each,
COARSEST = 128  # or, as long as there are more than
MOST = 2_500  # allocations to replay, up to the peak over that
BRIEF = 16  # events; a small allocation that lives no longer fits into any hole
STRETCHES = 320  # of a trace; small allocations that begin and end in the same ones are merged
RESOLUTION = 256  # a replay's limit is exact to the least conceivable over this: 0.4 %
REACH = 8  # of such steps, from where the others' limits lie, within which it is looked for first


@dataclass(frozen=True, slots=True)
class Allocation:
    """One allocation of a trace.

    Attributes:
        requested_bytes: As asked for, before rounding.
        start: Its place in the order of the trace's events, or None if it was live before.
        end: The place of its release in that order, or None if it was live at the end.
        chunk_bytes: What the allocator gave for it; 0 where that is not known.
    """

    requested_bytes: int
    start: int | None
    end: int | None
    chunk_bytes: int = 0


def requested_peak(allocations: Iterable[Allocation], resident_bytes: int = 0) -> int:
    """Most bytes live at once, as requested: what no allocator can do without."""
    changes: list[tuple[int, int]] = []
    live = 0
    for each in allocations:
        if each.start is None:
            live += each.requested_bytes
        else:
            changes.append((each.start, each.requested_bytes))
        if each.end is not None:
            changes.append((each.end, -each.requested_bytes))
    peak = live
    for _, change in sorted(changes):
        live += change
        peak = max(peak, live)
    return peak + resident_bytes


def needed_bytes(
    allocations: Sequence[Allocation],
    *,
    residents: Sequence[int] = (),
    grows: bool = True,
    at_least: int = 0,
    steps: int = 1,
    careful: bool = False,
) -> int:
    """What the first steps need, by the replays: the mean of the least limits under which each
    goes through, and `DEVIATIONS` of their mean absolute deviations from it.

    Args:
        allocations: Of the first steps.
        residents: Sizes of what stays in use besides them (weights, data, optimizer slots), in the
            order of their allocation. Where a large tensor (a data set) is among them it matters:
            it shapes the regions.
        grows: See `Pool`.
        at_least: Bytes that are needed anyway. Where the first replays need far less, they are the
            answer.
        steps: How many they are the allocations of.
        careful: Memory must not run out: let fewer replays die.
    """
    replay = Replay(allocations, residents=residents, grows=grows, steps=steps)
    if not replay.least:
        return at_least
    limits = Limits(replay, careful=careful)
    limits.extend(REPLAYS)
    if limits.need + 2 * limits.error > at_least:
        limits.extend(limits.enough)
    return max(at_least, limits.need)


class Limits:
    """The least limits under which a training's replays go through, one after the other.

    Args:
        replay: What is replayed.
        careful: See `needed_bytes`.
    """

    def __init__(self, replay: Replay, *, careful: bool) -> None:
        self._replay = replay
        self._deviations = CAREFUL_DEVIATIONS if careful else DEVIATIONS
        self._may_die = CAREFULLY if careful else MAY_DIE
        self._found: list[int] = []

    def extend(self, number: int) -> None:
        """Have at least so many."""
        for order in range(len(self._found), number):
            near = round(statistics.fmean(self._found)) if self._found else 0
            self._found.append(self._replay.least_limit(order, near))

    @property
    def need(self) -> int:
        """What training needs, by those so far."""
        spare = int(self._may_die * len(self._found))
        usual = statistics.fmean(self._found) + self._deviations * self._deviation
        return max(round(usual), sorted(self._found)[-1 - spare])

    @property
    def error(self) -> float:
        """The standard error of `need` were they normally distributed.

        Of n numbers with a standard deviation s the mean has s / sqrt(n), and the mean absolute
        deviation d, which is s * sqrt(2 / pi), has s * sqrt((1 - 2 / pi) / n) (Geary, 1935).
        """
        return self._error_of_one / math.sqrt(len(self._found))

    @property
    def enough(self) -> int:
        """How many are to be had for an error of `ERROR`."""
        number = math.ceil((self._error_of_one / (ERROR * self.need)) ** 2)
        return min(number, MOST_REPLAYS, MOST_EVENTS // self._replay.events)

    @property
    def _deviation(self) -> float:
        mean = statistics.fmean(self._found)
        return statistics.fmean(abs(each - mean) for each in self._found)

    @property
    def _error_of_one(self) -> float:
        normal = self._deviation / math.sqrt(2 / math.pi)
        return normal * math.sqrt(1 + (1 - 2 / math.pi) * self._deviations**2)


_Event = tuple[float, int, bool]  # when, of which allocation, whether it begins


class _NoHole(Exception):  # noqa: N818
    """Every byte is given out, and what is too small to be replayed finds no chunk."""


class Replay:
    """A training's beginning, ready to be replayed in any order and under any limit.

    The arguments: see `needed_bytes`.

    Attributes:
        least: Bytes live at the peak, rounded as the allocator rounds: no limit below will do.
        events: Those of one replay.
    """

    def __init__(
        self,
        allocations: Sequence[Allocation],
        *,
        residents: Sequence[int] = (),
        grows: bool = True,
        steps: int = 1,
    ) -> None:
        self._grows = grows
        whole = [Allocation(rounded(a.requested_bytes), a.start, a.end) for a in allocations]
        known = [rounded(size) for size in residents]
        self.least = requested_peak(whole, sum(known))
        self._residents = list(_pieces(known))
        fineness = FINEST
        self._kept = _merged(whole, max(GRAIN, self.least // fineness))
        while len(self._kept) > MOST and fineness > COARSEST:
            fineness //= 2
            self._kept = _merged(whole, max(GRAIN, self.least // fineness))
        self._small = len(self._kept) < len(whole)  # some were left out, and need a hole
        self._width = _width(whole, self.least // FINEST, steps)
        self.events = sum((a.start is not None) + (a.end is not None) for a in self._kept)
        self._wait = round(MOST_WAIT * self.events / steps)

    def least_limit(self, order: int, near: int = 0) -> int:
        """The least limit under which a replay goes through, to within `RESOLUTION`.

        Args:
            order: Which of the orders; 0 is the trace's own.
            near: Where it is likely to be, in bytes.
        """
        events = _order(self._kept, order, self._width)
        step = max(GRAIN, self.least // RESOLUTION)

        def survives(place: int) -> bool:
            return self._goes_through(events, self.least + place * step)

        low, high, reach = -1, max(0, (near - self.least) // step), REACH
        while not survives(high):
            low, high, reach = high, high + reach, 2 * reach
        while low < 0 < high or (low >= 0 and high - low > 1):
            place = (low + high) // 2 if low >= 0 else max(0, high - reach)
            reach *= 2
            if survives(place):
                high = place
            else:
                low = place
        return self.least + high * step

    def goes_through(self, order: int, limit: int) -> bool:
        """Whether a replay goes through under `limit`; order 0 is the trace's own."""
        return self._goes_through(_order(self._kept, order, self._width), limit)

    def _goes_through(self, events: list[_Event], limit: int) -> bool:
        pool = Pool(limit, grows=self._grows)
        live: dict[int, Chunk] = {}
        try:
            for size in self._residents:
                pool.allocate(size)
            for i, each in enumerate(self._kept):
                if each.start is None:
                    live[i] = pool.allocate(each.requested_bytes)
            for place, (_, i, begins) in enumerate(events):
                if begins:
                    live[i] = self._allocate(pool, live, events, place)
                elif i in live:  # else a request that waited had it released
                    pool.release(live.pop(i))
        except (OutOfMemory, _NoHole):
            return False
        return True

    def _allocate(
        self, pool: Pool, live: dict[int, Chunk], events: list[_Event], place: int
    ) -> Chunk:
        size = self._kept[events[place][1]].requested_bytes
        try:
            chunk = pool.allocate(size)
        except OutOfMemory:
            for other in self._soon_released(live, events, place):
                pool.release(live.pop(other))
                with suppress(OutOfMemory):
                    return pool.allocate(size)
            raise
        # A chunk given out whole may have been the last: what is too small to be replayed
        # finds none then. (So dies an XLA program whose one large buffer took all.)
        if self._small and pool.full and not any(self._soon_released(live, events, place)):
            raise _NoHole
        return chunk

    def _soon_released(
        self, live: dict[int, Chunk], events: list[_Event], place: int
    ) -> Iterator[int]:
        """What a request at this place sees released while it waits."""
        until = events[place][0] + WAIT
        for at, i, begins in events[place + 1 : place + 1 + self._wait]:
            if at > until:
                return
            if not begins and i in live:
                yield i


def _events(allocations: Iterable[Allocation]) -> int:
    """How many there are in the trace."""
    return max((max(a.start or 0, a.end or 0) for a in allocations), default=0) + 1


def _width(allocations: Sequence[Allocation], large: int, steps: int) -> float:
    """How far an event may move, in events."""
    every = _events(allocations)
    number = sum(a.requested_bytes >= large and a.start is not None for a in allocations)
    events = every / steps
    apart = every / max(1, number)  # of large ones
    usual = max(LEAST_JITTER * events, min(JITTER, MOST_JITTER * events))
    return min(usual, LARGE_JITTER * apart)


def _order(kept: Sequence[Allocation], number: int, width: float) -> list[_Event]:
    """The events, but for replay 0 each moved by up to `width`; a release stays behind its
    allocation."""
    shuffle = random.Random(number)  # noqa: S311 - no secret
    if not number:
        width = 0.0
    events: list[_Event] = []
    for i, each in enumerate(kept):
        begun = -1.0
        if each.start is not None:
            begun = each.start + shuffle.random() * width
            events.append((begun, i, True))
        if each.end is not None:
            events.append((max(each.end + shuffle.random() * width, begun + 1e-6), i, False))
    events.sort()
    return events


def _pieces(sizes: Iterable[int]) -> Iterator[int]:
    """The same bytes, small neighbours taken together."""
    small = 0
    for size in sizes:
        if size < MIB // 4:
            small += size
        if small >= MIB // 4 or (small and size >= MIB // 4):
            yield small
            small = 0
        if size >= MIB // 4:
            yield size
    if small:
        yield small


def _merged(allocations: Sequence[Allocation], finest: int) -> list[Allocation]:
    """The same memory in fewer allocations: small ones of one lifetime become one of their sum."""
    stretch = max(1, _events(allocations) // STRETCHES)
    kept: list[Allocation] = []
    groups: dict[tuple[int | None, int | None], list[Allocation]] = {}
    sums: Counter[tuple[int | None, int | None]] = Counter()  # bytes of each group

    def close(group: list[Allocation]) -> None:
        starts = sorted(a.start for a in group if a.start is not None)
        ends = sorted(a.end for a in group if a.end is not None)
        start = starts[len(starts) // 2] if starts else None
        end = ends[len(ends) // 2] if ends else None
        if start is not None and end is not None:
            end = max(end, start + 1)
        kept.append(Allocation(sum(a.requested_bytes for a in group), start, end))

    for each in allocations:
        brief = each.start is not None and each.end is not None and each.end - each.start <= BRIEF
        if each.requested_bytes >= finest:
            kept.append(each)
        elif not brief:
            key = (
                None if each.start is None else each.start // stretch,
                None if each.end is None else each.end // stretch,
            )
            groups.setdefault(key, []).append(each)
            sums[key] += each.requested_bytes
            if sums[key] >= 2 * finest:
                close(groups.pop(key))
                del sums[key]
    for group in groups.values():
        close(group)
    return kept
