"""Calls of the caller's function x the pure search -> SearchResult."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from autobatch import batch_search
from autobatch.batch_search import Action, Done, GiveUp, Prove, Search
from autobatch.calls import OwnCalls
from autobatch.endings import MEMORY
from autobatch.errors import (
    AutobatchError,
    NothingFitsError,
    ProbeInterrupted,
    UsageError,
    WorkerError,
)
from autobatch.events import TrialEnded, TrialStarted
from autobatch.isolation import IsolatedCalls, own_error
from autobatch.own_options import Options
from autobatch.protocol import Failed
from autobatch.records import (
    LIMIT_OF,
    LimitedBy,
    LimitKind,
    Outcome,
    Proof,
    ProofKind,
    SearchResult,
    Trial,
)
from autobatch.units import format_bytes


class Calls(Protocol):
    """Runs the caller's function at a batch size: `OwnCalls` or `IsolatedCalls`."""

    failed: Failed | None

    @property
    def fresh(self) -> bool:
        """Whether the last call may stand as a proof."""
        ...

    def __call__(self, batch_size: int, *, proof: bool = False) -> Trial: ...

    def rest(self) -> None:
        """Give back what is held between calls."""
        ...


class OwnSearch:
    """One search over functions of the caller's."""

    def __init__(self, options: Options) -> None:
        self._options, self._observe = options, options.observer
        self._plan = options.plan()
        self._started = time.monotonic()
        self._hurried = False  # the time did not reach for all that it would have tried
        self._search = Search(self._plan)
        self._runs: list[Trial] = []  # a search trial that became the proof stands here once

    def calls_of(self, function: Callable[[int], Any]) -> OwnCalls | IsolatedCalls:
        """Calls of a function that tells its peak or nothing, here or in a worker."""
        options = self._options
        if options.isolated:
            return IsolatedCalls(function, timeout=options.timeout, observer=options.observer)
        return OwnCalls(function, measures=True)

    def run(self, trials: Calls, proofs: Calls) -> SearchResult:
        """Search with the one, prove with the other; the same one may serve for both."""
        self._trials, self._proofs = trials, proofs
        try:
            end = self._from_start()
            if isinstance(end, GiveUp):
                raise self._nothing(end.last)
            return self._result(end.batch_size)
        except AutobatchError as error:
            error.trials = error.trials or tuple(self._runs)
            raise
        except KeyboardInterrupt:
            raise ProbeInterrupted(trials=tuple(self._runs)) from None
        finally:
            self._proofs.rest()

    def _from_start(self) -> Done | GiveUp:
        """The search, from where it is to start."""
        plan = self._plan
        known: tuple[Trial, ...] = ()
        start = plan.space.at_most(self._options.start or 0)
        if start is not None:
            first = self._try(start)
            self._search = Search(plan, (first,))
            if self._search.is_fit(first):
                known = self._search.trials
            elif start == plan.space.first:
                return GiveUp(first)
            else:  # up from below, to the size before it
                plan = replace(plan, space=replace(plan.space, maximum=start - 1))
        self._search = Search(plan, known)
        while True:
            action = self._next()
            if isinstance(action, (Done, GiveUp)):
                return action
            measure = self._prove if isinstance(action, Prove) else self._try
            search = self._search = self._search.add(measure(action.batch_size))
            last = search.trials[-1]
            self._observe(TrialEnded(last, search.fits, search.fails, search.estimate))

    def _next(self) -> Action:
        """What the search would do, but for the time, and for a proof that failed.

        Proofs here may be whole trainings, so after a failed one the size is stepped down, by
        more each time, until one passes, rather than to the smallest as soon as the trials that
        bisection may cost are spent.
        """
        search, space = self._search, self._search.plan.space
        failed = search.failed_proofs
        if self._enough() and search.fits:
            return Done(search.proven) if search.proven else self._lower(failed, search.fits)
        if not failed or search.proven or failed[-1].outcome is Outcome.FAILED:
            return search.next()
        return self._lower(failed, space.last)

    def _lower(self, failed: list[Trial], most: int) -> Action:
        """Prove a size below those that failed, and not above `most`."""
        if not failed:
            return Prove(most)
        space = self._search.plan.space
        high = min(t.batch_size for t in failed)
        if high <= space.first:
            return GiveUp(failed[-1])
        share = batch_search.STEP_DOWN * 2 ** (len(failed) - 1)
        lower = space.at_most(min(high * (1 - share), high - 1)) if share < 1 else None
        return Prove(min(most, lower) if lower else space.first)

    # -- trials ------------------------------------------------------------------------------

    def _try(self, batch_size: int) -> Trial:
        self._observe(TrialStarted(batch_size, proof=False))
        trial = self._trials(batch_size)
        told = trial.peak_bytes is not None or trial.outcome is not Outcome.FITS
        if self._plan.budget_bytes is not None and not told:
            raise UsageError(
                "memory_limit can be kept only where try_batch returns its peak, the most bytes "
                "that were in use; received None. Return it (on TensorFlow "
                "tf.config.experimental.get_memory_info('GPU:0')['peak'], on PyTorch "
                "torch.cuda.max_memory_allocated()), or leave memory_limit out."
            )
        self._runs.append(trial)
        return trial

    def _prove(self, batch_size: int) -> Trial:
        if self._trials is self._proofs and self._proves(self._runs[-1], batch_size):
            trial = self._runs[-1] = msgspec.structs.replace(self._runs[-1], proof=True)
            return trial
        self._observe(TrialStarted(batch_size, proof=True))
        if self._trials is not self._proofs:
            self._trials.rest()
        trial = self._proofs(batch_size, proof=True)
        if trial.outcome is Outcome.FITS and self._is_beyond(trial):
            peak, budget = trial.peak_bytes or 0, self._plan.budget_bytes or 0
            why = f"it peaked at {format_bytes(peak)} of {format_bytes(budget)}"
            trial = msgspec.structs.replace(trial, outcome=Outcome.OUT_OF_MEMORY, why=why)
        self._runs.append(trial)
        return trial

    def _proves(self, last: Trial, batch_size: int) -> bool:
        """Whether the last run was this size's, and went as a proof asks for."""
        went = last.batch_size == batch_size and last.outcome is Outcome.FITS and not last.proof
        return went and self._trials.fresh and not self._is_beyond(last)

    def _is_beyond(self, trial: Trial) -> bool:
        budget = self._plan.budget_bytes
        return budget is not None and (trial.peak_bytes or 0) > budget

    def _enough(self) -> bool:
        self._hurried |= time.monotonic() - self._started > self._options.total_timeout / 2
        return self._hurried

    # -- after -------------------------------------------------------------------------------

    def _nothing(self, last: Trial) -> AutobatchError:
        """Why there is no answer, as an error."""
        size = min(t.batch_size for t in self._runs)
        failed = self._proofs.failed or self._trials.failed
        if last.outcome is Outcome.FAILED and failed is not None:
            return own_error(failed)
        if last.outcome is not Outcome.FITS and last.outcome not in MEMORY:
            how = "hung" if last.outcome is Outcome.TIMED_OUT else "died"
            return WorkerError(
                f"try_batch could be run at no size: at {last.batch_size} it {how} ({last.why}), "
                "and nothing says that it was for lack of memory."
            )
        budget = self._plan.budget_bytes
        if last.proof and any(self._search.is_fit(t) for t in self._runs):
            return NothingFitsError(
                f"No batch size passed its proof, the last one {last.batch_size} ({last.why}), "
                "though trials at larger sizes went through before. Something of each call stays "
                "in the memory: have the function let go of what it made.",
                needed_bytes=last.peak_bytes,
                budget_bytes=budget,
            )
        needed = max(
            (t.peak_bytes for t in self._runs if t.batch_size == size and t.peak_bytes),
            default=None,
        )
        said = f" ({last.why})" if last.why else ""
        if needed is not None and budget is not None:
            kept = format_bytes(self._search.headroom_bytes)
            said += f": it needs {format_bytes(needed)} of {format_bytes(budget)}, of which {kept} "
            said += "are to stay free"
        return NothingFitsError(
            f"Even batch size {size} does not fit into the memory{said}. Free what else is on the "
            "device, raise memory_limit if there is one, or make the model or its inputs smaller.",
            needed_bytes=needed,
            budget_bytes=budget,
        )

    def _result(self, size: int) -> SearchResult:
        peaks = [
            t.peak_bytes
            for t in self._runs
            if t.batch_size == size and t.outcome is Outcome.FITS and t.peak_bytes is not None
        ]
        proof = next(t for t in reversed(self._runs) if t.proof and t.batch_size == size)
        return SearchResult(
            batch_size=size,
            limited_by=self._limited_by(size),
            budget_bytes=self._plan.budget_bytes,
            peak_bytes=max(peaks, default=None),
            headroom_bytes=self._search.headroom_bytes,
            proof=Proof(
                kind=ProofKind.CALLER,
                steps=None,
                peak_bytes=() if proof.peak_bytes is None else (proof.peak_bytes,),
            ),
            trials=tuple(self._runs),
            seconds=round(time.monotonic() - self._started, 2),
        )

    def _limited_by(self, size: int) -> LimitedBy:
        search, budget = self._search, self._plan.budget_bytes
        beyond = [t for t in self._runs if t.batch_size > size and not search.is_fit(t)]
        if beyond:
            first = min(beyond, key=lambda t: t.batch_size)
            if first.outcome is Outcome.FITS:
                why = (
                    f"it needs {format_bytes(first.peak_bytes or 0)} of "
                    f"{format_bytes(budget or 0)}, of which {format_bytes(search.headroom_bytes)} "
                    "are to stay free"
                )
            else:
                why = f"it ended {first.outcome.replace('_', ' ')} ({first.why})"
            kind = LIMIT_OF.get(first.outcome, LimitKind.MEMORY)
            return LimitedBy(kind, f"batch size {first.batch_size}: {why}")
        if size == self._plan.space.last:
            return LimitedBy(LimitKind.MAXIMUM, f"max_batch_size is {self._options.max_batch_size}")
        if self._hurried:
            return LimitedBy(
                LimitKind.TIMEOUT,
                f"total_timeout ({self._options.total_timeout:g} s) left no time for larger sizes",
            )
        model = search.model
        assert model is not None, "without a model, only what is above ends a search"
        assert budget is not None
        more = max(size, search.estimate or 0) + 1
        return LimitedBy(
            LimitKind.MEMORY,
            f"batch size {more} is expected to need {format_bytes(model.predict(more))} of "
            f"{format_bytes(budget)}, of which {format_bytes(search.headroom_bytes)} are to stay "
            "free",
        )
