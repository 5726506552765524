"""The workers of one probe: one that searches, a fresh one for every proof, one standing by.

Turns a request for a trial into a `Trial`, whatever becomes of the worker that runs it.
"""

from __future__ import annotations

import os
import time

from autobatch import devices, oom, protocol
from autobatch.devices import DeviceChoice
from autobatch.errors import (
    AutobatchError,
    DeviceError,
    ModelError,
    NothingFitsError,
    UsageError,
    WorkerError,
)
from autobatch.events import LogText, Observer, WorkerStage
from autobatch.launcher import Launcher, Worker, WorkerDied, WorkerTimedOut
from autobatch.options import ProbeOptions
from autobatch.records import Outcome, Trial
from autobatch.units import format_bytes

SEARCH, PROOF = "search", "proof"
RESTARTS = 2  # of a worker whose script sets variables too late: more is a script that never ends
MEMORY = (Outcome.OUT_OF_MEMORY, Outcome.HOST_OUT_OF_MEMORY)


class OutOfTime(Exception):  # noqa: N818 - ends the search, not the probe
    """The probe's own time limit passed."""


class Crew:
    """Starts workers, prepares them, and runs trials in them. A context manager.

    Args:
        target: What the workers load.
        device: Where they run.
        options: The probe's options.
        environment: Variables for the workers on top of this process's own.
        observer: Told what the workers do.
        deadline: End of the probe's time, by `time.monotonic`.
    """

    def __init__(
        self,
        target: protocol.Target,
        device: DeviceChoice,
        options: ProbeOptions,
        *,
        environment: dict[str, str],
        observer: Observer,
        deadline: float,
    ) -> None:
        self._target, self.device, self._options = target, device, options
        self._environment = environment
        self._observe = observer
        self._deadline = deadline
        self._launcher = Launcher(lambda name, text: observer(LogText(name, text)))
        self._searcher: Worker | None = None
        self._standby: Worker | None = None
        self._standby_prepared = False
        self._phase = "starting"
        self._host_kills = 0
        self._done: protocol.TrialDone | None = None
        self._passed = 0  # the largest size that ran well
        self.not_a_number = False
        self.prepared: protocol.Prepared | None = None
        self.failed: protocol.Failed | None = None  # the last exception of a trial
        self.proving: protocol.Prepared | None = None  # what the last proof's worker found
        self.pids: set[int] = set()  # of all workers so far
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._launcher.__exit__(*_)

    # -- the two kinds of trial --------------------------------------------------------------

    def prepare(self) -> protocol.Prepared:
        """Have the searching worker load the target, and another stand by for the proof.

        Raises:
            ModelError, UsageError, DeviceError: The worker said why it could not.
            NothingFitsError: Loading alone ran out of memory.
            WorkerError: It died or hung.
        """
        for _ in range(1 + RESTARTS):
            worker = self._searcher = self._start(SEARCH)
            if self._standby is None:
                self._standby = self._start(PROOF)
            self.prepared = prepared = self._prepare(worker, SEARCH)
            missing = self._missing(prepared.environment)
            if not missing:
                break
            self._environment |= missing
            self.bury_all()
        else:
            raise ModelError(
                "The script sets other variables each time it runs "
                f"({', '.join(prepared.environment)}), which TensorFlow reads when it is imported. "
                "Set them before autobatch is called instead."
            )
        if self.device.kind == "cpu":  # a GPU's memory is the searching worker's for now
            self._send_prepare(self._standby, PROOF)
            self._standby_prepared = True
        return prepared

    def measure(
        self,
        batch_size: int,
        *,
        steps: int,
        trace: bool,
        enough_bytes: int | None,
    ) -> Trial:
        """Run a search trial; in a new worker where the last one died of the one before."""
        if self._searcher is None:
            self._searcher = self._start(SEARCH)
            self._prepare(self._searcher, SEARCH)
        request = protocol.RunTrial(
            batch_size=batch_size,
            steps=steps,
            trace=trace,
            enough_bytes=enough_bytes,
        )
        trial, reusable = self._run(self._searcher, SEARCH, request)
        if not reusable:
            self._bury_searcher()
        return trial

    def prove(self, batch_size: int) -> tuple[Trial, protocol.TrialDone | None]:
        """Run a proof, in a process that has run nothing before, under the real limit."""
        self._bury_searcher()  # its memory is wanted, and there is no way back to it
        worker, self._standby = self._standby or self._start(PROOF), None
        prepared, self._standby_prepared = self._standby_prepared, False
        request = protocol.RunTrial(
            batch_size=batch_size,
            steps=self._options.proof_steps,
            validation=self._options.validation,
            proof=True,
        )
        try:
            if not prepared:
                self._prepare(worker, PROOF)
            elif not self._got_ready(worker):
                worker = self._start(PROOF)
                self._prepare(worker, PROOF)
            self._done = None
            trial, _ = self._run(worker, PROOF, request)
        except NothingFitsError as error:
            trial = Trial(
                batch_size=batch_size,
                outcome=Outcome.OUT_OF_MEMORY,
                why=error.message,
                phase="loading",
                proof=True,
            )
            self._launcher.bury(worker)
            return trial, None
        self._launcher.bury(worker)
        return trial, self._done

    def _got_ready(self, standby: Worker) -> bool:
        """Whether it loaded the target; one that died waiting, killed by others, is replaced."""
        try:
            self._receive_prepared(standby, PROOF)
        except WorkerError:
            if standby.process.poll() is None:
                raise
            self._launcher.bury(standby)
            return False
        return True

    def bury_all(self) -> None:
        """End every worker."""
        for worker in (self._searcher, self._standby):
            if worker is not None:
                self._launcher.bury(worker)
        self._searcher = self._standby = None
        self._standby_prepared = False

    # -- workers -----------------------------------------------------------------------------

    def _start(self, role: str) -> Worker:
        self._observe(WorkerStage(role, "starting"))
        environment = {
            **os.environ,
            **self._environment,
            **self.device.environment(proof=role == PROOF),
        }
        worker = self._launcher.start(role, environment)
        self.pids.add(worker.process.pid)
        return worker

    def _bury_searcher(self) -> None:
        if self._searcher is not None:
            self._launcher.bury(self._searcher)
            self._searcher = None

    def _missing(self, wanted: dict[str, str]) -> dict[str, str]:
        """Variables that a worker says it should have been started with, and was not."""
        backend = wanted.get("KERAS_BACKEND")
        if backend not in (None, "tensorflow") and self._options.backend is None:
            raise wrong_backend(str(backend))
        return {name: value for name, value in wanted.items() if name != "KERAS_BACKEND"}

    def _send_prepare(self, worker: Worker, role: str) -> None:
        options = self._options
        self._host_kills = devices.host_oom_kills()
        worker.send(
            protocol.Prepare(
                target=self._target,
                device=self.device.request(proof=role == PROOF),
                fit_call=options.fit_call,
                input_shapes=options.input_shapes,
                sequence_length=options.sequence_length,
                safe_mode=options.safe_mode,
                optimizer=options.optimizer,
                loss=options.loss,
            )
        )

    def _prepare(self, worker: Worker, role: str) -> protocol.Prepared:
        self._send_prepare(worker, role)
        return self._receive_prepared(worker, role)

    def _receive_prepared(self, worker: Worker, role: str) -> protocol.Prepared:
        self._phase = "starting"
        limit = self._options.load_timeout
        try:
            answer = self._receive(worker, role, None, limit)
        except WorkerDied as death:
            raise self._died_loading(worker, death.exit_status) from None
        except WorkerTimedOut:
            raise WorkerError(
                f"A worker was still {doing(self._phase)} after {limit:g} s. If the script does "
                "long work before fit, raise --load-timeout; if it trains with a loop of its own "
                "and never calls fit, probe a function that returns its model.",
                details=worker.log[-2000:],
            ) from None
        if isinstance(answer, protocol.Prepared):
            if role == PROOF:
                self.proving = answer
            return answer
        assert isinstance(answer, protocol.Failed)
        raise self._failed_loading(answer, worker)

    def _died_loading(self, worker: Worker, status: int) -> AutobatchError:
        found = oom.diagnose(
            oom.Evidence(
                log=worker.log,
                exit_status=status,
                device=self.device.kind,
                host_oom_kills=devices.host_oom_kills() - self._host_kills,
            )
        )
        if found.outcome in MEMORY:
            return self._nothing_fits(found)
        if self._phase in ("starting", "importing"):
            advice = "Run the command again; --verbose shows all that it wrote."
        else:
            advice = (
                "Run the file by itself to see whether it dies there too. If its data lies on the "
                "device (arrays, from_tensor_slices), it may be larger than the memory limit."
            )
        return WorkerError(
            f"A worker died while {doing(self._phase)}, and nothing says that it was for lack of "
            f"memory: {found.why.rstrip('.')}. {advice}",
            details=worker.log[-2000:],
        )

    def _failed_loading(self, failed: protocol.Failed, worker: Worker) -> AutobatchError:
        if failed.ours:
            kinds = {"UsageError": UsageError, "DeviceError": DeviceError}
            kind = next((k for n, k in kinds.items() if n in failed.exception_types), ModelError)
            details = worker.log[-2000:] if "sys.exit" in failed.message else ""
            return kind(failed.message, details=details)
        found = self._diagnose(failed, worker)
        if found.outcome in MEMORY:
            return self._nothing_fits(found)
        return model_error(failed, "The model could not be loaded")

    def _nothing_fits(self, found: oom.Diagnosis) -> NothingFitsError:
        limit = self.device.budget_bytes
        of = f" of {format_bytes(limit)}" if limit else ""
        return NothingFitsError(
            f"Memory ran out while {doing(self._phase)}, before the first training step: the data "
            f"and the model alone exceed the limit{of} ({found.why}). Data given as arrays or "
            "through from_tensor_slices lies in the device's memory: read it in batches, or raise "
            "the limit.",
            needed_bytes=found.allocation_bytes,
            budget_bytes=limit,
        )

    # -- trials ------------------------------------------------------------------------------

    def _run(self, worker: Worker, role: str, request: protocol.RunTrial) -> tuple[Trial, bool]:
        """The trial, and whether the worker can be used for another one."""
        worker.clear_log()
        self._phase = "starting the trial"
        self._host_kills = devices.host_oom_kills()
        worker.send(request)
        size, limit = request.batch_size, self._options.timeout
        try:
            answer = self._receive(worker, role, size, limit)
        except WorkerDied as death:
            found = oom.diagnose(
                oom.Evidence(
                    log=worker.log,
                    exit_status=death.exit_status,
                    phase=self._phase,
                    device=self.device.kind,
                    smaller_size_passed=0 < self._passed < size,
                    host_oom_kills=devices.host_oom_kills() - self._host_kills,
                )
            )
            return self._lost(request, found.outcome, found.why), False
        except WorkerTimedOut:
            why = f"no answer within {limit:g} s; it was in phase {self._phase}"
            return self._lost(request, Outcome.TIMED_OUT, why), False
        if isinstance(answer, protocol.Failed):
            found = self._diagnose(answer, worker, smaller_size_passed=0 < self._passed < size)
            self.failed = answer
            trial = Trial(
                batch_size=size,
                outcome=found.outcome,
                peak_bytes=max(answer.step_peak_bytes, default=None),
                step_peak_bytes=answer.step_peak_bytes,
                step_seconds=answer.step_seconds,
                why=found.why,
                phase=answer.phase,
                proof=request.proof,
            )
            # After an XLA OOM the process aborts as soon as a variable is freed.
            jit = self.prepared is not None and self.prepared.jit_compile
            return trial, not (jit and found.outcome in MEMORY)
        assert isinstance(answer, protocol.TrialDone)
        self.not_a_number |= answer.not_a_number
        self._passed = max(self._passed, size)
        self._done = answer
        trial = Trial(
            batch_size=size,
            outcome=Outcome.FITS,
            peak_bytes=max(answer.step_peak_bytes, default=None),
            other_peak_bytes=answer.other_peak_bytes,
            step_peak_bytes=answer.step_peak_bytes,
            resident_bytes=answer.resident_bytes,
            needed_bytes=answer.needed_bytes,
            step_seconds=answer.step_seconds,
            proof=request.proof,
        )
        return trial, True

    def _lost(self, request: protocol.RunTrial, outcome: Outcome, why: str) -> Trial:
        return Trial(
            batch_size=request.batch_size,
            outcome=outcome,
            why=why,
            phase=self._phase,
            proof=request.proof,
        )

    def _diagnose(
        self, failed: protocol.Failed, worker: Worker, *, smaller_size_passed: bool = False
    ) -> oom.Diagnosis:
        return oom.diagnose(
            oom.Evidence(
                exception_types=failed.exception_types,
                message=failed.message,
                causes=failed.causes,
                log=worker.log,
                phase=failed.phase,
                device=self.device.kind,
                device_free_bytes=failed.free_bytes,
                smaller_size_passed=smaller_size_passed,
            )
        )

    def _receive(
        self, worker: Worker, role: str, batch_size: int | None, limit: float
    ) -> protocol.Prepared | protocol.TrialDone | protocol.Failed:
        """The worker's answer; its stages go to the observer."""
        deadline = min(time.monotonic() + limit, self._deadline)
        while True:
            try:
                message = self._launcher.receive(worker, deadline)
            except WorkerTimedOut:
                if time.monotonic() >= self._deadline:
                    raise OutOfTime from None
                raise
            if isinstance(message, protocol.Stage):
                self._phase = message.stage
                stage = WorkerStage(role, message.stage, message.step, message.steps, batch_size)
                self._observe(stage)
            elif isinstance(message, protocol.Imported):
                self.versions = message.versions
            else:
                assert isinstance(message, (protocol.Prepared, protocol.TrialDone, protocol.Failed))
                return message


def model_error(
    failed: protocol.Failed, what: str, *, trials: tuple[Trial, ...] = ()
) -> ModelError:
    """The user's own error, with their traceback."""
    kind = failed.exception_types[0] if failed.exception_types else "an error"
    said = (failed.message.strip().splitlines() or [""])[0][:300].rstrip(".")
    return ModelError(
        f"{what}: it raised {kind} while {doing(failed.phase)}"
        f"{f': {said}' if said else ''}. Correct that, and probe again.",
        details=failed.user_traceback,
        traceback=failed.traceback,
        trials=trials,
    )


def doing(phase: str) -> str:
    """A worker's stage as it follows `while`."""
    words = {"step": "training", "validation": "validating", "tracing": "tracing its first step"}
    return words.get(phase, phase)


def wrong_backend(backend: str) -> ModelError:
    """The script asks for another back end than TensorFlow."""
    return ModelError(
        f"The script sets KERAS_BACKEND to {backend!r}; autobatch measures TensorFlow's memory. "
        "If the model allows it, --backend tensorflow overrides the script's choice."
    )
