"""What is searched for, and what the trials so far say of it. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from autobatch import memory_model
from autobatch.records import Outcome, Trial
from autobatch.sizes import SizeSpace

# Kept free of the budget by default: the first where fragmentation was counted, as needs by replay
# scatter by as much from trace to trace; elsewhere what the peaks' measured spread asks for,
# between the other two (measured: scripts/bench/main_job.py).
LEAST_HEADROOM = 0.02
PEAKS_HEADROOM = 0.025
MOST_HEADROOM = 0.06
# Where batches of several lengths follow each other, and each leaves the holes that suit it, and no
# proof begins with larger sizes. (Five lengths of a transformer need by replays, each alone, 94 to
# 97 %, and together 95 to 99. One of them, at a size that by its replays needs 97 %, died alone in
# one of ten trainings.) But not the passes of loops, whose holes lie everywhere anyway.
MIXED_HEADROOM = 0.035
# Where a step has few large allocations, orders that few replays meet, and few traces, kill sizes
# some per cent below those at which replays begin to die. (Of a CNN's seven traces of eight steps
# six put the edge at 288 to 292 samples, one at 277; of fresh trainings 1 of 23 died at 278, 1 of
# 31 at 280, 3 of 24 at 288 and 7 of 25 at 292. With 3.5 % five searches answered 272 to 278.)
FEW_HEADROOM = 0.05
# Of the budget without what is in use between steps, where trials share the process that is to
# train, and its full pool.
CAREFUL_HEADROOM = 0.05
# A proof begins with a size this much larger: where training dies now and then, it dies more often
# there. Not more than the headroom and what is left below the edge, or proofs fail where replays
# are exact.
MARGIN = 0.025
# Share of the target: what needs so much less, or more, tells where the edge is. And share of a
# size that is foretold: a trial so near to it tells whether it is.
AT_EDGE = 0.1
# A trial that needs so much more, as a share of what there is, shows what was foretold to be wrong.
REFUTED = 0.25
SPACIOUS = 0.25  # share of the budget that trials have beside it, where there is room to be wrong
NEAR = 0.15  # of the size aimed at: from here on fragmentation and scatter are worth counting
NEAR_AIM = 0.85  # share of the size aimed at within which trials scatter about the same edge
FORETOLD = 0.03  # share of the budget: a rise foretold to be less tells nothing by not coming


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
        mixed: It is trained with batches of other sizes and sequence lengths in between.
        start: Where other searches of the same model have led to expect the answer; where memory
            must not run out, what they have shown to fit. The first trial is there. Defaults to a
            start from below.
    """

    space: SizeSpace
    budget_bytes: int | None = None
    limit_bytes: int | None = None
    precision: float = 0.02
    headroom_bytes: int | None = None
    usual_size: int | None = None
    careful: bool = False
    mixed: bool = False
    start: int | None = None


@dataclass(frozen=True)
class Evidence:
    """A plan and what has been tried."""

    plan: Plan
    trials: tuple[Trial, ...] = ()

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
        if self.plan.headroom_bytes is None:
            scatter = max(scatter, PEAKS_HEADROOM * budget)
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
        if self.plan.mixed and not any(t.loops for t in self.trials):
            return int(MIXED_HEADROOM * budget)
        return int((FEW_HEADROOM if self.has_few_tensors else LEAST_HEADROOM) * budget)

    @property
    def has_few_tensors(self) -> bool:
        """A step of the training has few large allocations, as far as it was traced."""
        traced = [t for t in self.trials if t.needed_bytes is not None or t.foretold]
        return bool(traced) and traced[-1].few_tensors

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
        if self._pools and trial in self._at_edge and (trial.other_bytes or 0) <= self.target_bytes:
            return trial.batch_size <= (self._pooled or 0)
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
        return self._largest_fit(self.trials)

    @cached_property
    def proven(self) -> int:
        """The largest size with a passed proof, below all that failed; 0 for none yet."""
        return self._largest_fit(t for t in self.trials if t.proof)

    @cached_property
    def failed_proofs(self) -> list[Trial]:
        """Those that did not go through, or would not have in another order."""
        return [t for t in self.trials if t.proof and not self.is_fit(t)]

    def _largest_fit(self, trials: Iterable[Trial]) -> int:
        fails = math.inf if self.fails is None else self.fails
        sizes = (t.batch_size for t in trials if self.is_fit(t) and t.batch_size < fails)
        return max(sizes, default=0)

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
        """Where the target is met, by what is foretold or else by the memory model: no whole
        number, allowed or not."""
        if self._teller is not None:  # it has told a whole number: the edge lies above that
            return (self._teller.foretold or 0) + 0.5
        if self.model is None:
            return None
        seen = self.model.largest_within(self.target_bytes)
        if not self._pools:
            cautious = bool(self._tellers) and not self.plan.careful
            return min([seen, *map(self._met_by, self._at_edge)]) if cautious else seen
        if self._pooled is None:
            return seen if self._refused is None else math.sqrt(seen * self._refused)
        far = [t for t in self.trials if not t.proof and t not in self._at_edge]
        wrong = any(t.batch_size <= self._pooled and not self.is_fit(t) for t in far)
        return min(seen, self._pooled) if wrong else self._pooled

    @cached_property
    def _refused(self) -> int | None:
        """What was foretold, where the last trial, the only one of about that size, needed much
        more: the two are each other's only witness, and either may be the outlier. None where
        nothing is like that."""
        last = [t for t in self.trials if not t.proof][-1]
        if last.needed_bytes is None or self.is_fit(last) or self._missed(last.batch_size) > 1:
            return None
        if last.needed_bytes > (1 + REFUTED) * self.target_bytes:
            return None
        told = [t.foretold or 0 for t in self._tellers if t is not last]
        near = [each for each in told if abs(last.batch_size - each) <= AT_EDGE * each]
        return max(near, default=None)

    @property
    def _pools(self) -> bool:
        """Traces from near the edge tell together where it is, and not each for itself: where
        neither an exact answer nor what to keep free was asked for, and memory may run out."""
        plan = self.plan
        asked = plan.careful or plan.headroom_bytes is not None or not plan.precision
        return plan.budget_bytes is not None and not asked

    @cached_property
    def _pooled(self) -> float | None:
        """Where the target is met by the traces from near there, on an average: what each of them
        tells scatters, up and down. None where there are none."""
        return fmean(map(self._met_by, self._at_edge)) if self._at_edge else None

    def _met_by(self, trial: Trial) -> float:
        """Where the target is met, by what this trial needs: laid out in another way, a smaller
        size needs less by more than its samples do, so what the larger one said counts, less
        those."""
        assert self.model is not None
        resident = self.model.resident_bytes
        room, need = max(0.0, self.target_bytes - resident), (trial.needed_bytes or 0) - resident
        return float(trial.batch_size * (room / max(1, need)) ** (1 / self.model.exponent))

    @cached_property
    def _at_edge(self) -> list[Trial]:
        """Search trials whose needs tell where the edge is."""
        near = AT_EDGE * self.target_bytes
        return [t for t in self._traced if abs((t.needed_bytes or 0) - self.target_bytes) <= near]

    @cached_property
    def _teller(self) -> Trial | None:
        """The trial whose word on the largest size that fits counts, the one that lies nearest to
        what it foretells. None where others have shown it to be wrong, or have come near enough
        for what they need to tell more."""
        high = math.inf if self.fails is None else self.fails
        told = [t for t in self._tellers if self.fits <= (t.foretold or 0) < high]
        near = min(
            told, key=lambda t: abs(math.log((t.foretold or 1) / t.batch_size)), default=None
        )
        if near is None or (near.compiled and self._is_tight):
            return near
        return None if self._at_edge or self._was_tried(near.foretold or 0) else near

    def _was_tried(self, foretold: int) -> bool:
        """Whether a trial was so near to what another foretells that its own need tells more."""
        return any(abs(t.batch_size - foretold) <= AT_EDGE * foretold for t in self._traced)

    @property
    def _traced(self) -> list[Trial]:
        """Search trials of which fragmentation was counted."""
        return [t for t in self.trials if t.needed_bytes is not None and not t.proof]

    @property
    def _tellers(self) -> list[Trial]:
        return [t for t in self.trials if not t.proof and t.foretold]

    @property
    def _is_tight(self) -> bool:
        """Trials have hardly more memory than the training."""
        limit, budget = self.plan.limit_bytes, self.plan.budget_bytes
        return limit is not None and budget is not None and limit <= (1 + SPACIOUS) * budget

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
        # Where memory grows with the square, half as much of it.
        margin = MARGIN / (1.0 if self.model is None else self.model.exponent)
        most = min([size + int(margin * size), *(each - 1 for each in bad)])
        larger = self._at_most(most)
        return larger if larger is not None and larger > size else None

    @property
    def _is_led(self) -> bool:
        """Other searches have told where to start."""
        return self.plan.start is not None

    def is_near(self, batch_size: int) -> bool:
        """Whether the size is near enough to the answer to tell of it, as far as one can know.

        Where memory must not run out, any may be: fragmentation may set in at each.
        """
        if self._is_led:
            return True
        known = self.model is not None and len(self.model.points) > 1
        near = self.estimate is not None and batch_size >= NEAR * self.estimate
        return known and (self.plan.careful or near)

    @property
    def _one_died(self) -> bool:
        """Whether a size did not go through, and not for an error of the user's own."""
        well = (Outcome.FITS, Outcome.FAILED)
        return any(t.outcome not in well for t in self.trials)

    def _near(self, aim: float) -> list[Trial]:
        """Trials about the edge so far."""
        near = [t for t in self.trials if NEAR_AIM * aim <= t.batch_size <= aim / NEAR_AIM]
        return [t for t in near if not t.proof]

    def _traced_near(self, aim: float) -> list[Trial]:
        """Those of which fragmentation was counted."""
        return [t for t in self._near(aim) if t.needed_bytes is not None]

    def _missed(self, aim: float) -> int:
        """How many of those did not fit."""
        return sum(not self.is_fit(t) for t in self._near(aim))

    @property
    def _creeps(self) -> bool:
        """The last two trials fitted, both short of what did not: the model sees the edge too low.

        One outlier above it is enough for that.
        """
        last = self.trials[-2:]
        return self.fails is not None and len(last) == 2 and all(map(self.is_fit, last))

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

    def _at_most(self, size: float) -> int | None:
        return self.plan.space.at_most(size)
