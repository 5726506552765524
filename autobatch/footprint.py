"""What a training's first steps allocate, and the same memory in fewer allocations. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from autobatch.bfc import GRAIN
from autobatch.units import MIB

FINEST = 1024  # what is smaller than the peak over this is merged with its like: 0.1 % each,
COARSEST = 128  # or, as long as there are more than
MOST = 2_500  # allocations to replay, up to the peak over that
BRIEF = 16  # events; a small allocation that lives no longer fits into any hole
STRETCHES = 320  # of a trace; small allocations that begin and end in the same ones are merged


class Allocation(msgspec.Struct, frozen=True, gc=False):
    """One allocation of a trace.

    Attributes:
        requested_bytes: As asked for, before rounding.
        start: Its place in the order of the trace's events, or None if it was live before.
        end: The place of its release in that order, or None if it was live at the end.
        chunk_bytes: What the allocator gave for it; 0 where that is not known.
        in_loop: Made by an operation of a loop's body, whose passes overtake each other.
        taker: The thread that took it; None where that is not known.
        giver: The thread that gave it back; None where that is not known.
    """

    requested_bytes: int
    start: int | None
    end: int | None
    chunk_bytes: int = 0
    in_loop: bool = False
    taker: int | None = None
    giver: int | None = None

    def resized(self, requested_bytes: int) -> Allocation:
        """The same of so many bytes."""
        return msgspec.structs.replace(self, requested_bytes=requested_bytes, chunk_bytes=0)


def requested_peak(allocations: Sequence[Allocation], resident_bytes: int = 0) -> int:
    """Most bytes live at once, as requested: what no allocator can do without."""
    return _peak(allocations)[0] + resident_bytes


def at_peak(allocations: Sequence[Allocation]) -> list[int]:
    """The numbers of those that are live where the most bytes are, for the first time."""
    place = _peak(allocations)[1]
    return [
        number
        for number, each in enumerate(allocations)
        if (each.start is None or each.start <= place) and (each.end is None or each.end > place)
    ]


def _peak(allocations: Sequence[Allocation]) -> tuple[int, int]:
    """Most bytes live at once, and the event at which they are; -1 for before the first."""
    changes: list[tuple[int, int]] = []
    live = 0
    for each in allocations:
        if each.start is None:
            live += each.requested_bytes
        else:
            changes.append((each.start, each.requested_bytes))
        if each.end is not None:
            changes.append((each.end, -each.requested_bytes))
    peak, place = live, -1
    for at, change in sorted(changes):
        live += change
        if live > peak:
            peak, place = live, at
    return peak, place


def events_of(allocations: Iterable[Allocation]) -> int:
    """How many there are in the trace."""
    last = max((a.end or 0 for a in allocations), default=0)
    return max(last, max((a.start or 0 for a in allocations), default=0)) + 1


def coarsened(allocations: Sequence[Allocation], peak_bytes: int) -> list[Allocation]:
    """The same memory in fewer allocations, as a rule not more than `MOST`.

    Args:
        allocations: Of the first steps.
        peak_bytes: What is live at their peak.
    """
    stretch = max(1, events_of(allocations) // STRETCHES)
    fineness = FINEST
    while fineness > COARSEST:
        kept = _merged(allocations, max(GRAIN, peak_bytes // fineness), stretch, MOST)
        if kept is not None:
            return kept
        fineness //= 2
    return _merged(allocations, max(GRAIN, peak_bytes // fineness), stretch) or []


def pieces(sizes: Iterable[int]) -> Iterator[int]:
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


def _merged(
    allocations: Sequence[Allocation], finest: int, stretch: int, most: float = math.inf
) -> list[Allocation] | None:
    """The same memory in fewer allocations: small ones of one lifetime become one of their sum.
    None where there would be more than `most`."""
    kept: list[Allocation] = []
    groups: dict[tuple[int | None, int | None], list[Allocation]] = {}
    sums: Counter[tuple[int | None, int | None]] = Counter()  # bytes of each group

    def close(group: list[Allocation]) -> None:
        starts = sorted([a.start for a in group if a.start is not None])
        ends = sorted([a.end for a in group if a.end is not None])
        start = starts[len(starts) // 2] if starts else None
        end = ends[len(ends) // 2] if ends else None
        if start is not None and end is not None:
            end = max(end, start + 1)
        size = sum([a.requested_bytes for a in group])
        kept.append(Allocation(size, start, end, in_loop=any(a.in_loop for a in group)))

    for each in allocations:
        start, end = each.start, each.end
        if each.requested_bytes >= finest:
            kept.append(each)
        elif start is None or end is None or end - start > BRIEF:
            key = (
                None if start is None else start // stretch,
                None if end is None else end // stretch,
            )
            groups.setdefault(key, []).append(each)
            sums[key] += each.requested_bytes
            if sums[key] >= 2 * finest:
                close(groups.pop(key))
                del sums[key]
        if len(kept) + len(groups) > most:
            return None
    for group in groups.values():
        close(group)
    return kept
