"""The sizes that may be tried, against a plain list of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autobatch.errors import UsageError
from autobatch.sizes import LARGEST, SizeSpace


def listed(minimum: int, maximum: int, multiple_of: int, power_of_two: bool) -> list[int]:
    return [
        size
        for size in range(minimum, maximum + 1)
        if size % multiple_of == 0 and (not power_of_two or size & (size - 1) == 0)
    ]


@st.composite
def spaces(draw: st.DrawFn) -> tuple[SizeSpace, list[int]]:
    power_of_two = draw(st.booleans())
    minimum = draw(st.integers(1, 60))
    maximum = draw(st.integers(minimum, 200))
    multiple_of = draw(st.sampled_from([1, 2, 8, 16]) if power_of_two else st.integers(1, 20))
    sizes = listed(minimum, maximum, multiple_of, power_of_two)
    assume(sizes)
    return SizeSpace(minimum, maximum, multiple_of, power_of_two), sizes


@given(spaces())
def test_first_and_last(drawn: tuple[SizeSpace, list[int]]) -> None:
    space, sizes = drawn
    assert (space.first, space.last) == (sizes[0], sizes[-1])


@given(spaces(), st.floats(-10, 300) | st.integers(-10, 300) | st.just(math.inf))
def test_at_most(drawn: tuple[SizeSpace, list[int]], size: float) -> None:
    space, sizes = drawn
    assert space.at_most(size) == max((s for s in sizes if s <= size), default=None)


@given(spaces(), st.integers(-10, 250))
def test_above(drawn: tuple[SizeSpace, list[int]], size: int) -> None:
    space, sizes = drawn
    assert space.above(size) == min((s for s in sizes if s > size), default=None)


@given(spaces(), st.integers(0, 250), st.integers(0, 250))
def test_between_and_middle(drawn: tuple[SizeSpace, list[int]], low: int, high: int) -> None:
    space, sizes = drawn
    inside = [s for s in sizes if low < s < high]
    assert space.between(low, high) == len(inside)
    if inside:
        middle = space.middle(low, high)
        assert middle in inside
        below, above = inside.index(middle), len(inside) - 1 - inside.index(middle)
        assert abs(below - above) <= 1  # else bisection takes longer than it may


@given(
    st.integers(-3, 40), st.integers(-3, 40), st.integers(-3, 20), st.booleans()
)  # any, sensible or not
def test_a_space_is_made_if_and_only_if_it_holds_a_size(
    minimum: int, maximum: int, multiple_of: int, power_of_two: bool
) -> None:
    sensible = min(minimum, maximum, multiple_of) >= 1
    if sensible and listed(minimum, maximum, multiple_of, power_of_two):
        SizeSpace(minimum, maximum, multiple_of, power_of_two)
    else:
        with pytest.raises(UsageError):
            SizeSpace(minimum, maximum, multiple_of, power_of_two)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"minimum": 0}, ["minimum", "0"]),
        ({"maximum": -1}, ["maximum", "-1"]),
        ({"multiple_of": 0}, ["multiple of", "0"]),
        ({"minimum": 9, "maximum": 8}, ["9", "8"]),
        ({"multiple_of": 12, "power_of_two": True}, ["12", "--power-of-two", "--multiple-of"]),
        ({"minimum": 33, "maximum": 63, "power_of_two": True}, ["power of two", "33", "63"]),
        ({"minimum": 9, "maximum": 15, "multiple_of": 8}, ["multiple of 8", "9", "15"]),
    ],
)
def test_a_refusal_says_what_was_received(arguments: dict, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        SizeSpace(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_everything_is_allowed_by_default() -> None:
    space = SizeSpace()
    assert (space.first, space.last) == (1, LARGEST)
    assert space.at_most(12345.9) == 12345
    assert space.at_most(1e300) == LARGEST


def test_divisors_are_sizes_of_their_own():
    space = SizeSpace(minimum=2, divisor_of=96, multiple_of=2)
    assert (space.first, space.last) == (2, 96)
    assert [space.at_most(size) for size in (1, 2, 5, 47, 1000)] == [None, 2, 4, 32, 96]
    assert space.between(4, 48) == 6  # 6, 8, 12, 16, 24, 32
    assert [space.above(size) for size in (1, 2, 8, 96)] == [2, 4, 12, None]
    assert space.middle(4, 48) == 16
    assert SizeSpace(divisor_of=96, power_of_two=True).last == 32
    with pytest.raises(UsageError, match="no size that divides 7 from 2 to 6"):
        SizeSpace(2, 6, divisor_of=7)
