"""`probe`: load a target in workers, search, prove, report: the heart."""

from __future__ import annotations

import importlib.util
import os
import time
from dataclasses import replace
from typing import Any

import msgspec

from autobatch import devices, neighbours, protocol, signature, targets
from autobatch.batch_search import Done, GiveUp, Plan, Search
from autobatch.conversation import OutOfTime
from autobatch.crew import Crew
from autobatch.device_lock import DeviceLocks
from autobatch.endings import wrong_backend
from autobatch.errors import DeviceChangedError, DeviceError, NoGpuError
from autobatch.events import Notice, Observer, ignore
from autobatch.keeping import Earlier, Keeper
from autobatch.options import ProbeOptions
from autobatch.records import Device, Outcome, ProbeResult, ProofKind, Trial
from autobatch.searching import Searching, told_what_was_tried, version
from autobatch.units import format_bytes

CHANGES = 2  # of the device until a probe gives up: each begins the search anew


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
        with told_what_was_tried(run):
            return run.run()
    finally:
        run.keeper.close()


class _Changed(Exception):  # noqa: N818 - ends a search, not the probe
    """Others took or freed the device's memory."""


class _Probe(Searching):
    """A search in workers, which load the target themselves."""

    def __init__(
        self, target: Any, arguments: tuple[str, ...], observer: Observer, options: ProbeOptions
    ) -> None:
        super().__init__(observer, options, kind=ProofKind.FRESH_PROCESS)
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
        self._recalled = False  # the answer is that of an earlier probe
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
        result = self.search_with(crew, prepared, self._describe(prepared, crew))
        if self._device.kind == "gpu":
            crew.bury_all()
            if said := self._watch.changed_in_all():
                raise _Changed(said)
        worth_keeping = not (self._hurried or self._recalled or self._said)
        self.keeper.finish(result, prepared.model, self.search if worth_keeping else None)
        return msgspec.structs.replace(result, warnings=(*result.warnings, *self.keeper.warnings))

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

    def _describe(self, prepared: protocol.Prepared, crew: Crew) -> Device:
        limits = (self._device.budget_bytes, prepared.user_limit_bytes, prepared.limit_bytes)
        budget = min(limit for limit in limits if limit)
        if prepared.user_limit_bytes is not None:  # the proof keeps it, search trials need not
            self._device = crew.device = replace(self._device, budget_bytes=budget)
        self._tight = prepared.limit_bytes <= budget
        self._watch.start(prepared.bus_ids)
        return Device(
            name=prepared.device_name,
            kind=self._device.kind,
            index=self._device.index if self._device.kind == "gpu" else None,
            limit_bytes=prepared.limit_bytes,
            budget_bytes=budget,
            replicas=prepared.replicas,
            allocator=prepared.allocator,
            neighbours=self._watch.neighbours,
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
            versions={**crew.versions, "autobatch": version()},
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

    def _find(self, crew: Crew, plan: Plan, prepared: protocol.Prepared) -> Done | GiveUp:
        # What was kept is of the device as it was before it changed.
        kept = Earlier() if self._said else self.keeper.begin(self._key(prepared, crew), plan)
        if (recalled := self._proven_again(crew, kept)) is not None:
            return recalled
        self._go_on_from(kept.trials, crew)
        end = self._searched(crew, plan, kept.trials)
        if isinstance(end, GiveUp) and kept.trials:  # what had passed did not, this time
            self._observe(Notice("The journal's trials do not hold: the search begins anew."))
            self.keeper.begin_anew()
            self.search = Search(plan)
            self._go_on_from((), crew)
            end = self._searched(crew, plan, ())
        return end

    def _go_on_from(self, trials: tuple[Trial, ...], crew: Crew) -> None:
        self._earlier = len(trials)
        crew.remember(trials)
        for trial in trials:
            self._tell(self.search.add(trial))

    def _check_proof(self, crew: Crew) -> None:
        """Whether the proof's process could use what the search's could, by TensorFlow's word."""
        if self._device.kind != "gpu" or crew.proving is None or crew.prepared is None:
            return
        there, then = crew.proving.limit_bytes, crew.prepared.limit_bytes
        if self._device.budget_bytes is None and abs(there - then) > neighbours.LEAST_CHANGE:
            raise _Changed(
                f"a training could use {format_bytes(then)} when the search began, and "
                f"{format_bytes(there)} when its answer was to be proven"
            )

    def _kept(self, trial: Trial) -> None:
        self.keeper.add(trial)

    def _more_warnings(self) -> tuple[str, ...]:
        return (
            *(f"While the probe ran, {said}; the search began anew." for said in self._said),
            *neighbours.warnings(self._watch.neighbours),
        )


def _require_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise DeviceError(
            "TensorFlow is not installed here. Take the build for this machine: "
            "pip install 'keras-autobatch[gpu]' or pip install 'keras-autobatch[cpu]'."
        )
