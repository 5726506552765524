"""Search x workers -> ProbeResult: the heart."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import time
from dataclasses import replace
from typing import Any

import msgspec

from autobatch import (
    batch_search,
    devices,
    learning_rate,
    neighbours,
    protocol,
    signature,
    targets,
    verdict,
)
from autobatch.batch_search import Done, GiveUp, Plan, Search
from autobatch.conversation import OutOfTime
from autobatch.crew import Crew
from autobatch.device_lock import DeviceLocks
from autobatch.endings import wrong_backend
from autobatch.errors import (
    AutobatchError,
    DeviceChangedError,
    DeviceError,
    NoGpuError,
    ProbeInterrupted,
    UsageError,
    WorkerError,
)
from autobatch.events import Notice, Observer, Prepared, TrialEnded, TrialStarted, ignore
from autobatch.keeping import Earlier, Keeper
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
from autobatch.units import format_bytes

CHANGES = 2  # of the device until a probe gives up: each begins the search anew
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
        The answer. `batch_size` was run and passed in a process of its own. Where an earlier
        probe has found it already, it was proven anew and not searched for (`cache=False` does).

    Raises:
        UsageError: An argument makes no sense.
        NothingFitsError: Even the smallest size ran out of memory.
        ModelError: The model could not be loaded, built or trained at any size.
        DeviceError: There is no usable device.
        DeviceChangedError: Others kept taking or freeing the device's memory.
        WorkerError: Trials died or hung for a reason that is not known to be memory.
        StorageError: There is no place for temporary files.
        ProbeInterrupted: Ctrl-C.

    Example:
        result = autobatch.probe("model.py:build_model", memory_limit="512MiB")
        print(result.batch_size, result.learning_rate)
    """
    run = _Probe(target, tuple(arguments), observer, ProbeOptions.checked(**options))
    try:
        return run.run()
    except AutobatchError as error:
        error.trials = error.trials or run.search.trials
        raise
    except KeyboardInterrupt:
        raise ProbeInterrupted("Interrupted.", trials=run.search.trials) from None
    finally:
        run.keeper.close()


class _Changed(Exception):  # noqa: N818 - ends a search, not the probe
    """Others took or freed the device's memory."""


class _Probe:
    def __init__(
        self, target: Any, arguments: tuple[str, ...], observer: Observer, options: ProbeOptions
    ) -> None:
        self._started = time.monotonic()
        self._observe, self._options = observer, options
        self._target = targets.resolve(target, arguments, run_as=options.run_as)
        self._device = devices.choose(options)
        self._lock = DeviceLocks(
            devices.gpu_identities(self._device.indices) if self._device.kind == "gpu" else (),
            options.device_wait,
            lambda text: observer(Notice(text)),
        )
        self._environment = targets.literal_environment(self._target)
        self._watch = neighbours.Watch(lambda: set())
        self._said: list[str] = []  # of what others did to the device
        self._proof: protocol.TrialDone | None = None
        self._proven: set[int] = set()  # by this probe's own proofs
        self._refuted: tuple[Trial, ...] = ()  # the proof that a cached answer did not pass
        self._recalled = False  # the answer is that of an earlier probe
        self._earlier = 0  # trials of an earlier probe that the search goes on from
        self._hurried = False  # the time did not reach for all that the search would have tried
        self.search = Search(Plan(SizeSpace()))
        self.keeper = Keeper(self._target, options, observer)

    def run(self) -> ProbeResult:
        """Load, search, prove, report."""
        _require_tensorflow()
        self._check_backend()
        with self._lock:
            self._started = time.monotonic()  # waiting for others takes nothing of our time
            if self._options.wait_for_idle is not None and self._device.kind == "gpu":
                neighbours.wait_for_idle(
                    self._options.wait_for_idle,
                    self._device.indices,
                    os.environ,
                    on_wait=lambda text: self._observe(Notice(text)),
                )
                self._started = time.monotonic()
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
            self._watch = neighbours.Watch(lambda: crew.pids)
            try:
                while True:
                    try:
                        return self._search(crew)
                    except _Changed as change:
                        self._begin_anew(crew, str(change))
            finally:
                self._watch.end()

    def _search(self, crew: Crew) -> ProbeResult:
        """One search, with the device as it is now."""
        if self._device.kind == "gpu":
            self._watch.begin()
        prepared = self._prepare(crew)
        self._learning_rates(1, prepared)  # refused before the search, not after it
        plan = self._plan(prepared, crew)
        self.search = Search(plan)
        self._proven.clear()
        try:
            # What was kept is of the device as it was.
            earlier = (
                Earlier() if self._said else self.keeper.begin(self._key(prepared, crew), plan)
            )
            end = self._proven_again(crew, earlier) or self._searched(crew, plan, earlier)
        except OutOfTime:
            end = self._out_of_time()
        except WorkerError:
            self._check_device()
            if self.search.proven not in self._proven:
                raise
            end = Done(self.search.proven)
        if not isinstance(end, Done):
            raise verdict.nothing(self.search, end.last, self._budget, crew.failed)
        if self._device.kind == "gpu":
            crew.bury_all()
            if said := self._watch.changed_in_all():
                raise _Changed(said)
        result = self._result(end.batch_size, prepared, crew)
        worth_keeping = not (self._hurried or self._recalled or self._said)
        self.keeper.finish(result, prepared.model, self.search if worth_keeping else None)
        return result

    def _check_device(self) -> None:
        """Whether the last trial says something of the device as it is."""
        if said := self._watch.changed():
            raise _Changed(said)

    def _begin_anew(self, crew: Crew, said: str) -> None:
        """Throw away what was measured on a device that is another one now."""
        crew.bury_all()
        crew.proving = None
        self._said.append(said)
        self._recalled, self._earlier, self._refuted = False, 0, ()
        self.keeper.begin_anew()
        if len(self._said) > CHANGES:
            raise DeviceChangedError(
                f"The device changed {len(self._said)} times while the probe ran: "
                f"{'; '.join(self._said)}. Its memory is not the training's alone: end the other "
                "programs, wait for them (--wait-for-idle), or set aside what they need with "
                "--memory-limit."
            )
        self._observe(Notice(f"The device changed: {said}. Searching anew."))

    # -- before ------------------------------------------------------------------------------

    def _check_backend(self) -> None:
        wanted = self._environment.get("KERAS_BACKEND", os.environ.get("KERAS_BACKEND"))
        if self._options.backend is not None:
            self._environment["KERAS_BACKEND"] = self._options.backend
        elif wanted not in (None, "", "tensorflow"):
            raise wrong_backend(str(wanted))

    def _prepare(self, crew: Crew) -> protocol.Prepared:
        try:
            prepared = self._first_worker(crew)
        except OutOfTime:
            raise self._too_slow() from None
        limits = (self._device.budget_bytes, prepared.user_limit_bytes, prepared.limit_bytes)
        self._budget = min(limit for limit in limits if limit)
        if prepared.user_limit_bytes is not None:  # the proof keeps it, search trials need not
            self._device = crew.device = replace(self._device, budget_bytes=self._budget)
        # Under the budget itself the allocator's peaks tell less.
        self._tight = prepared.limit_bytes <= self._budget
        self._described = Device(
            name=prepared.device_name,
            kind=self._device.kind,
            index=self._device.index if self._device.kind == "gpu" else None,
            limit_bytes=prepared.limit_bytes,
            budget_bytes=self._budget,
            replicas=prepared.replicas,
            allocator=prepared.allocator,
        )
        self._watch.start(prepared.bus_ids)
        self._described = msgspec.structs.replace(
            self._described, neighbours=self._watch.neighbours
        )
        self._observe(
            Prepared(prepared.model, self._described, prepared.samples, prepared.prelude_seconds)
        )
        return prepared

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

    def _plan(self, prepared: protocol.Prepared, crew: Crew) -> Plan:
        options = self._options
        bounds = {"minimum": options.minimum, "maximum": options.maximum or LARGEST}
        samples = prepared.samples // prepared.replicas if prepared.samples else prepared.samples
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
        space = SizeSpace(
            **bounds, multiple_of=options.multiple_of, power_of_two=options.power_of_two
        )
        return Plan(
            space=space,
            budget_bytes=self._budget,
            limit_bytes=prepared.limit_bytes,
            precision=options.precision,
            headroom_bytes=options.headroom_bytes(self._budget),
            usual_size=(prepared.script_batch_size or 0) // prepared.replicas or None,
        )

    # -- what earlier probes left ------------------------------------------------------------

    def _key(self, prepared: protocol.Prepared, crew: Crew) -> signature.Key | None:
        if prepared.signature is None:
            return None
        uuid, driver = devices.identity(prepared.signature.device)
        return signature.make_key(
            prepared.signature,
            self._described,
            self._options,
            uuid=uuid,
            driver=driver,
            versions={**crew.versions, "autobatch": _version()},
            environment={**os.environ, **self._environment},
        )

    def _proven_again(self, crew: Crew, earlier: Earlier) -> Done | None:
        """The cached answer, if there is one and it still holds: proven anew, nothing searched."""
        entry = earlier.entry
        if entry is None:
            return None
        when = time.strftime("%Y-%m-%d", time.localtime(entry.when))
        self._observe(
            Notice(
                f"Found on {when}: batch size {entry.batch_size}. It is proven anew (--no-cache "
                "searches)."
            )
        )
        trial = self._prove(crew, entry.batch_size)
        if trial.outcome is not Outcome.FITS:
            self.keeper.drop()
            self._refuted = (trial,)
            self._observe(Notice("That proof failed: the search begins anew."))
            return None
        self._go_on_from(entry.trials, crew)
        self.keeper.add(*entry.trials)
        self._on_trial(self.search.add(trial))
        self._recalled = True
        return Done(entry.batch_size)

    def _searched(self, crew: Crew, plan: Plan, earlier: Earlier) -> Done | GiveUp:
        self._go_on_from(earlier.trials, crew)
        _, end = batch_search.run(
            plan,
            lambda size: self._try(crew, size),
            lambda size: self._prove(crew, size),
            trials=earlier.trials,
            on_trial=self._on_trial,
            enough=self._enough,
        )
        if isinstance(end, GiveUp) and earlier.trials:  # what had passed did not, this time
            self._observe(Notice("The journal's trials do not hold: the search begins anew."))
            self.keeper.begin_anew()
            self.search = Search(plan)
            return self._searched(crew, plan, Earlier())
        return end

    def _go_on_from(self, trials: tuple[Trial, ...], crew: Crew) -> None:
        self._earlier = len(trials)
        crew.remember(trials)
        for trial in trials:
            self._tell(self.search.add(trial))

    # -- trials ------------------------------------------------------------------------------

    def _try(self, crew: Crew, batch_size: int) -> Trial:
        self._observe(TrialStarted(batch_size, proof=False))
        model, aim = self.search.model, self.search.estimate
        seasoned = model is not None and len(model.points) > 1
        near = seasoned and aim is not None and batch_size >= NEAR * aim
        steps = self._options.steps if near else min(SMALL_STEPS, self._options.steps)
        trial = crew.measure(
            batch_size,
            steps=steps,
            trace=near or self._tight,
            enough_bytes=self._budget,
        )
        self._check_device()
        return msgspec.structs.replace(trial, tight=self._tight)

    def _prove(self, crew: Crew, batch_size: int) -> Trial:
        self._observe(TrialStarted(batch_size, proof=True))
        trial, done = crew.prove(batch_size)
        self._check_device()
        self._check_limit(crew)
        if done is not None:
            self._proof = done
        if trial.outcome is Outcome.FITS:
            self._proven.add(batch_size)
        return trial

    def _check_limit(self, crew: Crew) -> None:
        """Whether the proof's process could use what the search's could, by TensorFlow's word."""
        if self._device.kind != "gpu" or crew.proving is None or crew.prepared is None:
            return
        there, then = crew.proving.limit_bytes, crew.prepared.limit_bytes
        if self._device.budget_bytes is None and abs(there - then) > neighbours.LEAST_CHANGE:
            raise _Changed(
                f"a training could use {format_bytes(then)} when the search began, and "
                f"{format_bytes(there)} when its answer was to be proven"
            )

    def _on_trial(self, search: Search) -> None:
        self.keeper.add(search.trials[-1])
        self._tell(search)

    def _tell(self, search: Search) -> None:
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
        if self.search.proven not in self._proven:
            raise self._too_slow()
        return Done(self.search.proven)

    def _result(self, size: int, prepared: protocol.Prepared, crew: Crew) -> ProbeResult:
        search, options = self.search, self._options
        passed = [t for t in search.trials if t.batch_size == size and t.outcome is Outcome.FITS]
        measured = [t for t in passed if not t.proof] or passed
        proof = next(t for t in reversed(passed) if t.proof)
        assert self._proof is not None
        whole = size * prepared.replicas
        rates = self._learning_rates(whole, prepared)
        main = rates[0] if rates else None
        return ProbeResult(
            batch_size=size,
            global_batch_size=whole,
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
            samples_per_second=_times(proof.samples_per_second, prepared.replicas),
            steps_per_epoch=math.ceil(prepared.samples / whole) if prepared.samples else None,
            proof=Proof(
                kind=ProofKind.FRESH_PROCESS,
                steps=options.proof_steps,
                validation_steps=self._proof.validation_steps,
                last_batch_size=self._proof.last_batch_size,
                peak_bytes=proof.step_peak_bytes,
            ),
            trials=(*self._refuted, *search.trials),
            earlier_trials=self._earlier,
            warnings=(
                *(f"While the probe ran, {said}; the search began anew." for said in self._said),
                *neighbours.warnings(self._watch.neighbours),
                *verdict.slowdown(search, size),
                *verdict.warnings(
                    prepared,
                    self._budget,
                    search.trials,
                    proof_steps=options.proof_steps,
                    not_a_number=crew.not_a_number,
                ),
                *self.keeper.warnings,
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


def _require_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise DeviceError(
            "TensorFlow is not installed here. Take the build for this machine: "
            "pip install 'keras-autobatch[gpu]' or pip install 'keras-autobatch[cpu]'."
        )


def _times(rate: float | None, replicas: int) -> float | None:
    return None if rate is None else rate * replicas


def _version() -> str:
    try:
        return importlib.metadata.version("keras-autobatch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
