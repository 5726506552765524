"""One worker from its start to its burial: what it is asked, and what its answer or end means."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from autobatch import devices, endings, protocol
from autobatch.endings import Ending
from autobatch.errors import WorkerError
from autobatch.events import Notice, Observer, WorkerStage
from autobatch.launcher import Launcher, WorkerDied, WorkerTimedOut
from autobatch.units import format_bytes
from autobatch.worker_process import Worker

MEMORY_PATIENCE = 5.0  # seconds that a driver may take to free a dead process's memory


class OutOfTime(Exception):  # noqa: N818 - ends the search, not the probe
    """The probe's own time limit passed."""


class Conversation:
    """Speaks with one worker.

    Args:
        launcher: Who started it, and buries it.
        worker: The worker.
        device: Kind of device it runs on.
        observer: Told its stages.
        deadline: End of the probe's time, by `time.monotonic`.

    Attributes:
        asked: It has been asked to load the target.
        versions: What it imported; empty until it has.
    """

    def __init__(
        self, launcher: Launcher, worker: Worker, device: str, observer: Observer, deadline: float
    ) -> None:
        self._launcher, self._worker, self._device = launcher, worker, device
        self._observe, self._deadline = observer, deadline
        self._phase = "starting"
        self._step = 0
        self._host_kills = 0
        self._prepared: protocol.Prepared | None = None
        self.asked = False
        self.versions: dict[str, str] = {}

    @property
    def loaded(self) -> protocol.Prepared | None:
        """What it said when it had loaded the target."""
        return self._prepared

    @property
    def is_dead(self) -> bool:
        """It has ended."""
        return self._worker.process.poll() is not None

    @property
    def _compiled(self) -> bool:
        return self._prepared is not None and self._prepared.jit_compile

    def ask(self, request: protocol.Prepare) -> None:
        """Have it load the target."""
        self._host_kills = devices.host_oom_kills()
        self._worker.send(request)
        self.asked = True

    def prepared(self, limit: float, budget_bytes: int | None) -> protocol.Prepared:
        """What it loaded.

        Args:
            limit: Seconds to wait.
            budget_bytes: What the training may use, for the words of an error.

        Raises:
            LoadingFailed: It could not, or died, or hung.
            OutOfTime: The probe's time is over.
        """
        answer = self._answer(None, limit)
        if isinstance(answer, endings.End):
            raise endings.loading_failed(answer, budget_bytes)
        assert isinstance(answer, protocol.Prepared)
        self._prepared = answer
        return answer

    def run(self, request: protocol.RunTrial, limit: float, *, passed: int) -> Ending:
        """Run a trial, whatever becomes of it.

        Args:
            request: The trial.
            limit: Seconds to wait.
            passed: The largest extent of a trial that ran well before; 0 for none.

        Raises:
            OutOfTime: The probe's time is over.
            DeviceError: The GPU itself failed.
        """
        self._worker.clear_log()
        self._phase, self._step = "starting the trial", 0
        self._host_kills = devices.host_oom_kills()
        self._worker.send(request)
        answer = self._answer(request.batch_size, limit, smaller=0 < passed < request.extent)
        if isinstance(answer, protocol.TrialDone):
            return Ending(answer.as_trial(request), answer, reusable=True)
        assert isinstance(answer, endings.End)
        trial = endings.ended(request, answer)
        if trial.outcome not in endings.MEMORY and (fault := endings.device_fault(answer)):
            raise fault
        # After an XLA OOM the process aborts as soon as a variable is freed.
        doomed = trial.outcome in endings.MEMORY and self._compiled
        reusable = answer.failed is not None and not doomed
        return Ending(trial, answer.failed, reusable, self._step)

    def bury(self) -> None:
        """End it and all it started; says so where something stays, or its memory does."""
        pid = self._worker.pid
        held = devices.gpu_memory_of(pid) if self._device == "gpu" and pid else None
        self._launcher.bury(self._worker)
        if self._worker.left:
            numbers = ", ".join(map(str, self._worker.left))
            self._observe(
                Notice(
                    f"Processes that a trial started would not end, killed as they are: {numbers}. "
                    "What memory they hold is missing from now on."
                )
            )
        if held is not None and pid is not None:
            kept = memory_kept(lambda: devices.gpu_memory_of(pid))
            if kept is not None:
                self._observe(
                    Notice(
                        f"The GPU still counts {format_bytes(kept)} for a worker that has ended "
                        f"(process {pid}): sizes found now may be too small. If nvidia-smi goes on "
                        "showing it, the driver has to be restarted."
                    )
                )

    def _answer(
        self, batch_size: int | None, limit: float, *, smaller: bool = False
    ) -> protocol.Prepared | protocol.TrialDone | endings.End:
        """The worker's answer or end; its stages go to the observer."""
        deadline = min(time.monotonic() + limit, self._deadline)
        end = partial(self._end, smaller_size_passed=smaller)
        while True:
            try:
                message = self._launcher.receive(self._worker, deadline)
            except WorkerDied as death:
                return end(exit_status=death.exit_status)
            except WorkerTimedOut:
                if time.monotonic() >= self._deadline:
                    raise OutOfTime from None
                return end(silent_seconds=limit)
            except WorkerError as error:  # the user's code wrote into our pipe, say
                return end(nonsense=error.message)
            if isinstance(message, protocol.Stage):
                self._phase, self._step = message.stage, message.step or self._step
                place = (message.stage, message.step, message.steps, batch_size)
                self._observe(WorkerStage(self._worker.name, *place))
            elif isinstance(message, protocol.Imported):
                self.versions = message.versions
            elif isinstance(message, protocol.Failed):
                return end(failed=message)
            else:
                assert isinstance(message, (protocol.Prepared, protocol.TrialDone))
                return message

    def _end(
        self,
        *,
        smaller_size_passed: bool,
        failed: protocol.Failed | None = None,
        exit_status: int | None = None,
        silent_seconds: float | None = None,
        nonsense: str = "",
    ) -> endings.End:
        return endings.End(
            phase=self._phase,
            device=self._device,
            log=self._worker.log,
            failed=failed,
            exit_status=exit_status,
            silent_seconds=silent_seconds,
            nonsense=nonsense,
            limit_bytes=self._prepared.limit_bytes if self._prepared else None,
            smaller_size_passed=smaller_size_passed,
            host_oom_kills=devices.host_oom_kills() - self._host_kills,
        )


def memory_kept(
    read: Callable[[], int | None], patience: float = MEMORY_PATIENCE, pause: float = 0.05
) -> int | None:
    """Bytes that a device still counts for a dead process, after some patience; None for none.

    Args:
        read: What it counts now; None where the process is not listed, or nothing can be read.
        patience: Seconds to wait for the memory to come back.
        pause: Seconds between two looks.
    """
    deadline = time.monotonic() + patience
    while (kept := read()) is not None and time.monotonic() < deadline:
        time.sleep(pause)
    return kept
