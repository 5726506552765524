"""How many bytes training needs with fragmentation counted: steps replayed through the allocator.

A training dies where no free chunk is long enough, which is before the bytes in use reach the
limit: chunks lie scattered, a request gets a whole chunk of up to twice its size, and an allocator
that grows never joins its regions. So the peak alone does not foretell deaths. The allocations of
one step do, replayed under the limit in question, step after step, in orders that threads may take.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from autobatch.bfc import GRAIN, Chunk, OutOfMemory, Pool, rounded
from autobatch.units import MIB

STEPS = 8  # of one replay: layouts drift from step to step
REPLAYS = 12  # a death in ten fresh trainings should show
SPARE = 1  # of them may die: one order in many dozens of steps is an accident of the model's
# How far threads move a step's events, as a share of them; and for how many events a request that
# finds no chunk waits (kMaxMillisToWait, 10 s) while the operations that run beside it end, and
# gets what they release. What is small counts for nothing there: a convolution over a large batch
# takes hundreds of buffers for its shards. Fitted to the deaths of four models in five
# configurations: their safe maxima need 96 to 102 % of the limit by replay.
JITTER = 0.04
WAIT = 20
MOST_WAIT = 0.033  # of the events: a short step has little that runs beside
FINEST = 1024  # what is smaller than the peak over this is merged with its like: 0.1 % each,
COARSEST = 128  # or, as long as there are more than
MOST = 500  # allocations to replay, up to the peak over that
BRIEF = 8  # events; a small allocation that lives no longer fits into any hole
STRETCHES = 64  # of a step; small allocations that begin and end in the same ones are merged
RESOLUTION = 128  # the answer is exact to the least conceivable need over this: 0.8 %


@dataclass(frozen=True, slots=True)
class Allocation:
    """One allocation of a step.

    Attributes:
        requested_bytes: As asked for, before rounding.
        start: Its place in the order of the step's events, or None if it was live before.
        end: The place of its release in that order, or None if the step left it live.
    """

    requested_bytes: int
    start: int | None
    end: int | None


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
    resident_bytes: int = 0,
    residents: Sequence[int] = (),
    grows: bool = True,
    at_least: int = 0,
    spare: int = SPARE,
) -> int:
    """The least limit under which the replays of the step survive, all but `spare`.

    Args:
        allocations: Of one step.
        resident_bytes: Bytes that stay in use besides them: weights, optimizer slots, data.
        residents: The sizes of those that are known, in the order of their allocation. Where a
            large tensor (a data set) is among them it matters: it shapes the regions.
        grows: See `Pool`.
        at_least: Bytes that are needed anyway. Where they do, they are the answer: to find that
            out takes a tenth of the time.
        spare: Replays that may die.
    """
    replay = Replay(allocations, resident_bytes=resident_bytes, residents=residents, spare=spare)
    least = replay.least
    if not least:
        return at_least
    if at_least >= least and replay.survives(at_least, grows=grows):
        return at_least
    step = max(GRAIN, least // RESOLUTION)
    least = max(least, at_least)
    reach = 1
    while not replay.survives(least + reach * step, grows=grows):
        reach *= 2
    low, high = (reach // 2 if reach > 1 else -1), reach
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if replay.survives(least + middle * step, grows=grows) else (middle, high)
        )
    return least + high * step


class _NoHole(Exception):  # noqa: N818
    """Every byte is given out, and what is too small to be replayed finds no chunk."""


class Replay:
    """Steps of a training, ready to be replayed under any limit. The arguments: see `needed_bytes`.

    Attributes:
        least: Bytes live at the peak, rounded as the allocator rounds: no limit below will do.
    """

    def __init__(
        self,
        allocations: Sequence[Allocation],
        *,
        resident_bytes: int = 0,
        residents: Sequence[int] = (),
        spare: int = SPARE,
    ) -> None:
        self._spare = spare
        unknown = max(0, resident_bytes - sum(residents))
        whole = [Allocation(rounded(a.requested_bytes), a.start, a.end) for a in allocations]
        known = [rounded(size) for size in residents]
        self.least = requested_peak(whole, sum(known) + (rounded(unknown) if unknown else 0))
        self._residents = [*_pieces(known), *_cut(unknown)]
        fineness = FINEST
        self._kept = _merged(whole, max(GRAIN, self.least // fineness))
        every = len(self._in_order())
        while len(self._kept) > MOST and fineness > COARSEST:
            fineness //= 2
            self._kept = _merged(whole, max(GRAIN, self.least // fineness))
        self._small = len(self._kept) < len(whole)  # some were left out, and need a hole
        self._numbers = list(range(REPLAYS))
        self._events = self._in_order()
        self._patience = round(len(self._events) * min(MOST_WAIT, WAIT / max(1, every)))
        # What one step leaves live stands in for what the next one finds.
        left = {i: a for i, a in enumerate(self._kept) if a.end is None}
        self._heirs: dict[int, int] = {}
        for found, each in enumerate(self._kept):
            if each.start is None and each.end is not None:
                heirs = [i for i, a in left.items() if a.requested_bytes == each.requested_bytes]
                if heirs:
                    self._heirs[found] = heirs[0]
                    del left[heirs[0]]

    def survives(self, limit: int, *, grows: bool = True) -> bool:
        """Whether all replays but `spare` go through under `limit`."""
        deaths = 0
        for number in tuple(self._numbers):
            if not self._once(limit, grows, number):
                self._numbers.remove(number)  # it dies most likely under the next limit, too
                self._numbers.insert(0, number)
                deaths += 1
                if deaths > self._spare:
                    return False
        return True

    def _once(self, limit: int, grows: bool, number: int) -> bool:
        shuffle = random.Random(number)  # noqa: S311 - no secret
        pool = Pool(limit, grows=grows)
        live: dict[int, Chunk] = {}
        sizes = [each.requested_bytes for each in self._kept]
        found = [i for i, each in enumerate(self._kept) if each.start is None]
        try:
            for size in self._residents:
                pool.allocate(size)
            for i in found:
                live[i] = pool.allocate(sizes[i])
            for _ in range(STEPS):
                self._step(pool, live, self._order(shuffle if number else None))
                kept = {i: live.pop(heir) for i, heir in self._heirs.items()}
                kept |= {i: live.pop(i) for i in found if i in live}
                for chunk in live.values():
                    pool.release(chunk)
                live = kept
                for i in found:
                    if i not in live:
                        live[i] = pool.allocate(sizes[i])
        except (OutOfMemory, _NoHole):
            return False
        return True

    def _step(self, pool: Pool, live: dict[int, Chunk], events: list[tuple[int, bool]]) -> None:
        for place, (i, begins) in enumerate(events):
            if not begins:
                if i in live:  # else a request that waited had it released
                    pool.release(live.pop(i))
                continue
            size = self._kept[i].requested_bytes
            soon = events[place + 1 : place + 1 + self._patience]
            try:
                live[i] = pool.allocate(size)
                # A chunk given out whole may have been the last: what is too small to be replayed
                # finds none then. (So dies an XLA program whose one large buffer took all.)
                if (
                    self._small
                    and pool.full
                    and all(begins or other not in live for other, begins in soon)
                ):
                    raise _NoHole
            except OutOfMemory:
                for other, starts in soon:
                    if not starts and other in live:
                        pool.release(live.pop(other))
                        with suppress(OutOfMemory):
                            live[i] = pool.allocate(size)
                            break
                else:
                    raise

    def _in_order(self) -> list[tuple[int, bool]]:
        events: list[tuple[int, int, bool]] = []
        for i, each in enumerate(self._kept):
            events += [(each.start, i, True)] if each.start is not None else []
            events += [(each.end, i, False)] if each.end is not None else []
        return [(i, begins) for _, i, begins in sorted(events)]

    def _order(self, shuffle: random.Random | None) -> list[tuple[int, bool]]:
        """The events of a step, each moved by up to `JITTER` of the step; a release stays behind
        its allocation."""
        if shuffle is None:
            return self._events
        width = max(1.0, JITTER * len(self._events))
        begun: dict[int, float] = {}
        events: list[tuple[float, int, bool]] = []
        for place, (i, begins) in enumerate(self._events):
            at = place + shuffle.random() * width
            if begins:
                begun[i] = at
            elif at <= begun.get(i, -1.0):
                at = begun[i] + 1e-6
            events.append((at, i, begins))
        events.sort()
        return [(i, begins) for _, i, begins in events]


def _cut(size: int) -> list[int]:
    """`size` bytes of unknown shape, in pieces that leave no gaps."""
    return [MIB] * (size // MIB) + [size % MIB] * (size % MIB > 0)


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
    last = max((max(a.start or 0, a.end or 0) for a in allocations), default=0) + 1
    stretch = max(1, last // STRETCHES)
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
