"""One search and its result, wherever the trials run: in workers, or in this very process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from autobatch import batch_search, learning_rate, protocol, throughput, verdict
from autobatch.batch_search import Done, GiveUp, Search
from autobatch.conversation import OutOfTime
from autobatch.errors import (
    AutobatchError,
    DeviceError,
    ProbeInterrupted,
    UsageError,
    WorkerError,
)
from autobatch.events import Observer, Prepared, TrialEnded, TrialStarted, ignore
from autobatch.evidence import Plan
from autobatch.interrupts import uninterrupted
from autobatch.options import THROUGHPUT, ProbeOptions
from autobatch.records import (
    Device,
    LearningRate,
    LimitedBy,
    Outcome,
    ProbeResult,
    Proof,
    ProofKind,
    Trial,
)
from autobatch.sizes import LARGEST, SizeSpace

SMALL_STEPS = 3  # of a trial far from the answer: tracing and slots, then two steady ones
# Traced of a trial near the answer, and of a proof, if it has them, where a step has few large
# allocations: the more steps, the more layouts. (Of a CNN whose trainings begin to die at about
# 280, seven traces of five steps put the edge at 287 to 309, of six at 287 to 299, of eight at 277
# to 292.)
FEW_TENSORS_STEPS = 8
DEFAULT_BASE_BATCH_SIZE = 32  # Keras's own
SAMPLED_HEADROOM = 0.13  # of the budget, where short peaks go unseen between two samples


class Trials(Protocol):
    """Whoever runs trials: a crew of workers, or this process.

    Attributes:
        failed: The last exception of a trial.
        not_a_number: A loss was none in some step.
        versions: Of Python, TensorFlow and Keras.
    """

    failed: protocol.Failed | None
    not_a_number: bool
    versions: dict[str, str]

    def measure(
        self,
        batch_size: int,
        *,
        steps: int,
        trace: bool,
        trace_steps: int = 0,
        enough_bytes: int | None,
        sequence_length: int | None = None,
    ) -> Trial:
        """Run a search trial, with all sequences of one length where that is given."""
        ...

    def prove(
        self, batch_size: int, *, enough_bytes: int, beyond: int | None, trace_steps: int = 0
    ) -> tuple[Trial, protocol.TrialDone | None]:
        """Run a proof, and say whether its steps, replayed, need more than `enough_bytes`.

        It begins with steps at the larger size `beyond`, if there is one.
        """
        ...


class Here(Trials, Protocol):
    """This process.

    Attributes:
        prepared: What is trained.
        device: What trials, and the training itself, may use.
    """

    prepared: protocol.Prepared
    device: Device


def search_here(here: Here, options: ProbeOptions, *, observer: Observer = ignore) -> ProbeResult:
    """Find and prove a size in this very process, which is to go on living.

    No trial may run out of memory: sizes are tried that are sure to fit, and no others.

    Args:
        here: Runs trials in this process.
        options: How to probe; what is about workers says nothing here.
        observer: Told each event as it happens.

    Raises:
        NothingFitsError, ModelError, WorkerError, UsageError: As `autobatch.probe`.
    """
    run = Searching(observer, options, kind=ProofKind.THIS_PROCESS)
    with told_what_was_tried(run):
        return run.search_with(here, here.prepared, here.device)


class Searching:
    """A search and its result.

    Args:
        observer: Told each event as it happens.
        options: How to probe.
        kind: Where proofs run.
    """

    def __init__(self, observer: Observer, options: ProbeOptions, *, kind: ProofKind) -> None:
        self._started = time.monotonic()
        self._observe, self._options, self._kind = observer, options, kind
        self._proof: protocol.TrialDone | None = None  # of the answer, or the last one
        self._proofs: dict[int, protocol.TrialDone] = {}
        self._proven: set[int] = set()  # by this probe's own proofs
        self._refuted: tuple[Trial, ...] = ()  # the proof that a cached answer did not pass
        self._earlier = 0  # trials of an earlier probe that the search goes on from
        self._tight = False  # search trials have no more than the budget: peaks tell less
        self._hurried = False  # the time did not reach for all that the search would have tried
        self.search = Search(Plan(SizeSpace()))

    @property
    def tried(self) -> tuple[Trial, ...]:
        """All trials so far."""
        return self.search.trials

    def search_with(
        self, trials: Trials, prepared: protocol.Prepared, device: Device
    ) -> ProbeResult:
        """Search, prove, report."""
        self._begin(prepared, device)
        plan = self._plan(prepared)
        self.search = Search(plan)
        self._proven.clear()
        try:
            end = self._find(trials, plan, prepared)
            if isinstance(end, Done) and self._options.prefer == THROUGHPUT:
                end = self._fastest(trials, plan, end)
        except OutOfTime:
            end = self._out_of_time()
        except (WorkerError, DeviceError) as error:
            self._check_device()  # a GPU that is lost has more to say of that
            if isinstance(error, DeviceError) or self.search.proven not in self._proven:
                raise
            end = Done(self.search.proven)
        if not isinstance(end, Done):
            raise verdict.nothing(self.search, end.last, self._budget, trials.failed)
        return self._result(end.batch_size, prepared, trials)

    def _begin(self, prepared: protocol.Prepared, device: Device) -> None:
        """Say what is searched for, and where."""
        self._described, self._budget = device, device.budget_bytes
        self._observe(Prepared(prepared.model, device, prepared.samples, prepared.prelude_seconds))
        self._learning_rates(1, prepared)  # refused before the search, not after it

    def _fastest(self, trials: Trials, plan: Plan, end: Done) -> Done | GiveUp:
        """The size with the best proven samples a second, instead of the largest."""
        while not self._enough():
            size = throughput.next_proof(self.search, end.batch_size, self._proven)
            if size is None:
                break
            self._on_trial(self.search.add(self._prove(trials, size)))
            if not self.search.is_fit(self.search.trials[-1]):  # then the larger one is in doubt
                return self._searched(trials, plan, self.search.trials)
        return Done(throughput.fastest(self.search, end.batch_size, self._proven))

    # -- what a search in workers has more ---------------------------------------------------

    def _find(self, trials: Any, plan: Plan, prepared: protocol.Prepared) -> Done | GiveUp:
        return self._searched(trials, plan, ())

    def _check_device(self) -> None:
        """Whether the last trial says something of the device as it is."""

    def _check_proof(self, trials: Any) -> None:
        """The same of a proof."""

    def _kept(self, trial: Trial) -> None:
        """Have this trial where it outlives us."""

    def _more_warnings(self) -> tuple[str, ...]:
        return ()

    # -- before ------------------------------------------------------------------------------

    def _plan(self, prepared: protocol.Prepared) -> Plan:
        options, replicas = self._options, prepared.replicas
        bounds = {"minimum": options.minimum, "maximum": options.maximum or LARGEST}
        samples = prepared.samples // replicas if prepared.samples else prepared.samples
        self._cap = samples if options.dataset_cap else None
        if prepared.fixed_batch_size is not None:
            fixed = prepared.fixed_batch_size
            if not bounds["minimum"] <= fixed <= bounds["maximum"]:
                raise UsageError(
                    f"The model's inputs have a fixed batch size of {fixed}, outside of the sizes "
                    f"asked for ({bounds['minimum']} to {bounds['maximum']})."
                )
            bounds = {"minimum": fixed, "maximum": fixed}
        elif self._cap is not None:
            if self._cap < bounds["minimum"]:
                raise UsageError(
                    f"The data set has {self._cap} samples, fewer than the smallest batch size "
                    f"asked for ({bounds['minimum']}). --no-dataset-cap lifts that bound."
                )
            bounds["maximum"] = min(bounds["maximum"], self._cap)
        target = options.target_batch_size
        if target is not None and target % replicas:
            raise UsageError(
                f"A target batch of {target} cannot be split among {replicas} replicas. Ask for a "
                f"multiple of {replicas}."
            )
        space = SizeSpace(
            **bounds,
            multiple_of=options.multiple_of,
            power_of_two=options.power_of_two,
            divisor_of=None if target is None else target // replicas,
        )
        return Plan(
            space=space,
            budget_bytes=self._budget,
            limit_bytes=prepared.limit_bytes,
            precision=options.precision,
            headroom_bytes=self._headroom_bytes(prepared),
            usual_size=(prepared.script_batch_size or 0) // replicas or None,
            careful=self._kind is ProofKind.THIS_PROCESS,
        )

    def _headroom_bytes(self, prepared: protocol.Prepared) -> int | None:
        asked = self._options.headroom_bytes(self._budget)
        if asked is None and prepared.coarse:
            return int(SAMPLED_HEADROOM * self._budget)
        return asked

    # -- trials ------------------------------------------------------------------------------

    def _searched(self, runs: Trials, plan: Plan, earlier: tuple[Trial, ...]) -> Done | GiveUp:
        return batch_search.run(
            plan,
            lambda size: self._try(runs, size),
            lambda size: self._prove(runs, size),
            trials=earlier,
            on_trial=self._on_trial,
            enough=self._enough,
        )[1]

    def _try(self, runs: Trials, batch_size: int, sequence_length: int | None = None) -> Trial:
        self._observe(TrialStarted(batch_size, proof=False, sequence_length=sequence_length))
        near = self.search.is_near(batch_size)
        steps = self._options.steps if near else min(SMALL_STEPS, self._options.steps)
        trial = runs.measure(
            batch_size,
            steps=steps,
            trace=near or self._tight,
            trace_steps=0 if sequence_length else self._trace_steps,  # there a few must do
            enough_bytes=self.search.enough_bytes,
            sequence_length=sequence_length,
        )
        self._check_device()
        return msgspec.structs.replace(trial, tight=self._tight)

    def _prove(self, runs: Trials, batch_size: int) -> Trial:
        self._observe(TrialStarted(batch_size, proof=True))
        beyond = self.search.beyond(batch_size)
        trial, done = runs.prove(
            batch_size,
            enough_bytes=self.search.proof_bytes,
            beyond=beyond,
            trace_steps=self._trace_steps,
        )
        self._check_device()
        self._check_proof(runs)
        if done is not None:
            self._proof = self._proofs[batch_size] = done
        if trial.outcome is Outcome.FITS:
            self._proven.add(batch_size)
        return trial

    @property
    def _trace_steps(self) -> int:
        return FEW_TENSORS_STEPS if self.search.has_few_tensors else 0

    def _on_trial(self, search: Search) -> None:
        with uninterrupted():  # or what is kept would not be what an interrupted probe tells of
            self._kept(search.trials[-1])
            self.search = search
        self._tell()

    def _tell(self) -> None:
        search = self.search
        self._observe(TrialEnded(search.trials[-1], search.fits, search.fails, search.estimate))

    def _enough(self) -> bool:
        """Half the time is gone: what is left belongs to the proof."""
        self._hurried |= time.monotonic() - self._started > self._options.total_timeout / 2
        return self._hurried

    # -- after -------------------------------------------------------------------------------

    def _too_slow(self) -> WorkerError:
        return WorkerError(
            f"No size was proven within {self._options.total_timeout:g} s. Raise --total-timeout, "
            "or bound the search with --max."
        )

    def _out_of_time(self) -> Done:
        self._hurried = True
        if self.search.proven not in self._proven:
            raise self._too_slow()
        return Done(self.search.proven)

    def _result(self, size: int, prepared: protocol.Prepared, runs: Trials) -> ProbeResult:
        search, options = self.search, self._options
        passed = [t for t in search.trials if t.batch_size == size and t.outcome is Outcome.FITS]
        measured = [t for t in passed if not t.proof] or passed
        proof = next(t for t in reversed(passed) if t.proof)
        self._proof = self._proofs[size]
        whole = size * prepared.replicas
        effective = options.target_batch_size or whole
        rates = self._learning_rates(effective, prepared)
        return ProbeResult(
            batch_size=size,
            global_batch_size=effective,
            gradient_accumulation_steps=effective // whole,
            **rate_fields(rates),
            limited_by=self._limited_by(size, prepared),
            device=self._described,
            peak_bytes=max((t.peak_bytes for t in measured if t.peak_bytes), default=None),
            needed_bytes=max((t.needed_bytes for t in measured if t.needed_bytes), default=None),
            headroom_bytes=search.headroom_bytes,
            samples_per_second=_times(proof.samples_per_second, prepared.replicas),
            steps_per_epoch=math.ceil(prepared.samples / effective) if prepared.samples else None,
            proof=Proof(
                kind=self._kind,
                steps=options.proof_steps,
                validation_steps=self._proof.validation_steps,
                last_batch_size=self._proof.last_batch_size,
                peak_bytes=proof.step_peak_bytes,
                beyond_batch_size=proof.beyond_batch_size,
            ),
            trials=(*self._refuted, *search.trials),
            earlier_trials=self._earlier,
            warnings=(
                *verdict.warnings(
                    prepared,
                    self._budget,
                    search.trials,
                    proof_steps=options.proof_steps,
                    not_a_number=runs.not_a_number,
                ),
                *_schedule_warning(rates, effective // whole),
                *self._more_warnings(),
                *verdict.slowdown(search, size, self._described.kind),
            ),
            seconds=round(time.monotonic() - self._started, 2),
            load_seconds=prepared.prelude_seconds or None,
            versions={**runs.versions, "autobatch": version()},
        )

    def _limited_by(self, size: int, prepared: protocol.Prepared) -> LimitedBy:
        largest = self.search.proven
        if self._options.prefer == THROUGHPUT and size < largest:
            return verdict.slower_beyond(self.search, size, largest)
        return verdict.limited_by(self.search, size, self._bounds(prepared))

    def _learning_rates(self, size: int, prepared: protocol.Prepared) -> tuple[LearningRate, ...]:
        options = self._options
        base = options.base_batch_size or prepared.script_batch_size or DEFAULT_BASE_BATCH_SIZE
        used = self._proof.optimizers if self._proof is not None else ()
        return tuple(
            learning_rate.scale_learning_rate(
                optimizer,
                base_batch_size=base,
                batch_size=size,
                rule=options.learning_rate_rule,
                base_learning_rate=options.base_learning_rate,
            )
            for optimizer in prepared.optimizers
            if not used or optimizer.attribute in used
        )

    def _bounds(self, prepared: protocol.Prepared) -> verdict.Bounds:
        return verdict.Bounds(
            budget_bytes=self._budget,
            samples=self._cap,
            fixed_batch_size=prepared.fixed_batch_size,
            maximum=self._options.maximum,
            total_timeout=self._options.total_timeout if self._hurried else None,
        )


@contextlib.contextmanager
def told_what_was_tried(run: Searching) -> Iterator[None]:
    """Errors that leave this block know the trials before them."""
    try:
        yield
    except AutobatchError as error:
        error.trials = error.trials or run.tried
        raise
    except KeyboardInterrupt:
        raise ProbeInterrupted(trials=run.tried) from None


def rate_fields(rates: tuple[LearningRate, ...]) -> dict[str, Any]:
    """What a `ProbeResult` says of learning rates: the first optimizer's by themselves, and all."""
    main = rates[0] if rates else None
    return {
        "learning_rate": main.learning_rate if main else None,
        "learning_rate_rule": main.rule if main else None,
        "learning_rate_schedule": main.schedule if main else None,
        "learning_rates": rates,
        "base_batch_size": main.base_batch_size if main else None,
        "base_learning_rate": main.base_learning_rate if main else None,
    }


def version() -> str:
    """Our own."""
    try:
        return importlib.metadata.version("keras-autobatch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _schedule_warning(rates: tuple[LearningRate, ...], steps: int) -> tuple[str, ...]:
    if steps == 1 or not any(rate.schedule for rate in rates):
        return ()
    return (
        "Keras goes on in a schedule with every micro-batch. Where you set it yourself, multiply "
        f"its step counts by {steps}; the AutoBatch callback sees to it.",
    )


def _times(rate: float | None, replicas: int) -> float | None:
    return None if rate is None else rate * replicas
