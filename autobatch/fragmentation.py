"""How many bytes a training step needs once fragmentation is counted: a replay through a model of BFC.

TensorFlow serves a device's memory through its BFC allocator (best fit with coalescing). A
training dies where no free chunk is long enough, which is before the bytes in use reach the
limit: chunks lie scattered, a request gets a whole chunk of up to twice its size, and an allocator
that grows never merges its regions. So the peak alone does not foretell deaths. The allocations
of one step do, replayed through the allocator's own rules under the limit in question.

The rules are those of `xla/tsl/framework/bfc_allocator.cc` in TensorFlow 2.21. Replayed in the
order of the trace, the model hands out the very chunks that TensorFlow did (checked: 6602 of 6602
allocations of a CNN, 4855 of 4855 of a transformer, from the start of the process).
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MIB = 1 << 20
GRAIN = 256  # kMinAllocationSize: every chunk is a multiple of it
WHOLE_CHUNK_WASTE = 128 * MIB  # max_internal_fragmentation_bytes_, where no fraction is set
FIRST_REGION = 2 * MIB  # of an allocator that grows (allow_growth); each next one doubles
STEPS = 6  # of one replay: layouts drift from step to step
REPLAYS = 10  # as many as the fresh trainings that define the safe maximum
JITTER = 0.02  # of a step's events: how far threads move them. Fitted to three models' deaths
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


class OutOfMemory(Exception):  # noqa: N818 - it is no error of the caller's
    """The replay found no chunk."""


class _Chunk:
    __slots__ = ("address", "following", "free", "preceding", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size, self.free = address, size, False
        self.preceding: _Chunk | None = None
        self.following: _Chunk | None = None


class Pool:
    """BFC's chunks and regions, by its rules: a request gets the smallest free chunk that is long
    enough, the one at the lower address among equals (what its bins come to).

    Args:
        limit: Bytes to hand out.
        grows: Take regions as they are needed (a CPU, or a GPU with `allow_growth`) and not one
            region of the whole limit (a GPU by default).
    """

    def __init__(self, limit: int, *, grows: bool) -> None:
        self._left = limit // GRAIN * GRAIN
        self._region = min(FIRST_REGION, self._left) if grows else self._left
        self._base = 1 << 60  # new regions lie lower, as those that mmap hands out
        self._free: list[tuple[int, int, _Chunk]] = []

    def allocate(self, requested: int) -> _Chunk:
        """A chunk for `requested` bytes.

        Raises:
            OutOfMemory: There is none.
        """
        need = max(1, -(-requested // GRAIN)) * GRAIN
        found = bisect_left(self._free, (need,))
        if found == len(self._free):
            self._extend(need)
            found = bisect_left(self._free, (need,))
        chunk = self._free.pop(found)[2]
        chunk.free = False
        rest = chunk.size - need
        if rest >= need or rest >= WHOLE_CHUNK_WASTE:
            tail = _Chunk(chunk.address + need, rest)
            chunk.size = need
            tail.preceding, tail.following = chunk, chunk.following
            if tail.following is not None:
                tail.following.preceding = tail
            chunk.following = tail
            self._list(tail)
        return chunk

    def release(self, chunk: _Chunk) -> None:
        """Give a chunk back, joined with its free neighbours."""
        for left, right in ((chunk, chunk.following), (chunk.preceding, chunk)):
            if left is None or right is None or not (left.free or right.free):
                continue
            other = right if right.free else left
            del self._free[bisect_left(self._free, (other.size, other.address))]
            left.size += right.size
            left.free, left.following = False, right.following
            if right.following is not None:
                right.following.preceding = left
            chunk = left
        self._list(chunk)

    def _extend(self, need: int) -> None:
        if need > self._left:
            raise OutOfMemory
        fits = need <= self._region
        while need > self._region:
            self._region *= 2
        size = min(self._region, self._left)
        if fits:
            self._region *= 2
        self._left -= size
        self._base -= 1 << 45
        self._list(_Chunk(self._base, size))

    def _list(self, chunk: _Chunk) -> None:
        chunk.free = True
        insort(self._free, (chunk.size, chunk.address, chunk))


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
    seed: int = 0,
) -> int:
    """The least limit under which every replay of the step survives.

    Args:
        allocations: Of one step.
        resident_bytes: Bytes that stay in use besides them: weights, optimizer slots, data.
        residents: The sizes of those that are known, in the order of their allocation. Where a
            large tensor (a data set) is among them it matters: it shapes the regions.
        grows: See `Pool`.
        seed: Of the order in which threads may run.
    """
    replay = Replay(allocations, resident_bytes=resident_bytes, residents=residents, seed=seed)
    least = replay.least
    if not least:
        return 0
    step = max(GRAIN, least // RESOLUTION)
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
        seed: int = 0,
    ) -> None:
        unknown = max(0, resident_bytes - sum(residents))
        rounded = [
            Allocation(-(-each.requested_bytes // GRAIN) * GRAIN, each.start, each.end)
            for each in allocations
        ]
        self.least = requested_peak(rounded, sum(-(-x // GRAIN) * GRAIN for x in residents))
        self.least += -(-unknown // GRAIN) * GRAIN
        self._residents = [*_pieces(residents), *_cut(unknown)]
        fineness = FINEST
        self._kept = _merged(rounded, max(GRAIN, self.least // fineness))
        while len(self._kept) > MOST and fineness > COARSEST:
            fineness //= 2
            self._kept = _merged(rounded, max(GRAIN, self.least // fineness))
        self._seed, self._numbers = seed, list(range(REPLAYS))
        self._events = self._in_order()
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
        """Whether all replays go through under `limit`."""
        for number in self._numbers:
            if not self._once(limit, grows, number):
                self._numbers.remove(number)  # it kills most likely under the next limit, too
                self._numbers.insert(0, number)
                return False
        return True

    def deaths(self, limit: int, *, grows: bool = True, replays: int = REPLAYS) -> int:
        """How many of so many replays end out of memory."""
        return sum(not self._once(limit, grows, number) for number in range(replays))

    def _once(self, limit: int, grows: bool, number: int) -> bool:
        shuffle = random.Random(self._seed * 1_000_003 + number)  # noqa: S311 - no secret
        pool = Pool(limit, grows=grows)
        live: dict[int, _Chunk] = {}
        sizes = [each.requested_bytes for each in self._kept]
        found = [i for i, each in enumerate(self._kept) if each.start is None]
        try:
            for size in self._residents:
                pool.allocate(size)
            for i in found:
                live[i] = pool.allocate(sizes[i])
            for _ in range(STEPS):
                for i, begins in self._order(shuffle if number else None):
                    if begins:
                        live[i] = pool.allocate(sizes[i])
                    else:
                        pool.release(live.pop(i))
                kept = {i: live.pop(heir) for i, heir in self._heirs.items()}
                kept |= {i: live.pop(i) for i in found if i in live}
                for chunk in live.values():
                    pool.release(chunk)
                live = kept
                for i in found:
                    if i not in live:
                        live[i] = pool.allocate(sizes[i])
        except OutOfMemory:
            return False
        return True

    def _in_order(self) -> list[tuple[int, bool]]:
        events: list[tuple[int, int, bool]] = []
        for i, each in enumerate(self._kept):
            events += [(each.start, i, True)] if each.start is not None else []
            events += [(each.end, i, False)] if each.end is not None else []
        return [(i, begins) for _, i, begins in sorted(events)]

    def _order(self, shuffle: random.Random | None) -> Iterable[tuple[int, bool]]:
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
            small += -(-size // GRAIN) * GRAIN
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
            group = groups.setdefault(key, [])
            group.append(each)
            if sum(a.requested_bytes for a in group) >= 2 * finest:
                close(groups.pop(key))
    for group in groups.values():
        close(group)
    return kept
