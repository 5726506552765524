"""Buckets of sequence lengths: boundaries, which samples fall where, what is padded. Pure.

As in `tf.data.Dataset.bucket_by_sequence_length`, a boundary is the first length of the next
bucket: boundaries 100, 200 make buckets of up to 99, of 100 to 199, and of 200 and more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

from autobatch.errors import UsageError

BUCKETS = 5  # where nobody says how many
_MOST_CANDIDATES = 256  # lengths at which a bucket may end; more are taken together


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long a data set's sequences are.

    Attributes:
        counts: Each length and the number of samples that have it, by length.
        complete: The whole data set was looked through.
    """

    counts: tuple[tuple[int, int], ...]
    complete: bool = True

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.counts)

    @property
    def tokens(self) -> int:
        """Steps of all sequences together."""
        return sum(length * count for length, count in self.counts)

    @property
    def longest(self) -> int:
        """The greatest length; 0 where there is no sample."""
        return max((length for length, _ in self.counts), default=0)

    def beyond(self, length: int) -> int:
        """Samples that are longer."""
        return sum(count for each, count in self.counts if each > length)

    def truncated(self, length: int) -> Lengths:
        """The same samples, none of them longer."""
        kept = [each for each in self.counts if each[0] < length]
        rest = self.samples - sum(count for _, count in kept)
        return Lengths(
            counts=(*kept, (length, rest)) if rest else tuple(kept), complete=self.complete
        )

    def without_longer(self, length: int) -> Lengths:
        """Those that are not longer."""
        kept = tuple(each for each in self.counts if each[0] <= length)
        return Lengths(counts=kept, complete=self.complete)


def check(boundaries: Sequence[int], max_length: int) -> None:
    """Refuse boundaries that make no buckets.

    Raises:
        UsageError: They are none, not increasing, below 2, or above `max_length`.
    """
    listed = ", ".join(map(str, boundaries))
    if not boundaries:
        raise UsageError(
            "boundaries must hold at least one length; received none. Without buckets, "
            "autobatch probe finds the one batch size."
        )
    for each in boundaries:
        if each < 2:
            raise UsageError(
                f"boundaries must be lengths from 2 on (a boundary is the first length of the next "
                f"bucket); received {each} in {listed}."
            )
    for before, after in pairwise(boundaries):
        if after <= before:
            raise UsageError(
                f"boundaries must increase; received {after} after {before} in {listed}."
            )
    if boundaries[-1] > max_length:
        raise UsageError(
            f"boundaries must not be above the maximum length, {max_length}; received "
            f"{boundaries[-1]}. Raise max_length (--max-length), or leave that boundary out."
        )


def reached(boundaries: Sequence[int], max_length: int) -> tuple[int, ...]:
    """The boundaries that sequences up to this length reach."""
    return tuple(each for each in boundaries if each <= max_length)


def longest_of(boundaries: Sequence[int], max_length: int) -> tuple[int, ...]:
    """The longest sequence of each bucket, the last one's included."""
    return (*(boundary - 1 for boundary in boundaries), max_length)


def count(lengths: Lengths, boundaries: Sequence[int]) -> tuple[Lengths, ...]:
    """The lengths in each bucket."""
    buckets: list[list[tuple[int, int]]] = [[] for _ in range(len(boundaries) + 1)]
    for length, samples in lengths.counts:
        buckets[bisect_right(boundaries, length)].append((length, samples))
    return tuple(Lengths(counts=tuple(each), complete=lengths.complete) for each in buckets)


def choose(lengths: Lengths, buckets: int) -> tuple[int, ...]:
    """The boundaries of at most so many buckets that leave the least padding.

    Padding is what memory and time are wasted on. Quantiles, the usual choice, put as many
    samples into each bucket, and all of a long tail into a single one; these boundaries cut the
    tail where it costs. Found by dynamic programming over the lengths that occur.

    Raises:
        UsageError: There are fewer than two buckets, or fewer than two lengths.
    """
    if buckets < 2:
        raise UsageError(f"buckets must be at least 2; received {buckets}.")
    counts = [each for each in _merged(lengths.counts) if each[0] > 0]
    if len(counts) < 2:
        raise UsageError(
            "Boundaries cannot be chosen from the data: all its sequences have one length "
            f"({lengths.longest}). autobatch probe finds the one batch size for them."
        )
    ends = [length for length, _ in counts]
    before = [0, *accumulate(samples for _, samples in counts)]

    def padded(first: int, last: int) -> int:
        """Steps of the samples from one candidate to another, padded to the latter's length."""
        return ends[last] * (before[last + 1] - before[first])

    cost = [padded(0, last) for last in range(len(ends))]
    cuts: list[list[int]] = []  # by number of buckets: where the last one begins
    for _ in range(min(buckets, len(ends)) - 1):
        begins, better = [0] * len(ends), list(cost)
        for last in range(1, len(ends)):
            options = [
                (cost[first - 1] + padded(first, last), first) for first in range(1, last + 1)
            ]
            best = min(options)
            if best[0] < cost[last]:
                better[last], begins[last] = best
        cuts.append(begins)
        cost = better
    boundaries: list[int] = []
    last = len(ends) - 1
    for begins in reversed(cuts):
        first = begins[last]
        if first == 0:
            continue  # a bucket more would not have helped
        boundaries.append(ends[first - 1] + 1)
        last = first - 1
    return tuple(reversed(boundaries))


def _merged(counts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most so many lengths as there may be candidates, each with what is near below it."""
    width = -(-len(counts) // _MOST_CANDIDATES)
    groups = [counts[max(0, end - width) : end] for end in range(len(counts), 0, -width)]
    return [(group[-1][0], sum(samples for _, samples in group)) for group in reversed(groups)]


def expected_longest(lengths: Lengths, batch_size: int) -> float:
    """The length to which a batch of so many random samples is padded, on average."""
    total, below, expected = lengths.samples, 0, 0.0
    for length, samples in lengths.counts:
        share = ((below + samples) / total) ** batch_size - (below / total) ** batch_size
        expected += length * share
        below += samples
    return expected
