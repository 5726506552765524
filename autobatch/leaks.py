"""Does memory grow with each step? From the peaks of a trial's steps to a rate. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median

LEAST_STEPS = 6  # fewer rise by chance
# Kendall's tau of peak and step from which on they rise (Mann 1945): of six peaks without a trend
# 0.8 is reached once in a hundred times, of seven once in seven hundred.
RISING = 0.8
ENDING = 1 / 3  # the later half's slope over the earlier one's: below, a cache fills, and ends


def growth_per_step(peaks: Sequence[int]) -> int | None:
    """Bytes that each step adds for good; None where memory does not grow with the steps.

    The rate is the median slope of all pairs (Sen 1968): the allocator rounds, and what else is
    in use at the peak differs from step to step. The first step is left out: the optimizer's slots
    come with it.

    Args:
        peaks: Most bytes in use during each step, all at one batch size.

    Example:
        growth_per_step([10, 20, 24, 28, 32, 36, 40]) == 4
    """
    later = peaks[1:]
    if len(later) < LEAST_STEPS:
        return None
    slopes = _slopes(later)
    half = len(later) // 2
    first, last = median(_slopes(later[:half])), median(_slopes(later[-half:]))
    if _rising(slopes) < RISING * len(slopes) or last < ENDING * first:
        return None
    return round(median(slopes))


def rises(peaks: Sequence[int]) -> bool:
    """More pairs of steps rise than fall, the first step left out: no proof of growth by itself.

    What keeps something with each step does so at every batch size. A trial too short for
    `growth_per_step` therefore bears out what a longer one seems to show, or does not.

    Args:
        peaks: Most bytes in use during each step, all at one batch size.
    """
    return _rising(_slopes(peaks[1:])) > 0


def _rising(slopes: Sequence[float]) -> int:
    """How many more rise than fall."""
    return sum((slope > 0) - (slope < 0) for slope in slopes)


def _slopes(peaks: Sequence[int]) -> list[float]:
    pairs = combinations(enumerate(peaks), 2)
    return [(after - before) / (j - i) for (i, before), (j, after) in pairs]
