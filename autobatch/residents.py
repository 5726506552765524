"""What lies on the device before the first step, as replays begin with it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autobatch.footprint import Allocation
from autobatch.units import MIB

SMALL = 1 / 16  # of a region: what lies beside the tensor that has it


def residents(
    traced: Sequence[Allocation],
    weights: Sequence[int],
    slots: Sequence[int],
    data: Sequence[int],
    in_use_bytes: int,
) -> tuple[int, ...]:
    """Sizes of what stays in use, in the order in which a training allocates it.

    What the steps found and gave back is in the trace: variables that are replaced and not updated
    in place, for one. Of what else is in use no sizes are known: it is taken for data, in one
    piece.

    Args:
        traced: What the steps allocated and released.
        weights, slots, data: Bytes of each of the model's variables, of its optimizer's, and of
            the data's tensors.
        in_use_bytes: In use before the steps, in whole chunks.
    """
    given_back = [each for each in traced if each.start is None]
    found = Counter(each.requested_bytes for each in given_back)
    # Of hundreds of variables the chunks together waste more than the largest of them takes.
    chunks = sum(each.chunk_bytes or each.requested_bytes for each in given_back)

    def kept(sizes: Sequence[int]) -> list[int]:
        stay = []
        for size in sizes:
            if found[size]:
                found[size] -= 1
            else:
                stay.append(size)
        return stay

    first, between, last = kept(weights), kept(data), kept(slots)
    known = [*first, *between, *last]
    unknown = in_use_bytes - chunks - sum(known)
    # A large tensor's chunk may be twice its size: what is in use beside is no more than that.
    if unknown > max(known, default=0):
        between += _tensors(unknown)
    return (*first, *between, *last)


def _tensors(in_use_bytes: int) -> tuple[int, ...]:
    """Bytes in use as what they are: one tensor, or one that got a region whole and small ones.

    Where the allocator grows, a tensor that is more than half as long as its region gets all of it,
    and regions are as long as powers of two. Taken together with what small ones take, it would
    ask for a region of twice the length.
    """
    region = MIB << max(0, (in_use_bytes // MIB).bit_length() - 1)
    rest = in_use_bytes - region
    return (region, rest) if 0 < rest <= SMALL * region else (in_use_bytes,)
