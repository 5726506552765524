"""Search x workers -> ProbeResult: the heart."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from autobatch import batch_search, devices, learning_rate, protocol, targets, verdict
from autobatch.batch_search import Done, Plan, Search
from autobatch.conversation import OutOfTime
from autobatch.crew import Crew
from autobatch.device_lock import DeviceLock
from autobatch.endings import wrong_backend
from autobatch.errors import (
    AutobatchError,
    DeviceError,
    NoGpuError,
    ProbeInterrupted,
    UsageError,
    WorkerError,
)
from autobatch.events import Notice, Observer, Prepared, TrialEnded, TrialStarted, ignore
from autobatch.options import ProbeOptions
from autobatch.records import (
    Device,
    LearningRate,
    Outcome,
    ProbeResult,
    Proof,
    ProofKind,
    Trial,
)
from autobatch.sizes import LARGEST, SizeSpace

SMALL_STEPS = 3  # of a trial far from the answer: tracing and slots, then two steady ones
NEAR = 0.5  # of the size aimed at: from here on fragmentation and scatter are wanted too
DEFAULT_BASE_BATCH_SIZE = 32  # Keras's own


def probe(
    target: Any, *, arguments: tuple[str, ...] = (), observer: Observer = ignore, **options: Any
) -> ProbeResult:
    """Find the largest safe training batch size of a model, and prove it in a fresh process.

    Args:
        target: `"train.py"`, `"model.py:build_model"`, `"package.module:factory"`,
            `"model.keras"`, a callable without required arguments that returns a Keras model, or
            a live compiled model.
        arguments: What follows the script's name in its `sys.argv`.
        observer: Told each event (`autobatch.events`) as it happens. Defaults to nobody.
        **options: The fields of `autobatch.ProbeOptions`, by name.

    Returns:
        The answer. `batch_size` was run and passed in a process of its own.

    Raises:
        UsageError: An argument makes no sense.
        NothingFitsError: Even the smallest size ran out of memory.
        ModelError: The model could not be loaded, built or trained at any size.
        DeviceError: There is no usable device.
        WorkerError: Trials died or hung for a reason that is not known to be memory.
        ProbeInterrupted: Ctrl-C.

    Example:
        result = autobatch.probe("model.py:build_model", memory_limit="512MiB")
        print(result.batch_size, result.learning_rate)
    """
    run = _Probe(target, tuple(arguments), observer, ProbeOptions.checked(**options))
    with _told_what_was_tried(run):
        return run.run()


def search_here(here: Here, options: ProbeOptions, *, observer: Observer = ignore) -> ProbeResult:
    """The same in this very process, which is to go on living: no trial may run out of memory.

    Args:
        here: Runs trials in this process.
        options: How to probe; what is about workers says nothing here.
        observer: Told each event as it happens.

    Raises:
        NothingFitsError, ModelError, WorkerError, UsageError: As `probe`.
    """
    run = _Search(observer, options, kind=ProofKind.THIS_PROCESS)
    with _told_what_was_tried(run):
        return run.search_with(here, here.prepared, here.device)


@contextlib.contextmanager
def _told_what_was_tried(run: _Search) -> Iterator[None]:
    try:
        yield
    except AutobatchError as error:
        error.trials = error.trials or run.search.trials
        raise
    except KeyboardInterrupt:
        raise ProbeInterrupted("Interrupted.", trials=run.search.trials) from None


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
        self, batch_size: int, *, steps: int, trace: bool, enough_bytes: int | None
    ) -> Trial:
        """Run a search trial."""
        ...

    def prove(self, batch_size: int) -> tuple[Trial, protocol.TrialDone | None]:
        """Run a proof."""
        ...


class Here(Trials, Protocol):
    """This process.

    Attributes:
        prepared: What is trained.
        device: What trials, and the training itself, may use.
    """

    prepared: protocol.Prepared
    device: Device


class _Search:
    """A search and its result, wherever the trials run."""

    def __init__(
        self,
        observer: Observer,
        options: ProbeOptions,
        *,
        kind: ProofKind = ProofKind.FRESH_PROCESS,
    ) -> None:
        self._started = time.monotonic()
        self._observe, self._options, self._kind = observer, options, kind
        self._proof: protocol.TrialDone | None = None
        self._hurried = False  # the time did not reach for all that the search would have tried
        self.search = Search(Plan(SizeSpace()))

    def search_with(self, crew: Trials, prepared: protocol.Prepared, device: Device) -> ProbeResult:
        """Search, prove, report."""
        self._described, self._budget = device, device.budget_bytes
        self._observe(Prepared(prepared.model, device, prepared.samples, prepared.prelude_seconds))
        self._learning_rates(1, prepared)  # refused before the search, not after it
        plan = self._plan(prepared)
        self.search = Search(plan)
        try:
            _, end = batch_search.run(
                plan,
                lambda size: self._try(crew, size),
                lambda size: self._prove(crew, size),
                on_trial=self._on_trial,
                enough=self._enough,
            )
        except OutOfTime:
            end = self._out_of_time()
        except WorkerError:
            if not self.search.proven:
                raise
            end = Done(self.search.proven)
        if not isinstance(end, Done):
            raise verdict.nothing(self.search, end.last, self._budget, crew.failed)
        return self._result(end.batch_size, prepared, crew)

    # -- before ------------------------------------------------------------------------------

    def _plan(self, prepared: protocol.Prepared) -> Plan:
        options = self._options
        bounds = {"minimum": options.minimum, "maximum": options.maximum or LARGEST}
        self._cap = prepared.samples if options.dataset_cap else None
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
        space = SizeSpace(
            **bounds,
            multiple_of=options.multiple_of,
            power_of_two=options.power_of_two,
            divisor_of=options.target_batch_size,
        )
        return Plan(
            space=space,
            budget_bytes=self._budget,
            limit_bytes=prepared.limit_bytes,
            precision=options.precision,
            headroom_bytes=options.headroom_bytes(self._budget),
            usual_size=prepared.script_batch_size,
            careful=self._kind is ProofKind.THIS_PROCESS,
        )

    # -- trials ------------------------------------------------------------------------------

    def _try(self, crew: Trials, batch_size: int) -> Trial:
        self._observe(TrialStarted(batch_size, proof=False))
        model, aim = self.search.model, self.search.estimate
        seasoned = model is not None and len(model.points) > 1
        near = seasoned and aim is not None and batch_size >= NEAR * aim
        steps = self._options.steps if near else min(SMALL_STEPS, self._options.steps)
        return crew.measure(
            batch_size,
            steps=steps,
            trace=near,
            enough_bytes=self._budget,
        )

    def _prove(self, crew: Trials, batch_size: int) -> Trial:
        self._observe(TrialStarted(batch_size, proof=True))
        trial, done = crew.prove(batch_size)
        if done is not None:
            self._proof = done
        return trial

    def _on_trial(self, search: Search) -> None:
        self.search = search
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
        if not self.search.proven:
            raise self._too_slow()
        return Done(self.search.proven)

    def _result(self, size: int, prepared: protocol.Prepared, crew: Trials) -> ProbeResult:
        search, options = self.search, self._options
        passed = [t for t in search.trials if t.batch_size == size and t.outcome is Outcome.FITS]
        measured = [t for t in passed if not t.proof] or passed
        proof = next(t for t in reversed(passed) if t.proof)
        assert self._proof is not None
        effective = options.target_batch_size or size
        rates = self._learning_rates(effective, prepared)
        main = rates[0] if rates else None
        return ProbeResult(
            batch_size=size,
            global_batch_size=effective,
            gradient_accumulation_steps=effective // size,
            learning_rate=main.learning_rate if main else None,
            learning_rate_rule=main.rule if main else None,
            learning_rate_schedule=main.schedule if main else None,
            learning_rates=rates,
            base_batch_size=main.base_batch_size if main else None,
            base_learning_rate=main.base_learning_rate if main else None,
            limited_by=verdict.limited_by(search, size, self._bounds(prepared)),
            device=self._described,
            peak_bytes=max((t.peak_bytes for t in measured if t.peak_bytes), default=None),
            needed_bytes=max((t.needed_bytes for t in measured if t.needed_bytes), default=None),
            headroom_bytes=search.headroom_bytes,
            samples_per_second=proof.samples_per_second,
            steps_per_epoch=math.ceil(prepared.samples / effective) if prepared.samples else None,
            proof=Proof(
                kind=self._kind,
                steps=options.proof_steps,
                validation_steps=self._proof.validation_steps,
                last_batch_size=self._proof.last_batch_size,
                peak_bytes=proof.step_peak_bytes,
            ),
            trials=search.trials,
            warnings=(
                *verdict.warnings(
                    prepared,
                    self._budget,
                    search.trials,
                    proof_steps=options.proof_steps,
                    not_a_number=crew.not_a_number,
                ),
                *_schedule_warning(rates, effective // size),
            ),
            seconds=round(time.monotonic() - self._started, 2),
            versions={**crew.versions, "autobatch": _version()},
        )

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


class _Probe(_Search):
    """A search in workers, which load the target themselves."""

    def __init__(
        self, target: Any, arguments: tuple[str, ...], observer: Observer, options: ProbeOptions
    ) -> None:
        super().__init__(observer, options)
        self._target = targets.resolve(target, arguments, run_as=options.run_as)
        self._device = devices.choose(options)
        self._lock = DeviceLock(
            devices.gpu_identity(self._device.index) if self._device.kind == "gpu" else None,
            options.device_wait,
            lambda text: observer(Notice(text)),
        )
        self._environment = targets.literal_environment(self._target)

    def run(self) -> ProbeResult:
        """Load, search, prove, report."""
        _require_tensorflow()
        self._check_backend()
        with self._lock:
            self._started = time.monotonic()  # waiting for others takes nothing of our time
            return self._run(self._lock.held)

    def _run(self, held: tuple[int, ...]) -> ProbeResult:
        with Crew(
            self._target,
            self._device,
            self._options,
            environment=self._environment,
            observer=self._observe,
            deadline=self._started + self._options.total_timeout,
            held=held,
        ) as crew:
            prepared = self._prepare(crew)
            return self.search_with(crew, prepared, self._describe(prepared))

    def _check_backend(self) -> None:
        wanted = self._environment.get("KERAS_BACKEND", os.environ.get("KERAS_BACKEND"))
        if self._options.backend is not None:
            self._environment["KERAS_BACKEND"] = self._options.backend
        elif wanted not in (None, "", "tensorflow"):
            raise wrong_backend(str(wanted))

    def _prepare(self, crew: Crew) -> protocol.Prepared:
        try:
            return self._first_worker(crew)
        except OutOfTime:
            raise self._too_slow() from None

    def _first_worker(self, crew: Crew) -> protocol.Prepared:
        try:
            return crew.prepare()
        except NoGpuError:
            if not self._device.fallback:
                raise
            self._observe(Notice("TensorFlow sees no GPU: the CPU is probed instead."))
            self._device = devices.cpu(self._device.budget_bytes)
            crew.move_to(self._device)
            self._lock.release()
            return crew.prepare()

    def _describe(self, prepared: protocol.Prepared) -> Device:
        limit = prepared.limit_bytes
        return Device(
            name=prepared.device_name,
            kind=self._device.kind,
            index=self._device.index if self._device.kind == "gpu" else None,
            limit_bytes=limit,
            budget_bytes=min(self._device.budget_bytes or limit, limit),
        )


def with_rates(
    result: ProbeResult, rates: tuple[LearningRate, ...], *, global_batch_size: int
) -> ProbeResult:
    """The result, with the learning rates of a larger effective batch."""
    main = rates[0] if rates else None
    steps = result.steps_per_epoch
    if steps is not None:
        steps = math.ceil(steps * result.global_batch_size / global_batch_size)
    return msgspec.structs.replace(
        result,
        global_batch_size=global_batch_size,
        learning_rate=main.learning_rate if main else None,
        learning_rate_rule=main.rule if main else None,
        learning_rate_schedule=main.schedule if main else None,
        learning_rates=rates,
        steps_per_epoch=steps,
    )


def _schedule_warning(rates: tuple[LearningRate, ...], steps: int) -> tuple[str, ...]:
    if steps == 1 or not any(rate.schedule for rate in rates):
        return ()
    return (
        "Keras goes on in a schedule with every micro-batch. Where you set it yourself, multiply "
        f"its step counts by {steps}; the AutoBatch callback sees to it.",
    )


def _require_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise DeviceError(
            "TensorFlow is not installed here. Take the build for this machine: "
            "pip install 'keras-autobatch[gpu]' or pip install 'keras-autobatch[cpu]'."
        )


def _version() -> str:
    try:
        return importlib.metadata.version("keras-autobatch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
