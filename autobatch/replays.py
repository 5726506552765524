"""A training's beginning, replayed through the allocator's rules in orders that threads may take.
Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from autobatch.bfc import GRAIN, Chunk, OutOfMemory, Pool, rounded
from autobatch.footprint import FINEST, Allocation, coarsened, events_of, pieces, requested_peak

# How far an event may lie from its place in the trace: in events, for what runs at once does not
# grow with the step, but no farther than past a large allocation (from one step to the next these
# keep their order to within one or two, one among twenty to within four to seven). Outside of loops
# a thread's own events keep their order, however far they move: an operation follows those that it
# depends on. (The safe maxima of ten models and five buckets without loops need, by replay, from 90
# to 105 % of the limit, most of them 97 to 100; U-Net's in one of two traces 110. 8 or 20 events
# change little.) Where they do not, it is farther, and where there are loops, whose steps have tens
# of thousands of short operations, a share of a step.
JITTER, FREE_JITTER = 15, 130
MOST_JITTER, LEAST_JITTER = 0.1, 0.02  # of a step's events; the least where there are loops
LARGE_JITTER = 1  # large allocations, those of at least the peak over `FINEST` outside of loops
# The passes of a loop overtake each other, large allocations or not: what the loops of an LSTM make
# lies, nine in ten of them, no farther from its place in the step before than 30 to 370 events at a
# length of 98 or 156, 110 to 510 at 230, and 670 to 910 at 500. So it is at least as many as this,
# and in a long loop the share of a step above. Fitted to the deaths of that LSTM.
LOOP_JITTER = 250
# What lives no longer than so much of the way that it may be moved is released as much later as it
# is taken, where there are loops: else the widths would be lifetimes.
BRIEF = 0.2
# What takes so much of the peak stays in its place: a program that XLA compiled takes all that it
# needs at once, and gives it back before it runs again. (Not a quarter: so large are ordinary
# activations, which change places.)
HUGE = 0.5
# For how many events a request that finds no chunk waits (kMaxMillisToWait, 10 s) while the
# operations that run beside it end, and gets what they release; of those that are no small
# allocation's, as a convolution takes hundreds for its shards, no more than a share of a step's.
# What its own thread gives back later it cannot have: that thread waits. (The gradient of pooling
# takes two large tensors at once in half precision: the second cannot wait for the first.) The
# passes of a loop go from thread to thread: there any may.
WAIT = 200
MOST_WAIT = 0.06
RESOLUTION = 256  # a replay's limit is exact to the least conceivable over this: 0.4 %
REACH = 8  # of such steps, from where the others' limits lie, within which it is looked for first


_Event = tuple[float, int, bool]  # when, of which allocation, whether it begins


class _NoHole(Exception):  # noqa: N818
    """Every byte is given out, and what is too small to be replayed finds no chunk."""


class Replay:
    """A training's beginning, ready to be replayed in any order and under any limit.

    Args:
        allocations: Of the first steps.
        residents: Sizes of what stays in use besides them (weights, data, optimizer slots), in the
            order of their allocation. Where a large tensor (a data set) is among them it matters:
            it shapes the regions.
        grows: See `Pool`.
        steps: How many they are the allocations of.
        freely: Orders are tried that no threads give, as those of loops are.

    Attributes:
        least: Bytes live at the peak, rounded as the allocator rounds: no limit below will do.
        held: Bytes of it that are there before the steps.
        events: Those of one replay.
        loops: Some of the allocations are a loop's.
    """

    def __init__(
        self,
        allocations: Sequence[Allocation],
        *,
        residents: Sequence[int] = (),
        grows: bool = True,
        steps: int = 1,
        freely: bool = False,
    ) -> None:
        self._grows = grows
        self.loops = any(a.in_loop for a in allocations)
        # Where orders are free, no thread is known: none has an order, and none waits for itself.
        free = freely or self.loops
        whole = [
            Allocation(
                rounded(a.requested_bytes),
                a.start,
                a.end,
                in_loop=a.in_loop,
                taker=None if free else a.taker,
                giver=None if free else a.giver,
            )
            for a in allocations
        ]
        known = [rounded(size) for size in residents]
        self.least = requested_peak(whole, sum(known))
        self._residents = list(pieces(known))
        self._kept = coarsened(whole, self.least)
        self._small = len(self._kept) < len(whole)  # some were left out, and need a hole
        jitter = FREE_JITTER if free else JITTER
        self._widths = _widths(whole, self.least // FINEST, steps, jitter)
        self._huge = HUGE * self.least
        self._events = [
            (place, i, begins)
            for i, each in enumerate(self._kept)
            for place, begins in ((each.start, True), (each.end, False))
            if place is not None
        ]
        self.events = len(self._events)
        self.held = sum(known) + sum(a.requested_bytes for a in whole if a.start is None)
        self._rows = self._by_thread()
        self._orders: dict[int, list[_Event]] = {}  # those that are asked for again
        self._wait = round(MOST_WAIT * self.events / steps)

    def _by_thread(self) -> list[list[int]]:
        """Which events each thread made, in its order."""
        rows: dict[int, list[int]] = {}
        for event in sorted(range(self.events), key=lambda e: self._events[e][0]):
            _, i, begins = self._events[event]
            thread = self._kept[i].taker if begins else self._kept[i].giver
            if thread is not None:
                rows.setdefault(thread, []).append(event)
        return list(rows.values())

    def least_limit(self, order: int, near: int = 0) -> int:
        """The least limit under which a replay goes through, to within `RESOLUTION`.

        Args:
            order: Which of the orders; 0 is the trace's own.
            near: Where it is likely to be, in bytes.
        """
        events, sizes = self._order(order), self._sizes(1.0)
        step = max(GRAIN, self.least // RESOLUTION)

        def survives(place: int) -> bool:
            return self._goes_through(events, sizes, self.least + place * step)

        low, high, reach = -1, max(0, (near - self.least) // step), REACH
        while not survives(high):
            low, high, reach = high, high + reach, 2 * reach
        while high - low > 1:
            if low < 0:
                place, reach = max(0, high - reach), 2 * reach
            else:
                place = (low + high) // 2
            if survives(place):
                high = place
            else:
                low = place
        return self.least + high * step

    def goes_through(self, order: int, limit: int) -> bool:
        """Whether a replay goes through under `limit`; order 0 is the trace's own."""
        return not self.deaths([order], limit)

    def deaths(self, orders: Iterable[int], limit: int, scale: float = 1.0) -> int:
        """How many of these orders' replays die under `limit`, where all that the steps allocate is
        `scale` times as large."""
        sizes, known, dead = self._sizes(scale), self._orders, 0
        for order in orders:
            if order not in known:
                known[order] = self._order(order)
            dead += not self._goes_through(known[order], sizes, limit)
        return dead

    def _sizes(self, scale: float) -> list[int]:
        """Bytes of each allocation, those of the steps so many times as large."""
        return [
            a.requested_bytes
            if scale == 1.0 or a.start is None
            else rounded(int(scale * a.requested_bytes))
            for a in self._kept
        ]

    def _order(self, number: int) -> list[_Event]:
        """The events, but for replay 0 each moved by up to a width, if it is not huge. A thread's
        events then share out their new moments in their old order; a release
        stays behind its allocation."""
        shuffle = random.Random(number)  # noqa: S311 - no secret
        widths = self._widths if number else (0.0, 0.0)
        moments: list[float] = []
        taken = 0.0
        for place, i, begins in self._events:
            each = self._kept[i]
            width, later = widths[each.in_loop], 0.0
            if each.requested_bytes >= self._huge:
                width, later = 0.0, widths[False] / 2  # as all that is not in a loop, on average
            moved = shuffle.random() * width
            if begins:
                taken = moved
            elif self.loops and each.start is not None and place - each.start < BRIEF * width:
                moved = taken
            moments.append(place + later + moved)
        for row in self._rows:
            for event, moment in zip(row, sorted(moments[e] for e in row), strict=True):
                moments[event] = moment
        begun = [-1.0] * len(self._kept)
        events: list[_Event] = []
        for moment, (_, i, begins) in zip(moments, self._events, strict=True):
            if begins:
                begun[i] = moment
            events.append((moment if begins else max(moment, begun[i] + 1e-6), i, begins))
        events.sort()
        return events

    def _goes_through(self, events: list[_Event], sizes: list[int], limit: int) -> bool:
        pool = Pool(limit, grows=self._grows)
        live: dict[int, Chunk] = {}
        try:
            for size in self._residents:
                pool.allocate(size)
            for i, each in enumerate(self._kept):
                if each.start is None:
                    live[i] = pool.allocate(sizes[i])
            for place, (_, i, begins) in enumerate(events):
                if begins:
                    live[i] = self._allocate(pool, live, events, place, sizes[i])
                elif i in live:  # else a request that waited had it released
                    pool.release(live.pop(i))
        except (OutOfMemory, _NoHole):
            return False
        return True

    def _allocate(
        self, pool: Pool, live: dict[int, Chunk], events: list[_Event], place: int, size: int
    ) -> Chunk:
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
        full = self._small and pool.full
        if full and next(self._soon_released(live, events, place), None) is None:
            raise _NoHole
        return chunk

    def _soon_released(
        self, live: dict[int, Chunk], events: list[_Event], place: int
    ) -> Iterator[int]:
        """What a request at this place sees released while it waits; not by its own thread."""
        until = events[place][0] + WAIT
        waits = self._kept[events[place][1]].taker
        for at, i, begins in events[place + 1 : place + 1 + self._wait]:
            if at > until:
                return
            if begins or i not in live:
                continue
            if waits is None or self._kept[i].giver != waits:
                yield i


def _widths(
    allocations: Sequence[Allocation], large: int, steps: int, jitter: float
) -> tuple[float, float]:
    """How far an event may move, in events: one outside of loops, and one of a loop's body."""
    every = events_of(allocations)
    number = sum(
        a.requested_bytes >= large and a.start is not None and not a.in_loop for a in allocations
    )
    events = every / steps
    apart = every / max(1, number)  # of large ones
    usual = min(jitter, MOST_JITTER * events)
    if any(a.in_loop for a in allocations):
        usual = max(LEAST_JITTER * events, usual)
    return min(usual, LARGE_JITTER * apart), max(usual, min(LOOP_JITTER, MOST_JITTER * events))
