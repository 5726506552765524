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
from functools import cached_property

from autobatch import memory_model
from autobatch.records import Outcome, Trial
from autobatch.sizes import SizeSpace

# Kept free of the budget by default: the first where fragmentation was counted, as needs by replay
# scatter by as much from trace to trace; elsewhere what the peaks' measured spread asks for,
# between the two (measured: scripts/bench/main_job.py).
LEAST_HEADROOM = 0.025
MOST_HEADROOM = 0.06
# Of the budget without what is in use between steps, where trials share the process that is to
# train, and its full pool.
CAREFUL_HEADROOM = 0.05
# A proof begins with a size this much larger: where training dies now and then, it dies more often
# there. Not more than the headroom, or proofs fail where replays are exact.
MARGIN = 0.025
# A failed proof lowers the next one's size by this share, twice that after the next, and so on.
STEP_DOWN = 0.05
PROOFS = 2  # trials of the allowance that are kept for proofs: one, and one more if that fails
NEAR_BUDGET = 0.04  # share of the budget, or of a size, that is not worth an out-of-memory trial
NEAR = 0.15  # of the size aimed at: from here on fragmentation and scatter are worth counting
NEAR_AIM = 0.85  # share of the size aimed at within which trials scatter about the same edge
# Where other searches have led, a trial tells of a size that is as much smaller, or larger by the
# second share: nearer ones would tell hardly more, as needs by replay scatter by some per cent from
# trace to trace. Less far upwards, where layouts may be others. (A transformer's at a length of 96:
# 259 samples foretold 280, which died once in six trainings.)
LED = 0.08
LED_UP = 0.05
EXPLORING = 0.8  # of the size aimed at: below it, a trial is there to learn the slope
FORETOLD = 0.03  # share of the budget: a rise foretold to be less tells nothing by not coming
ROOM_SHARE = 0.95  # of the allocator's limit: what a trial may be expected to need at worst


@dataclass(frozen=True, slots=True)
class Plan:
    """What is searched for.

    Attributes:
        space: The sizes allowed.
        budget_bytes: What the training may use; None where peaks are not measured.
        limit_bytes: What search trials could use: the budget, or more.
        precision: Share of the answer that may be left on the table; 0 for exact.
        headroom_bytes: Least bytes of the budget to keep free; None for the default's.
        usual_size: A size the user's script is known to work with, if any.
        careful: Trials run where memory must not run out: from below, and never at a size that
            could need more than the budget if memory grew faster than it did so far.
        start: Where other searches of the same model have led to expect the answer: the first
            trial is there. Defaults to a start from below.
    """

    space: SizeSpace
    budget_bytes: int | None = None
    limit_bytes: int | None = None
    precision: float = 0.02
    headroom_bytes: int | None = None
    usual_size: int | None = None
    careful: bool = False
    start: int | None = None


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
class Search:
    """A plan and what has been tried: immutable, one step after the other."""

    plan: Plan
    trials: tuple[Trial, ...] = ()

    def add(self, trial: Trial) -> Search:
        """The search with one more trial."""
        return replace(self, trials=(*self.trials, trial))

    # -- what the trials say -----------------------------------------------------------------

    @cached_property
    def model(self) -> memory_model.MemoryModel | None:
        """The memory model of the trials so far."""
        return memory_model.fit(self.trials) if self.plan.budget_bytes is not None else None

    @cached_property
    def headroom_bytes(self) -> int:
        """Bytes of the budget to be kept free of the peak."""
        budget, model, least = self.plan.budget_bytes, self.model, self._least_headroom_bytes
        if budget is None or model is None or self._replayed:
            return least
        spread = memory_model.relative_spread(self.trials, model.resident_bytes)
        scatter = spread * max(0, budget - model.resident_bytes)
        return max(least, int(min(scatter, MOST_HEADROOM * budget)))

    @cached_property
    def _replayed(self) -> bool:
        """Fragmentation was counted: the headroom does not change any more."""
        return any(t.needed_bytes is not None for t in self.trials)

    @cached_property
    def _least_headroom_bytes(self) -> int:
        """What is kept free whatever the peaks' spread."""
        budget, model = self.plan.budget_bytes, self.model
        if budget is None:
            return 0
        if self.plan.headroom_bytes is not None:
            return self.plan.headroom_bytes
        if self.plan.careful:  # what stays from step to step does not scatter
            resident = model.resident_bytes if model is not None else 0
            return int(max(LEAST_HEADROOM * budget, CAREFUL_HEADROOM * (budget - resident)))
        return int(LEAST_HEADROOM * budget)

    @property
    def enough_bytes(self) -> int:
        """A trial that needs more does not fit, whatever the headroom will be once it has ended."""
        assert self.plan.budget_bytes is not None
        return self.plan.budget_bytes - self._least_headroom_bytes

    @property
    def proof_bytes(self) -> int:
        """What a proof's steps may need by replay: the trials' word is one trace's, a proof's is
        another's, so it may lie half a headroom higher; but not where the user said what to keep
        free, or trials are the training's own process."""
        assert self.plan.budget_bytes is not None
        by_default = self.plan.headroom_bytes is None and not self.plan.careful
        spared = self.headroom_bytes // 2 if by_default and self._replayed else 0
        return self.plan.budget_bytes - spared

    @cached_property
    def target_bytes(self) -> float:
        """The budget without the headroom."""
        assert self.plan.budget_bytes is not None
        return self.plan.budget_bytes - self.headroom_bytes

    def is_fit(self, trial: Trial) -> bool:
        """Whether the trial speaks for its size: it went through, and within the budget."""
        if trial.outcome is not Outcome.FITS:
            return False
        if trial.proof or trial.peak_bytes is None or self.plan.budget_bytes is None:
            return True
        return (self.required_bytes(trial) or 0) <= self.target_bytes

    def required_bytes(self, trial: Trial) -> int | None:
        """What training at a trial's size asks of the device, as all trials together tell it."""
        if trial.required_bytes is None:
            return None
        return max(trial.required_bytes, self._step_bytes(trial) or 0)

    @cached_property
    def _step_bytes(self) -> Callable[[Trial], int | None]:
        return memory_model.step_bytes(self.trials)

    @cached_property
    def fails(self) -> int | None:
        """The smallest size that did not fit.

        A user's own error at sizes below all that fit (a loss that needs two samples, say) only
        says where the sizes begin.
        """
        smallest = min((t.batch_size for t in self.trials if self.is_fit(t)), default=None)
        return min(
            (
                t.batch_size
                for t in self.trials
                if not self.is_fit(t)
                and not (
                    t.outcome is Outcome.FAILED and smallest is not None and t.batch_size < smallest
                )
            ),
            default=None,
        )

    @cached_property
    def fits(self) -> int:
        """The largest size that fitted, below all that did not; 0 for none yet."""
        fails = self.fails
        return max(
            (
                t.batch_size
                for t in self.trials
                if self.is_fit(t) and (fails is None or t.batch_size < fails)
            ),
            default=0,
        )

    @cached_property
    def proven(self) -> int:
        """The largest size with a passed proof, below all that failed; 0 for none yet."""
        fails = self.fails
        return max(
            (
                t.batch_size
                for t in self.trials
                if t.proof and self.is_fit(t) and (fails is None or t.batch_size < fails)
            ),
            default=0,
        )

    @cached_property
    def reached(self) -> int:
        """The largest size that ever went through within the budget, headroom or not."""
        budget = self.plan.budget_bytes
        return max(
            (
                t.batch_size
                for t in self.trials
                if t.outcome is Outcome.FITS
                and (t.proof or budget is None or (t.required_bytes or 0) <= budget)
            ),
            default=0,
        )

    @cached_property
    def estimate(self) -> int | None:
        """The largest safe size as the memory model sees it now."""
        return None if self._aim is None else self._at_most(self._aim)

    @cached_property
    def _aim(self) -> float | None:
        """Where the memory model sees the target met: no whole number, allowed or not."""
        return None if self.model is None else self.model.largest_within(self.target_bytes)

    def beyond(self, size: int) -> int | None:
        """A size a little larger, for the proof of `size` to begin with; None where there is none.

        That is where memory must not run out, where the user has said what is to be kept free, and
        where such a size is not allowed, or was seen to die or to need more than the budget.
        """
        budget = self.plan.budget_bytes
        if self.plan.careful or self.plan.headroom_bytes is not None or budget is None:
            return None
        bad = [
            t.batch_size
            for t in self.trials
            if t.batch_size > size
            and (t.outcome is not Outcome.FITS or (self.required_bytes(t) or 0) > budget)
        ]
        most = min([size + int(MARGIN * size), *(each - 1 for each in bad)])
        larger = self._at_most(most)
        return larger if larger is not None and larger > size else None

    # -- what to do next ---------------------------------------------------------------------

    def next(self) -> Action:
        """The next trial, or the answer."""
        if not self.trials:
            if self.plan.careful:
                return Try(self.plan.space.first)
            if self.plan.start is not None:
                return Try(self._at_most(self.plan.start) or self.plan.space.first)
            # The second size tells whether the first fits too, and leaves one trial to spend.
            return Try(self.plan.space.at_most(2 * self.plan.space.first) or 0)
        if any(t.proof and not self.is_fit(t) for t in self.trials):
            return self._after_failed_proof()
        if (led := self._led_to) is not None:
            return self._proven_at(led)
        if self.fits == 0:
            return self._find_any()
        size = self._larger()
        proofs = PROOFS if self.plan.precision else 1  # an exact answer takes every other trial
        # What is sure to fit has the allowance of its own size: small steps lead far below it.
        reached = self.reached if size is None or not self.plan.careful else size
        if size is not None and self._left(reached) > proofs:
            return Try(size)
        return self._proven_at(self.fits)

    def _proven_at(self, size: int) -> Action:
        """This size is the answer, if it is proven."""
        return Done(size) if self.proven == size else Prove(size)

    @property
    def _led_to(self) -> int | None:
        """The size that the trials of a search that was led tell; None where none was near it."""
        model, aim, size = self.model, self._aim, self.estimate
        if not self._is_led or not self.plan.precision:
            return None
        if model is None or aim is None or size is None:
            return None
        if not self.reached or (self.fails is not None and size >= self.fails):
            return None  # what went beyond the budget tells less
        sizes = [point.batch_size for point in model.points]
        near = any((1 - LED_UP) * aim <= each <= (1 + LED) * aim for each in sizes)
        return size if near else None

    def _find_any(self) -> Action:
        tried = {t.batch_size for t in self.trials}
        if all(t.outcome is Outcome.FAILED for t in self.trials):
            # The script's own size may be the only one: ask for it before a size of 1, which may
            # go through where it is stretched over the numbers that a model counts on.
            for size in (self.plan.space.at_most(self.plan.usual_size or 8), self.plan.space.first):
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

    def is_near(self, batch_size: int) -> bool:
        """Whether the size is near enough to the answer to tell of it, as far as one can know.

        Where memory must not run out, any may be: fragmentation may set in at each.
        """
        if self.plan.start is not None:
            return True
        known = self.model is not None and len(self.model.points) > 1
        near = self.estimate is not None and batch_size >= NEAR * self.estimate
        return known and (self.plan.careful or near)

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
        if model is not None and aim is not None:
            gain = aim * (1 - self.plan.precision / 2) - low
            seasoned = len(model.points) > 1 or self.fails is not None or self._is_led
            if seasoned and self.plan.precision and gain < max(1.0, self._worth_a_trial(aim) * low):
                assert self.plan.budget_bytes is not None
                left = self.target_bytes - model.predict(low)
                # Of a search that is led the model is no guess: what is left is scatter.
                worth = NEAR_BUDGET * self.plan.budget_bytes * max(1, len(self._near(aim)) - 1)
                if self._is_led or left < worth:
                    return self._one_more(model, low, high)
            wishes = self._wishes(model, aim, low, high)
            for size in wishes:
                if self._affordable(size):
                    return size
            if self.plan.precision and gain < NEAR_BUDGET * low:
                return None  # doubling from here would run into the limit for little
            # No trial to run out of memory, though doubling would want one: the answer may be less
            # tight for it.
            beyond = seasoned and self._is_beyond(model, self._plain(low, high))
            if self.plan.precision and wishes and beyond:
                return wishes[0]
        return self._plain(low, high)

    def _one_more(self, model: memory_model.MemoryModel, low: int, high: int) -> int | None:
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
        return more if model.predict(more) <= most and self._affordable(more) else None

    def _is_beyond(self, model: memory_model.MemoryModel, size: int) -> bool:
        """Whether the model, by a slope that was measured and still holds, sees no room for it."""
        limit = self.plan.limit_bytes
        if limit is None or model.foothold is None or model.predict(size) <= limit:
            return False
        return not self._overrates(model)

    def _overrates(self, model: memory_model.MemoryModel) -> bool:
        """Whether memory has just grown by less than half of what had been foretold."""
        before = replace(self, trials=self.trials[:-1]).model
        if before is None or before.foothold is None:
            return False
        assert self.plan.budget_bytes is not None
        last, known = model.points[-1], before.points[-1].peak_bytes
        foretold = before.predict(last.batch_size) - known
        return (
            foretold > FORETOLD * self.plan.budget_bytes
            and 2 * (last.peak_bytes - known) < foretold
        )

    def _seems_baked(self, low: int) -> bool:
        """Only the script's own size went through, and the model itself failed on both sides."""
        failed = [t.batch_size for t in self.trials if t.outcome is Outcome.FAILED]
        others = {t.batch_size for t in self.trials} - {low, *failed}
        return (
            low == self.plan.usual_size
            and not others
            and any(s < low for s in failed)
            and any(s > low for s in failed)
        )

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

    @property
    def _one_died(self) -> bool:
        """Whether a size did not go through, and not for an error of the user's own."""
        well = (Outcome.FITS, Outcome.FAILED)
        return any(t.outcome not in well for t in self.trials)

    def _worth_a_trial(self, aim: float) -> float:
        """Share of a size that another trial must promise: more, the more there were near it."""
        return self.plan.precision * (1 + len(self._near(aim)) / 4)

    def _near(self, aim: float) -> list[Trial]:
        """Trials about the edge so far."""
        near = [t for t in self.trials if NEAR_AIM * aim <= t.batch_size <= aim / NEAR_AIM]
        return [t for t in near if not t.proof]

    @property
    def _creeps(self) -> bool:
        """The last two trials fitted, both short of what did not: the model sees the edge too low.

        One outlier above it is enough for that.
        """
        last = self.trials[-2:]
        return self.fails is not None and len(last) == 2 and all(map(self.is_fit, last))

    def _wishes(
        self, model: memory_model.MemoryModel, aim: float, low: int, high: int
    ) -> list[int]:
        """Sizes that the memory model would try, inside the bracket, the best first."""
        # A little below the edge, where the size is more likely to be the answer itself; more so
        # with each size near it that was too large after all.
        missed = sum(not self.is_fit(t) for t in self._near(aim))
        size = aim * (1 - self.plan.precision / 2 * 2 ** min(missed, 2))
        if self.plan.limit_bytes is not None:
            size = min(size, model.largest_without_risk(ROOM_SHARE * self.plan.limit_bytes))
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
        known = (len(model.points) > 1 or self._is_led) and size >= EXPLORING * aim
        sizes = [size, in_step] if known else [in_step, size]
        allowed = [self._at_most(min(each, high - 1)) for each in sizes]
        return [each for each in allowed if each is not None and low < each < high]

    def _plain(self, low: int, high: int) -> int:
        """The size that doubling and bisection would try."""
        doubled = self._at_most(2 * low)
        if (high > 2 * low or self.fails is None) and doubled is not None and doubled > low:
            return doubled
        return self.plan.space.middle(low, high)

    def _after_failed_proof(self) -> Action:
        """Step down from what failed; then close in on the edge, as long as trials are left."""
        failed = [t for t in self.trials if t.proof and not self.is_fit(t)]
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
        lower = self._at_most(min(high * (1 - share), high - 1)) if share < 1 else None
        if failed[-1].outcome is Outcome.FAILED or self._left(self.reached) < 2 or not lower:
            return Prove(smallest)
        return Prove(lower)

    # -- what it may cost --------------------------------------------------------------------

    @property
    def _is_led(self) -> bool:
        """Other searches have told where to start."""
        return self.plan.start is not None

    @property
    def _upper(self) -> int:
        """The smallest size not to be tried."""
        return self.fails if self.fails is not None else self.plan.space.last + 1

    def _at_most(self, size: float) -> int | None:
        return self.plan.space.at_most(size)

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
