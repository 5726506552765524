"""A search whose trials run in workers: the device, its lock, its neighbours, the crew."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any, Generic, TypeVar

from autobatch import devices, neighbours, protocol, targets
from autobatch.conversation import OutOfTime
from autobatch.crew import Crew
from autobatch.device_lock import DeviceLocks
from autobatch.endings import wrong_backend
from autobatch.errors import DeviceChangedError, DeviceError, NoGpuError
from autobatch.events import Notice, Observer
from autobatch.options import ProbeOptions
from autobatch.records import Device, ProofKind
from autobatch.searching import Searching
from autobatch.units import format_bytes

CHANGES = 2  # of the device until a probe gives up: each begins the search anew
Answer = TypeVar("Answer")


class Changed(Exception):  # noqa: N818 - ends a search, not the probe
    """Others took or freed the device's memory."""


class InWorkers(Searching, Generic[Answer]):
    """A search in workers, which load the target themselves.

    Args:
        target: As `autobatch.probe` takes it.
        arguments: What follows the script's name in its `sys.argv`.
        observer: Told each event as it happens.
        options: How to probe.
    """

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
        self._sequences: protocol.SequenceRequest | None = None

    def run(self) -> Answer:
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

    def _run(self, held: tuple[int, ...]) -> Answer:
        with Crew(
            self._target,
            self._device,
            self._options,
            environment=self._environment,
            observer=self._observe,
            deadline=self._started + self._options.total_timeout,
            held=held,
            sequences=self._sequences,
        ) as crew:
            self._watch = neighbours.Watch(lambda: crew.pids)
            try:
                while True:
                    try:
                        if self._device.kind == "gpu":
                            self._watch.begin()
                        return self._search(crew)
                    except Changed as change:
                        self._begin_anew(crew, str(change))
            finally:
                self._watch.end()

    # -- what a search of one kind does ------------------------------------------------------

    def _search(self, crew: Crew) -> Answer:
        """One search, with the device as it is now."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Throw away what a search of this kind has measured."""

    # -- the device --------------------------------------------------------------------------

    def _check_device(self) -> None:
        """Whether the last trial says something of the device as it is."""
        if said := self._watch.changed():
            raise Changed(said)

    def _check_at_the_end(self, crew: Crew) -> None:
        """The same of all that was measured, for what can only be told without workers."""
        if self._device.kind == "gpu":
            crew.bury_all()
            if said := self._watch.changed_in_all():
                raise Changed(said)

    def _begin_anew(self, crew: Crew, said: str) -> None:
        """Throw away what was measured on a device that is another one now."""
        crew.bury_all()
        crew.proving = None
        self._said.append(said)
        self._forget()
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
            self._observe(
                Notice(
                    "TensorFlow sees no GPU: the CPU is probed instead. autobatch devices says "
                    "whether there is one."
                )
            )
            self._device = devices.cpu(self._device.budget_bytes)
            crew.move_to(self._device)
            self._lock.release()
            return crew.prepare()

    def _describe(self, prepared: protocol.Prepared, crew: Crew) -> Device:
        if prepared.accelerators and self._device.kind == "cpu" and self._options.device == "auto":
            kinds = ", ".join(prepared.accelerators)
            raise DeviceError(
                f"TensorFlow has {kinds} here, and no GPU. autobatch cannot read the memory of "
                f"{kinds}: it sizes batches for GPUs, or with --device cpu for the CPU."
            )
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
            memory_read_from="nvml" if prepared.coarse else "allocator",
        )

    def _check_proof(self, crew: Crew) -> None:
        """Whether the proof's process could use what the search's could, by TensorFlow's word."""
        if self._device.kind != "gpu" or crew.proving is None or crew.prepared is None:
            return
        there, then = crew.proving.limit_bytes, crew.prepared.limit_bytes
        if self._device.budget_bytes is None and abs(there - then) > neighbours.LEAST_CHANGE:
            raise Changed(
                f"a training could use {format_bytes(then)} when the search began, and "
                f"{format_bytes(there)} when its answer was to be proven"
            )

    def _more_warnings(self) -> tuple[str, ...]:
        return (
            *(f"While the probe ran, {said}; the search began anew." for said in self._said),
            *neighbours.warnings(self._watch.neighbours),
        )


def _require_tensorflow() -> None:
    if not devices.has_tensorflow():
        raise DeviceError(devices.NO_TENSORFLOW)
