"""The search: from the trials so far to the next one, or to the answer. Pure: no I/O, no clock.

Two kinds of trial. A search trial measures peaks, with more memory to spend than the budget where
the device has it, so that a size that is too large still tells by how much. A proof runs in a
fresh process under the real limit and passes or fails. The memory model chooses sizes inside the
bracket of what fits and what does not, as long as plain doubling and bisection would still do with
the trials that are left: so the search never takes more trials than they would, whatever the
model believes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

from autobatch import memory_model
from autobatch.evidence import Evidence, Plan
from autobatch.records import Outcome, Trial

# A failed proof lowers the next one's size by this share, twice that after the next, and so on.
STEP_DOWN = 0.05
PROOFS = 2  # trials of the allowance that are kept for proofs: one, and one more if that fails
NEAR_BUDGET = 0.04  # share of the budget, or of a size, that is not worth an out-of-memory trial
# Where other searches have led, a trial tells of a size that is as much smaller, or larger by the
# second share: nearer ones would tell hardly more, as needs by replay scatter by some per cent from
# trace to trace. Less far upwards, where layouts may be others. (A transformer's at a length of 96:
# 259 samples foretold 280, which died once in six trainings.)
LED = 0.08
LED_UP = 0.05
EXPLORING = 0.8  # of the size aimed at: below it, a trial is there to learn the slope
# Of the allocator's limit, what a trial may be expected to need at worst; but always what is aimed
# at, or the edge is crept up to where there is no more than the budget.
ROOM_SHARE = 0.95
# What is foretold from less than this share of it is not relied on where there is no more memory
# than the budget and some of it: then a trial goes up to a share of it, and to so many times the
# size that foretells it. (Foretold from a sixtieth of the size, a CNN's was 6 % too high.) Of
# compiled programs it goes up to a half, from where the next size is the one to be proven.
FAR, WARY, HALF, LEAP = 0.25, 0.85, 0.5, 16
ODD = 8  # samples from which on trials that are there to learn have an odd number of them
MISLED = 3  # sizes near the edge that do not fit: then doubling and bisection must do


@dataclass(frozen=True, slots=True)
class Try:
    """Measure this size."""

    batch_size: int


@dataclass(frozen=True, slots=True)
class Prove:
    """Prove this size."""

    batch_size: int


@dataclass(frozen=True, slots=True)
class Done:
    """This size is the answer: it was proven."""

    batch_size: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No size could be proven. `last` is the trial that says why."""

    last: Trial


Action = Try | Prove | Done | GiveUp


@dataclass(frozen=True)
class Search(Evidence):
    """The next trial by the evidence so far: immutable, one step after the other."""

    def add(self, trial: Trial) -> Search:
        """The search with one more trial."""
        return replace(self, trials=(*self.trials, trial))

    # -- what to do next ---------------------------------------------------------------------

    def next(self) -> Action:
        """The next trial, or the answer."""
        if not self.trials:
            if self.plan.start is not None:
                return Try(self._at_most(self.plan.start) or self.plan.space.first)
            if self.plan.careful:
                return Try(self.plan.space.first)
            # The second size tells whether the first fits too, and leaves one trial to spend.
            return Try(self.plan.space.at_most(2 * self.plan.space.first) or 0)
        if self.failed_proofs:
            return self._after_failed_proof()
        for size in (self._seen_enough, self._compiled_to):
            if size is not None:
                return self._proven_at(size)
        if self.fits == 0:
            return self._find_any()
        size, aim = self._larger(), self._aim
        proofs = PROOFS if self.plan.precision else 1  # an exact answer takes every other trial
        # What is sure to fit has the allowance of its own size: small steps lead far below it.
        reached = self.reached if size is None or not self.plan.careful else size
        if self._tellers and aim is not None:  # or few samples would be the answer
            reached = max(reached, int(aim / 2))
        if size is not None and self._left(reached) > proofs:
            return Try(size)
        return self._proven_at(max(self.fits, self._told or 0))

    def _proven_at(self, size: int) -> Action:
        """This size is the answer, if it is proven; or a larger one that is."""
        return Done(self.proven) if self.proven >= size else Prove(size)

    @property
    def seen_from_near(self) -> int | None:
        """A size somewhat below the one that the trials tell; None where none was near that, the
        answer is to be exact, or memory must not run out."""
        model, aim = self.model, self._aim
        if not self.plan.precision or self.plan.careful or model is None or aim is None:
            return None
        size = self._at_most(self._somewhat_below(aim))
        if size is None or (self.fails is not None and size >= self.fails):
            return None
        traced = self._traced_near(aim)
        alone = bool(self._tellers) and len(traced) == 1 and not self.is_fit(traced[0])
        if not self.reached or alone:
            return None  # what went beyond the budget tells less
        # Where an edge was foretold, little more than was tried: no others know it from below.
        least = size / (1 + self.plan.precision) if self._tellers else (1 - LED_UP) * aim
        near = any(least <= point.batch_size <= (1 + LED) * aim for point in model.points)
        return size if near else None

    @property
    def _told(self) -> int | None:
        """The same where the edge was foretold, or others have led here."""
        return self.seen_from_near if self._is_led or self._tellers else None

    @property
    def _seen_enough(self) -> int | None:
        """The same where no further trial is worth its time: the proof is traced, too. Of few
        samples one more is much, and may be."""
        size, aim = self._told, self._aim
        if size is None or aim is None or self._is_led:
            return size
        few = self.plan.precision * size < 1
        return None if few or self._missed(aim) >= MISLED else size

    @property
    def _compiled_to(self) -> int | None:
        """The size foretold for a compiled program, where a trial of it would tell nothing: without
        memory to spare it may die in a process that has run others."""
        teller, aim = self._teller, self._aim
        if teller is None or aim is None or not teller.compiled or not self.plan.precision:
            return None
        if not self._is_tight or teller.batch_size < FAR * aim:
            return None
        size = self._at_most(self._somewhat_below(aim))
        return None if size is None else max(size, self.fits)

    def _find_any(self) -> Action:
        tried = {t.batch_size for t in self.trials}
        if all(t.outcome is Outcome.FAILED for t in self.trials):
            # The script's own size may be the only one: ask for it before a size of 1, which may
            # go through where it is stretched over the numbers that a model counts on.
            usual = self.plan.usual_size or 8
            if self.plan.careful and self.plan.start is not None:
                usual = min(usual, self.plan.start)  # more has fitted nowhere
            for size in (self.plan.space.at_most(usual), self.plan.space.first):
                if size is not None and size not in tried:
                    return Try(size)
            return GiveUp(self.trials[0])
        if self._is_led and (lower := self._below(min(tried))) is not None:
            return Try(lower)
        too_small = max(
            (t.batch_size for t in self.trials if t.outcome is Outcome.FAILED), default=0
        )
        if not too_small:
            first = self.plan.space.first
            return GiveUp(self.trials[-1]) if first in tried else Try(first)
        # The model itself fails at small sizes, and larger ones did not fit: look between them.
        least = min(
            (t for t in self.trials if t.outcome is not Outcome.FAILED), key=lambda t: t.batch_size
        )
        between = self.plan.space.at_most((too_small + least.batch_size) // 2)
        return GiveUp(least) if between is None or between in tried else Try(between)

    def _below(self, size: int) -> int | None:
        """Where to look below a first size that was too large; None where there is none."""
        aim = size / 2 if self._aim is None else self._aim
        return self._at_most(min(aim * (1 - self.plan.precision), size - 1))

    def _larger(self) -> int | None:
        """A larger size worth trying; None when the largest that fits is near enough."""
        low, high = self.fits, self._upper
        if low == self.plan.space.last or (
            self.fails is not None and self._halvings(low, high) == 0
        ):
            return None
        if self._seems_baked(low):
            while self.plan.space.between(low, high):  # the very next size tells
                high = self.plan.space.middle(low, high)
            return high
        model, aim = self.model, self._aim
        if self.plan.careful:
            return self._surely_larger(low, high)
        plain = self._plain(low, high)
        if model is not None and aim is not None:
            gain = aim * (1 - self.plan.precision / 2) - low
            seasoned = len(model.points) > 1 or self.fails is not None or self._is_led
            if seasoned and self.plan.precision and gain < max(1.0, self._worth_a_trial(aim) * low):
                assert self.plan.budget_bytes is not None
                left = self.target_bytes - model.predict(low)
                # Of a search that is led, or has been told, the model is no guess: what is left is
                # scatter.
                worth = NEAR_BUDGET * self.plan.budget_bytes * max(1, len(self._near(aim)) - 1)
                if self._is_led or self._tellers or left < worth:
                    return self._one_more(model, aim, low, high)
            wishes = self._wishes(model, aim, low, high)
            for size in wishes:
                if self._affordable(size) or self._is_trusted(aim):
                    return size
            if self.plan.precision and gain < NEAR_BUDGET * low:
                return None  # doubling from here would run into the limit for little
            # No trial to run out of memory, though doubling would want one: the answer may be less
            # tight for it.
            if self.plan.precision and wishes and seasoned and self._is_beyond(model, plain):
                return wishes[0]
        return plain

    def _one_more(
        self, model: memory_model.MemoryModel, aim: float, low: int, high: int
    ) -> int | None:
        """The next size, where it is much larger and may well do; else None.

        Of few samples one more is worth a trial even where it is foretold to need somewhat too
        much: from size to size memory is laid out in other ways.
        """
        budget, limit = self.plan.budget_bytes, self.plan.limit_bytes
        assert budget is not None
        more = self.plan.space.above(low)
        if more is None or more >= high or more - low <= self.plan.precision * low:
            return None
        most = min(self.target_bytes + NEAR_BUDGET * budget, limit or budget)
        allowed = self._affordable(more) or self._is_trusted(aim)
        return more if model.predict(more) <= most and allowed else None

    def _surely_larger(self, low: int, high: int) -> int | None:
        """A larger size that fits even if memory grows faster than it did so far."""
        model, aim = self.model, self._aim
        if model is None or aim is None:
            return None
        # Where a size did die after all, memory bends somewhere below it: go half of the way.
        short = (low + high) // 2 if self._one_died else high - 1
        size = self._at_most(
            min(
                aim * (1 - self.plan.precision / 2),
                model.largest_surely_within(self.target_bytes),
                short,
            )
        )
        worth = max(1.0, self.plan.precision / 2 * low)  # each is sure of little
        return size if size is not None and size - low >= worth else None

    def _worth_a_trial(self, aim: float) -> float:
        """Share of a size that another trial must promise: more, the more there were near it."""
        return self.plan.precision * (1 + len(self._near(aim)) / 4)

    def _wishes(
        self, model: memory_model.MemoryModel, aim: float, low: int, high: int
    ) -> list[int]:
        """Sizes that the memory model would try, inside the bracket, the best first."""
        # A little below the edge, where the size is more likely to be the answer itself; more so
        # with each size near it that was too large after all.
        size = aim * (1 - self.plan.precision / 2 * 2 ** min(self._missed(aim), 2))
        if self._tellers:
            size = self._somewhat_below(aim)
        if self._teller is not None:
            size = min(size, self._farthest_foretold(self._teller))
        elif self.plan.limit_bytes is not None:
            room = max(ROOM_SHARE * self.plan.limit_bytes, self.target_bytes)
            size = min(size, model.largest_without_risk(room))
        if aim >= high or aim < low + 1:  # the model has just been shown wrong, or sees no more
            return []
        size = max(size, low + self.plan.precision * low, low + 1)
        if self.fails is not None:  # a trial costs the same however little it may gain
            size = max(size, (low + aim) / 2)
        if self._creeps:
            size = max(size, (low + high) / 2)
        # Far from what is known, keep step with doubling: a jump that fails costs less then.
        doublings = int(size // self.plan.space.first).bit_length() - 1
        in_step = self.plan.space.first << doublings
        if in_step >= ODD:  # weights' dimensions are powers of two: activations then stand out
            in_step -= 1
        known = (len(model.points) > 1 or self._is_led) and size >= EXPLORING * aim
        known |= self._teller is not None
        sizes = [size, in_step] if known else [in_step, size]
        allowed = [self._at_most(min(each, high - 1)) for each in sizes]
        return [each for each in allowed if each is not None and low < each < high]

    def _is_trusted(self, aim: float) -> bool:
        """Whether what is foretold, or what a size near the edge was seen to need, goes before the
        certainty of doubling, until it has misled `MISLED` times."""
        told = bool(self._tellers or self._traced_near(aim)) and bool(self.plan.precision)
        return told and self._missed(aim) < MISLED

    def _somewhat_below(self, aim: float) -> int:
        """What to try where the edge is foretold, as a proof begins with more, and one of several
        lengths together does not: half of what the precision allows to be left below it, to the
        nearest whole number that is not above it."""
        return min(math.floor(aim), round(aim * (1 - self.plan.precision / 2)))

    def _farthest_foretold(self, teller: Trial) -> float:
        """The largest size to try by this trial's word: less than what it foretells where a trial
        at a size too large would run out of memory, and it lies far from there itself."""
        aim = float(teller.foretold or 0)
        if not self._is_tight or teller.batch_size >= FAR * aim:
            return aim
        return min((HALF if teller.compiled else WARY) * aim, LEAP * teller.batch_size)

    def _plain(self, low: int, high: int) -> int:
        """The size that doubling and bisection would try."""
        doubled = self._at_most(2 * low)
        if (high > 2 * low or self.fails is None) and doubled is not None and doubled > low:
            return doubled
        return self.plan.space.middle(low, high)

    def _after_failed_proof(self) -> Action:
        """Step down from what failed; then close in on the edge, as long as trials are left."""
        failed = self.failed_proofs
        high = min(t.batch_size for t in failed)
        low = self.proven
        if low:
            # Where a proof failed, sizes a little below die now and then, too: keep away from it.
            near = max(self.plan.precision, 1.5 * STEP_DOWN) if self.plan.precision else 0.0
            middle = self.plan.space.middle(low, high)
            if high - low <= near * high or not low < middle < high or self._left(self.reached) < 1:
                return Done(low)
            return Prove(middle)
        smallest = self.plan.space.first
        if high <= smallest or self._left(self.reached) < 1:
            return GiveUp(failed[-1])
        # A user's error rarely depends on the size: the smallest tells at once.
        share = STEP_DOWN * 2 ** (len(failed) - 1)
        down = max(high * (1 - share), self._told_by_all or 0)
        lower = self._at_most(min(down, high - 1)) if share < 1 else None
        if failed[-1].outcome is Outcome.FAILED or self._left(self.reached) < 2 or not lower:
            return Prove(smallest)
        return Prove(lower)

    @property
    def _told_by_all(self) -> int | None:
        """A size somewhat below the edge by all traces from near there, those of proofs included,
        where each proof that failed was traced."""
        failed = self.failed_proofs
        untraced = any(t.needed_bytes is None for t in failed)
        if not self._pools or self.model is None or untraced:
            return None
        return self._somewhat_below(fmean(map(self._met_by, [*self._at_edge, *failed])))

    # -- what it may cost --------------------------------------------------------------------

    @property
    def _upper(self) -> int:
        """The smallest size not to be tried."""
        return self.fails if self.fails is not None else self.plan.space.last + 1

    def _halvings(self, low: int, high: int) -> int:
        """Bisections until the bracket is as narrow as the precision asks."""
        inside = self.plan.space.between(low, high)
        enough = max(0, self.plan.space.between(low, low + int(self.plan.precision * low) + 1))
        return max(0, math.ceil(math.log2((inside + 1) / (enough + 1))))

    def _remaining(self, low: int, high: int | None) -> int:
        """Trials that doubling and bisection need at most inside this bracket, and a proof."""
        if high is None or high > 2 * low:
            return 1 + self._halvings(low, 2 * low) + 1
        return self._halvings(low, high) + 1

    def allowance(self, size: int) -> int:
        """Trials that doubling and bisection, and one proof, need to answer `size`."""
        doublings = max(1, size // self.plan.space.first).bit_length()
        return doublings + self._remaining(self.plan.space.first << (doublings - 1), None)

    def _left(self, reached: int) -> int:
        """Trials left of the allowance for a size, as a rule the largest that ever fitted."""
        return self.allowance(max(reached, self.plan.space.first)) - len(self.trials)

    def _affordable(self, size: int) -> bool:
        """Whether doubling and bisection still do within the allowance after this trial."""
        used = len(self.trials) + 1
        high = self.fails
        if_fits = used + self._remaining(size, high) <= self.allowance(size)
        if_fails = used + self._remaining(self.fits, size) <= self.allowance(self.reached)
        return if_fits and if_fails


def run(
    plan: Plan,
    try_size: Callable[[int], Trial],
    prove: Callable[[int], Trial],
    *,
    trials: tuple[Trial, ...] = (),
    on_trial: Callable[[Search], None] = lambda _: None,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[Search, Done | GiveUp]:
    """Drive a search to its end.

    Args:
        plan: What is searched for.
        try_size: Measures a size.
        prove: Proves a size.
        trials: Of an earlier run with the same plan, to go on from. What they proved is proven
            once more before it is the answer.
        on_trial: Told the search after each trial.
        enough: Asked before each search trial: whether to settle for what fits so far.
    """
    search = Search(plan, trials)
    proven: set[int] = set()  # in this run
    while True:
        action = search.next()
        if isinstance(action, Done) and action.batch_size not in proven:
            action = Prove(action.batch_size)
        if isinstance(action, (Done, GiveUp)):
            return search, action
        if isinstance(action, Try) and enough() and search.fits:
            action = Prove(search.fits)
        measure = prove if isinstance(action, Prove) else try_size
        search = search.add(measure(action.batch_size))
        if isinstance(action, Prove) and search.trials[-1].outcome is Outcome.FITS:
            proven.add(action.batch_size)
        on_trial(search)
        if isinstance(action, Prove) and search.proven in proven and enough():
            return search, Done(search.proven)
