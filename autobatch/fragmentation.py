"""How many bytes training needs with fragmentation counted: its beginning, replayed.

A training dies where no free chunk is long enough, which is before the bytes in use reach the
limit: chunks lie scattered, a request gets a whole chunk of up to twice its size, and an allocator
that grows never joins its regions. So the peak alone does not foretell deaths. The allocations of
its first steps do, from the first batch of data on, for that is where memory is laid out;
replayed in orders that threads may take, each tells the least limit under which it goes through.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from autobatch.footprint import Allocation
from autobatch.replays import Replay

REPLAYS = 48  # at first; then as many as tell what is needed to within
ERROR = 0.01  # of it, as a standard error; but not more than
MOST_REPLAYS = 256
MOST_EVENTS = 300_000  # in all, where the first have fewer
# Where memory must not run out and the need is as near as this to what there is, its scatter
# decides the answer: then so many times as many replays, and as many at most.
NEAR_EDGE = 0.05
CLOSER = 2
# Where it is as near as this to what there will be, it counts how much larger all that the steps
# allocate could be under just that: a few large chunks lie in regions of given lengths, so that a
# need is no straight line. (By least limits 49.5 to 51.6 samples of a transformer fit, by six
# traces, and by this 49.8 to 50; 50 do. By 37 traces of nine trainings it is 0.96 to 1.03 times the
# safe maximum, by least limits 0.89 to 1.06.)
WITHIN_SIGHT = 0.25
# A size needs the mean of the limits that its replays need, and so many times their mean absolute
# deviation from it: where memory is laid out differently from order to order, trainings meet rarer
# orders than replays do. (Less noisy than a quantile of the limits or their standard deviation.)
DEVIATIONS = 3.3
# Without loops no order needs much more than the worst one that was replayed, and this is all that
# is foretold beyond it: layouts may be of two kinds, and the mean and deviations of two heaps of
# limits are no word on what lies above the upper one. (A CNN in half precision at a size of 1900:
# replays need 88 or 100 % of the limit, by the mean and deviations it would be 108. It trains, and
# at 1950; from 2000 on it dies.) The passes of loops mix in orders that few replays meet; and where
# memory must not run out, a layout of a third kind is counted with. (A network of four large
# buffers, searched in its own process, died in two of five searches with this bound.)
BEYOND_WORST = 1.01
MAY_DIE = 1 / 24  # share of the replays that may die all the same: orders that are accidents
# How long regions are counts as much as how much is in them: as long as they will be only under
# what there will be, and at about the size that is looked for. So there all that the steps allocate
# is made larger, by such factors, from where of a few replays none dies, to where more than
# `MAY_DIE` of many do. (Where the passes of loops leave holes in all places, that is the only way.
# The scale is, by 18 traces of trials at 0.25 to 1.4 times the first size of which one in ten
# trainings was seen to die, from 0.88 to 1.02 of that size, for LSTMs of seven lengths, limits and
# models; to within 1 or 2 % from trace to trace but for one. That deaths become fewer again,
# farther up, where a tensor has outgrown a region, is no accident of replays: trainings do the
# same. Without loops deaths set in more sharply, and steps are half as wide.)
SCALE, FINE_SCALE, FEW = 1.02, 1.01, 8
# To find that place, so large a factor at once where some live, and where none do; and so far
# without a death is clear.
COARSE, FAST, CLEAR = 1.04, 1.12, 1.17
LEAST_SCALE = 1 / 8  # of the largest conceivable: where too many die at this one, nothing fits
FAR_TOO_MUCH = 64  # times the least conceivable: what fits at no scale needs that


def needed_bytes(
    allocations: Sequence[Allocation],
    *,
    residents: Sequence[int] = (),
    grows: bool = True,
    at_least: int = 0,
    edge: int | None = None,
    steps: int = 1,
    careful: bool = False,
) -> int:
    """What the first steps need, by the replays: with loops, or near the `edge`, as `needed_under`
    says; else the mean of the least limits under which each goes through, and `DEVIATIONS` of their
    mean absolute deviations from it; at least what all but `MAY_DIE` of them need, and without
    loops at most `BEYOND_WORST` times what the worst needs.

    Args:
        allocations, residents, grows, steps: See `Replay`.
        at_least: Bytes that are needed anyway. Where the first replays need far less, they are the
            answer.
        edge: Bytes that there will be. None where that is not known.
        careful: Memory must not run out, and the pool is one that other trainings have laid out,
            not an empty one: orders count that no threads give, and what the worst replay needs
            is no bound.
    """
    replay = Replay(allocations, residents=residents, grows=grows, steps=steps, freely=careful)
    if not replay.least:
        return at_least
    limit = None if careful else edge
    if limit is not None and replay.loops:
        return max(at_least, needed_under(replay, limit, REPLAYS))
    limits = Limits(replay, careful=careful)
    limits.extend(REPLAYS)
    if limits.need + 2 * limits.error <= at_least:
        return at_least
    near = abs(limits.need - edge) / edge if edge else math.inf
    if limit is not None and near < WITHIN_SIGHT:
        return max(at_least, needed_under(replay, limit, REPLAYS))
    limits.extend(limits.enough)
    if near < NEAR_EDGE:
        limits.extend(CLOSER * limits.enough)
    return max(at_least, limits.need)


def needed_under(replay: Replay, limit: int, replays: int) -> int:
    """What steps need where there is `limit`: so much of it as leaves room for them to be as large
    as they are instead of as large as so many replays allow."""
    room, active = limit - replay.held, replay.least - replay.held
    if not active:
        return replay.least
    if room <= 0:
        return FAR_TOO_MUCH * replay.least
    replays = max(FEW, min(replays, MOST_EVENTS // max(1, replay.events)))
    scale = Scales(replay, limit, replays).largest
    return FAR_TOO_MUCH * replay.least if scale is None else replay.held + round(room / scale)


class Scales:
    """How many replays die where all that the steps allocate is made larger, under one limit.

    Args:
        replay: What is replayed. It allocates more than it finds.
        limit: More than what it finds.
        replays: How many, `FEW` or more.
    """

    def __init__(self, replay: Replay, limit: int, replays: int) -> None:
        self._replay, self._limit = replay, limit
        self._few, self._others = range(FEW), range(FEW, replays)
        # More than so large it cannot be, and it is so much smaller at place 1, 2, ...
        self._most = (limit - replay.held) / (replay.least - replay.held)
        self._step = SCALE if replay.loops else FINE_SCALE
        self._last = self._places(1 / LEAST_SCALE)
        self._dead: dict[tuple[int, range], int] = {}  # at a place, in these orders

    def _places(self, factor: float) -> int:
        """How many make so large a factor, at least."""
        return math.ceil(math.log(factor, self._step) - 0.1)

    @property
    def largest(self) -> float | None:
        """The scale at which `MAY_DIE` of the replays do, with fewer at every smaller one; the
        largest where so many do at none, None where more do at all."""
        place = self._below
        while (before := self._share(place)) > MAY_DIE / 2:
            if place >= self._last:
                return None
            place += self._places(COARSE)
        while place > 0:
            share = self._share(place - 1)
            if share > MAY_DIE:
                return self._at(place - (MAY_DIE - before) / (share - before))
            before, place = share, place - 1
        return self._at(place)

    @property
    def _below(self) -> int:
        """A place just below the lowest at which one of a few replays dies."""
        lowest, place = 0, 0
        coarse, fast, clear = map(self._places, (COARSE, FAST, CLEAR))
        while place <= min(lowest + clear, self._last):
            dead = self._deaths(place, self._few)
            if dead:
                lowest = place
            place += fast if dead == FEW else coarse
        return lowest + coarse + 1

    def _at(self, place: float) -> float:
        return self._most / math.pow(self._step, place)

    def _share(self, place: int) -> float:
        """Of the replays at a place, and half as many on either side of it, how many die."""
        weighed = sum(
            self._deaths(max(0, each), orders)
            for each in (place - 1, place, place, place + 1)
            for orders in (self._few, self._others)
        )
        return weighed / (4 * (FEW + len(self._others)))

    def _deaths(self, place: int, orders: range) -> int:
        key = place, orders
        if key not in self._dead:
            self._dead[key] = self._replay.deaths(orders, self._limit, self._at(place))
        return self._dead[key]


class Limits:
    """The least limits under which a training's replays go through, one after the other.

    Args:
        replay: What is replayed.
        careful: See `needed_bytes`.

    Attributes:
        found: Those so far, by the number of their order.
    """

    def __init__(self, replay: Replay, *, careful: bool = False) -> None:
        self._replay = replay
        self._bounded = not (replay.loops or careful)
        self.found: list[int] = []

    def extend(self, number: int) -> None:
        """Have at least so many."""
        for order in range(len(self.found), number):
            near = round(statistics.fmean(self.found)) if self.found else 0
            self.found.append(self._replay.least_limit(order, near))

    @property
    def need(self) -> int:
        """What training needs, by those so far."""
        spare = int(MAY_DIE * len(self.found))
        usual = statistics.fmean(self.found) + DEVIATIONS * self._deviation
        if self._bounded:
            usual = min(usual, BEYOND_WORST * max(self.found))
        return max(round(usual), sorted(self.found)[-1 - spare])

    @property
    def error(self) -> float:
        """The standard error of `need` were they normally distributed, and not a few far off.

        Of n numbers with a standard deviation s the mean has s / sqrt(n), and the mean absolute
        deviation d, which is s * sqrt(2 / pi), has s * sqrt((1 - 2 / pi) / n) (Geary, 1935).
        """
        return self._error_of_one / math.sqrt(len(self.found))

    @property
    def enough(self) -> int:
        """How many are to be had for an error of `ERROR`, within bounds."""
        number = math.ceil((self._error_of_one / (ERROR * self.need)) ** 2)
        return min(number, MOST_REPLAYS, MOST_EVENTS // max(1, self._replay.events))

    @property
    def _deviation(self) -> float:
        mean = statistics.fmean(self.found)
        return statistics.fmean(abs(each - mean) for each in self.found)

    @property
    def _error_of_one(self) -> float:
        normal = self._deviation / math.sqrt(2 / math.pi)
        return normal * math.sqrt(1 + (1 - 2 / math.pi) * DEVIATIONS**2)
