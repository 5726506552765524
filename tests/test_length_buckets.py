"""Boundaries: what is refused, what is chosen, and what is padded."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import length_buckets
from autobatch.errors import UsageError
from autobatch.length_buckets import Lengths

COUNTS = st.dictionaries(st.integers(1, 40), st.integers(1, 30), min_size=2, max_size=9)


def lengths(counts: dict[int, int]) -> Lengths:
    return Lengths(counts=tuple(sorted(counts.items())))


def padded(data: Lengths, boundaries: tuple[int, ...]) -> int:
    """Tokens where every sample is padded to the longest one in its bucket."""
    return sum(each.longest * each.samples for each in length_buckets.count(data, boundaries))


@pytest.mark.parametrize(
    ("boundaries", "words"),
    [
        ([], "none"),
        ([100, 100], "increase; received 100 after 100"),
        ([200, 100], "increase; received 100 after 200"),
        ([0, 100], "received 0"),
        ([-5, 100], "received -5"),
        ([1, 100], "received 1"),
        ([100, 501], "not be above the maximum length, 500; received 501"),
    ],
)
def test_boundaries_that_make_no_buckets_are_refused(boundaries: list[int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        length_buckets.check(boundaries, 500)


def test_a_boundary_at_the_maximum_length_leaves_a_bucket_of_that_length() -> None:
    length_buckets.check([100, 500], 500)
    assert length_buckets.longest_of([100, 500], 500) == (99, 499, 500)


def test_each_sample_is_counted_in_the_bucket_that_tensorflow_puts_it_into() -> None:
    data = lengths({1: 2, 99: 3, 100: 5, 199: 7, 200: 11, 900: 13})
    found = length_buckets.count(data, [100, 200])
    assert [each.samples for each in found] == [5, 12, 24]
    assert [each.longest for each in found] == [99, 199, 900]


@given(COUNTS, st.integers(2, 5))
def test_no_boundaries_leave_less_padding_than_those_chosen(
    counts: dict[int, int], buckets: int
) -> None:
    data = lengths(counts)
    chosen = length_buckets.choose(data, buckets)
    assert len(chosen) <= buckets - 1
    length_buckets.check(chosen, data.longest)
    ends = sorted(counts)[:-1]
    others = itertools.chain.from_iterable(
        itertools.combinations([end + 1 for end in ends], number) for number in range(1, buckets)
    )
    assert padded(data, chosen) == min(padded(data, each) for each in others)


def test_a_long_tail_is_cut_and_quantiles_would_not() -> None:
    rng = random.Random(0)
    sizes = [min(2000, 10 + int(rng.lognormvariate(4, 1))) for _ in range(5000)]
    data = lengths({size: sizes.count(size) for size in set(sizes)})
    chosen = length_buckets.choose(data, 5)
    quantiles = tuple(sorted(sizes)[len(sizes) * part // 5] for part in range(1, 5))
    assert padded(data, chosen) < 0.6 * padded(data, quantiles)
    assert len(chosen) == 4
    assert 1 - data.tokens / padded(data, chosen) < 0.4


def test_more_lengths_than_candidates_are_taken_together_and_none_is_lost() -> None:
    data = lengths(dict.fromkeys(range(1, 5001), 1))
    chosen = length_buckets.choose(data, 4)
    assert [round(each, -2) for each in chosen] == [1200, 2500, 3800] or chosen[0] in range(
        1150, 1350
    )
    assert sum(each.samples for each in length_buckets.count(data, chosen)) == 5000


def test_data_of_one_length_has_no_buckets() -> None:
    with pytest.raises(UsageError, match=r"all its sequences have one length \(7\)"):
        length_buckets.choose(lengths({7: 100}), 5)


def test_truncated_and_dropped() -> None:
    data = lengths({5: 1, 10: 2, 20: 3, 30: 4})
    assert data.beyond(10) == 7
    assert data.truncated(10).counts == ((5, 1), (10, 9))
    assert data.without_longer(10).counts == ((5, 1), (10, 2))
    assert data.truncated(30) == data


def test_the_length_that_a_batch_is_padded_to() -> None:
    data = lengths({10: 50, 20: 50})
    assert length_buckets.expected_longest(data, 1) == 15
    assert length_buckets.expected_longest(data, 2) == 17.5
    assert length_buckets.expected_longest(data, 100) == pytest.approx(20)


@given(COUNTS, st.integers(1, 20))
def test_a_larger_batch_is_never_padded_to_less(counts: dict[int, int], size: int) -> None:
    data = lengths(counts)
    smaller, larger = (length_buckets.expected_longest(data, each) for each in (size, size + 1))
    assert smaller <= larger + 1e-9
    assert min(counts) <= smaller <= max(counts)
