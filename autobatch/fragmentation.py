"""How many bytes training needs with fragmentation counted: its beginning, replayed.

A training dies where no free chunk is long enough, which is before the bytes in use reach the
limit: chunks lie scattered, a request gets a whole chunk of up to twice its size, and an allocator
that grows never joins its regions. So the peak alone does not foretell deaths. The allocations of
its first steps do, from the first batch of data on, for that is where memory is laid out; replayed
under the limit in question, in orders that threads may take.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from autobatch.bfc import GRAIN, Chunk, OutOfMemory, Pool, rounded
from autobatch.units import MIB

REPLAYS = 24  # a death in ten fresh trainings should show
# Where what a replay needs depends on its order, so does what the worst of few need: these tell it
# to within 1.5 % where 24 do to within 4 % (a small CNN). Not more events than so many in all.
MOST_REPLAYS = 96
MOST_EVENTS = 150_000
WIDE = 0.05  # what the worst need more than the median one, as a share, from which on that is so
# Replays that may die, as a share: an order in many dozens of steps is an accident of the model's.
MAY_DIE = 1 / 24
CAREFULLY = 1 / 96  # where memory must not run out
# Trainings meet rarer orders than these, which cost the more, the more it depends on the order.
TAIL = 0.3  # of what the worst replays need more than the median one, added to what they need
# How far threads move an event: in events, for what runs at once does not grow with the step, but
# no farther than past a large allocation (from one step to the next these keep their order to
# within one or two, one among twenty to within four to seven). A step of tens of thousands of
# events, as a loop makes them, has short operations: there it is a share of them. All of it is
# fitted to the deaths of five models, whose steps have from 1,300 to 44,000 events: their safe
# maxima need from 91 to 103 % of the limit by replay.
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
RESOLUTION = 256  # the answer is exact to the least conceivable need over this: 0.4 %


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
    may_die: float = MAY_DIE,
) -> int:
    """What the first steps need, by the replays: the least limit under which all but `may_die`
    survive, and `TAIL` of what that is above the limit under which half of them do.

    Args:
        allocations: Of the first steps.
        residents: Sizes of what stays in use besides them (weights, data, optimizer slots), in the
            order of their allocation. Where a large tensor (a data set) is among them it matters:
            it shapes the regions.
        grows: See `Pool`.
        at_least: Bytes that are needed anyway. Where they do, they are the answer: to find that
            out takes a tenth of the time.
        steps: How many they are the allocations of.
        may_die: Share of the replays that may die.
    """
    replay = Replay(allocations, residents=residents, steps=steps, may_die=may_die)
    least = replay.least
    if not least:
        return at_least

    def survives(limit: int) -> bool:
        return replay.survives(limit, grows=grows)

    enough = int((at_least + TAIL * least) / (1 + TAIL))  # whatever the median is
    if enough >= least and survives(enough) and survives(at_least):
        return at_least
    step = max(GRAIN, least // RESOLUTION)

    def half_survive(limit: int) -> bool:
        return replay.half_survive(limit, grows=grows)

    most = _bisected(max(least, enough), step, survives)
    median = _bisected(least, step, half_survive)
    if most - median > WIDE * most and replay.extend():
        most, median = _bisected(least, step, survives), _bisected(least, step, half_survive)
    need = max(at_least, round(most + TAIL * max(0, most - median)))
    while not survives(need):  # a larger limit is no better now and then: regions are others
        need += step
    return need


def _bisected(start: int, step: int, survives: Callable[[int], bool]) -> int:
    """The least limit that serves, from `start` on, in steps of `step`."""
    reach = 1
    while not survives(start + reach * step):
        reach *= 2
    low, high = (reach // 2 if reach > 1 else -1), reach
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if survives(start + middle * step) else (middle, high)
    return start + high * step


_Event = tuple[float, int, bool]  # when, of which allocation, whether it begins


class _NoHole(Exception):  # noqa: N818
    """Every byte is given out, and what is too small to be replayed finds no chunk."""


class Replay:
    """A training's beginning, ready to be replayed under any limit.

    The arguments: see `needed_bytes`.

    Attributes:
        least: Bytes live at the peak, rounded as the allocator rounds: no limit below will do.
    """

    def __init__(
        self,
        allocations: Sequence[Allocation],
        *,
        residents: Sequence[int] = (),
        steps: int = 1,
        may_die: float = MAY_DIE,
    ) -> None:
        self._may_die = may_die
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
        self._orders: list[list[_Event]] = []  # the deadliest first
        self._half: list[list[_Event]] = []
        self._add(REPLAYS)
        self._wait = round(MOST_WAIT * len(self._orders[0]) / steps)

    def extend(self) -> bool:
        """Have as many replays as there may be; False where that is no more than there are."""
        now = len(self._orders)
        self._add(min(MOST_REPLAYS, MOST_EVENTS // max(1, len(self._orders[0]))))
        return len(self._orders) > now

    def _add(self, replays: int) -> None:
        numbers = range(len(self._orders), replays)
        more = [_order(self._kept, number, self._width) for number in numbers]
        self._orders += more
        self._half += more[::2]

    def survives(self, limit: int, *, grows: bool = True) -> bool:
        """Whether all replays but `may_die` go through under `limit`."""
        deaths, spare = 0, int(self._may_die * len(self._orders))
        for place, order in enumerate(tuple(self._orders)):
            if not self._goes_through(order, limit, grows):
                # It dies most likely under the next limit, too.
                self._orders.insert(0, self._orders.pop(place))
                deaths += 1
                if deaths > spare:
                    return False
        return True

    def half_survive(self, limit: int, *, grows: bool = True) -> bool:
        """Whether half of the replays, of which it asks every other, go through under `limit`."""
        half = self._half
        return sum(self._goes_through(order, limit, grows) for order in half) * 2 >= len(half)

    def _goes_through(self, events: list[_Event], limit: int, grows: bool) -> bool:
        pool = Pool(limit, grows=grows)
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
