"""TensorFlow's BFC allocator, modelled: which chunk each request gets, and when there is none.

The rules are those of `xla/tsl/framework/bfc_allocator.cc` in TensorFlow 2.21, whose names stand
beside the constants. Replayed in the order of a trace, the model hands out chunks of the very sizes
that TensorFlow did: 6602 of 6602 allocations of a CNN, 4855 of 4855 of a transformer and 48943 of
48943 of a ResNet50, each from the start of the process. Not modelled: the 10 s that a request waits
for memory to come back, and the garbage collection of whole regions (a GPU that grows).
"""

from __future__ import annotations

from bisect import bisect_left, insort

from autobatch.units import MIB

GRAIN = 256  # kMinAllocationSize: every chunk is a multiple of it
WHOLE_CHUNK_WASTE = 128 * MIB  # max_internal_fragmentation_bytes_, where no fraction is set
FIRST_REGION = 2 * MIB  # curr_region_allocation_bytes_ where it grows; each next one doubles


def rounded(size: int) -> int:
    """What a request of `size` bytes takes at least (RoundedBytes)."""
    return max(1, -(-size // GRAIN)) * GRAIN


class OutOfMemory(Exception):  # noqa: N818 - it is no error of the caller's
    """The replay found no chunk."""


class Chunk:
    """Bytes in a row, free or not, between its neighbours."""

    __slots__ = ("address", "following", "free", "preceding", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size, self.free = address, size, False
        self.preceding: Chunk | None = None
        self.following: Chunk | None = None


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
        self._free: list[tuple[int, int, Chunk]] = []

    def allocate(self, requested: int) -> Chunk:
        """A chunk for `requested` bytes.

        Raises:
            OutOfMemory: There is none.
        """
        need = rounded(requested)
        found = bisect_left(self._free, (need,))
        if found == len(self._free):
            self._extend(need)
            found = bisect_left(self._free, (need,))
        chunk = self._free.pop(found)[2]
        chunk.free = False
        rest = chunk.size - need
        if rest >= need or rest >= WHOLE_CHUNK_WASTE:
            tail = Chunk(chunk.address + need, rest)
            chunk.size = need
            tail.preceding, tail.following = chunk, chunk.following
            if tail.following is not None:
                tail.following.preceding = tail
            chunk.following = tail
            self._list(tail)
        return chunk

    @property
    def full(self) -> bool:
        """Whether not even the smallest request could be served."""
        return not self._free and self._left < GRAIN

    def release(self, chunk: Chunk) -> None:
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
        self._list(Chunk(self._base, size))

    def _list(self, chunk: Chunk) -> None:
        chunk.free = True
        insort(self._free, (chunk.size, chunk.address, chunk))
