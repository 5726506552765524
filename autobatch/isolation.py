"""Calls of a function of the user's in worker processes: the parent's side.

A call that kills its process, or hangs in it, is a trial like any other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from autobatch import calls, devices, endings, oom, protocol
from autobatch.errors import ModelError, NothingFitsError, UsageError, WorkerError
from autobatch.events import LogText, Observer
from autobatch.launcher import Launcher, WorkerDied, WorkerTimedOut
from autobatch.pickles import pickled
from autobatch.records import Outcome, Trial
from autobatch.worker_process import Worker


class IsolatedCalls:
    """Calls a function in a worker, and in a fresh one after anything went wrong.

    Args:
        function: Takes a batch size, returns peak bytes or None. Sent with cloudpickle.
        timeout: Seconds for loading it, and for each call.
        observer: Told what the workers print.

    Attributes:
        failed: The function's last error of its own, told in plain values.
        fresh: Nothing ran before the last call in the process that it ran in.

    Raises:
        UsageError: The function cannot be sent.
    """

    def __init__(
        self, function: Callable[[int], Any], *, timeout: float, observer: Observer
    ) -> None:
        self._pickle = _pickled(function)
        self._timeout = timeout
        self._launcher = Launcher(lambda name, text: observer(LogText(name, text)))
        self._worker: Worker | None = None
        self._host_kills = 0
        self.failed: protocol.Failed | None = None
        self.fresh = False
        self.passed = 0

    def __enter__(self) -> IsolatedCalls:
        return self

    def __exit__(self, *error: Any) -> None:
        self._launcher.__exit__(*error)

    def rest(self) -> None:
        """End the worker: what it holds is wanted elsewhere."""
        if self._worker is not None:
            self._launcher.bury(self._worker)
            self._worker = None

    def __call__(self, batch_size: int, *, proof: bool = False) -> Trial:
        """Run one trial; a proof in a process of its own.

        Raises:
            ModelError: The function cannot be loaded, or raised an error of its own before any
                size went well.
            WorkerError: Its process died or hung before it could be called.
        """
        if proof:
            self.rest()
        self.fresh = self._worker is None
        worker = self._worker or self._start()
        self._worker = worker
        worker.clear_log()
        self._host_kills = devices.host_oom_kills()
        worker.send(protocol.Call(batch_size=batch_size))
        answer = self._answer(worker, batch_size)
        if isinstance(answer, protocol.Called):
            self.passed = max(self.passed, batch_size)
            return Trial(
                batch_size=batch_size,
                outcome=Outcome.FITS,
                peak_bytes=answer.peak_bytes,
                proof=proof,
            )
        self.rest()
        return Trial(batch_size=batch_size, outcome=answer[0], why=answer[1], proof=proof)

    def _answer(self, worker: Worker, batch_size: int) -> protocol.Called | tuple[Outcome, str]:
        smaller_passed = 0 < self.passed < batch_size
        try:
            answer = self._launcher.receive(worker, time.monotonic() + self._timeout)
        except WorkerTimedOut:
            return Outcome.TIMED_OUT, f"no answer within {self._timeout:g} s"
        except WorkerDied as death:
            found = self._autopsy(worker, death.exit_status, smaller_passed)
            return found.outcome, found.told
        if isinstance(answer, protocol.Called):
            return answer
        assert isinstance(answer, protocol.Failed)
        if answer.ours:
            raise UsageError(answer.message)
        found = calls.diagnose(answer, log=worker.log, smaller_size_passed=smaller_passed)
        if found.outcome not in endings.MEMORY:
            self.failed = answer
            if not self.passed:
                raise own_error(answer)
        return found.outcome, found.told

    def _start(self) -> Worker:
        worker = self._launcher.start("search", os.environ, room="function_worker")
        self._host_kills = devices.host_oom_kills()
        worker.send(protocol.Load(pickle=self._pickle))
        try:
            answer = self._launcher.receive(worker, time.monotonic() + self._timeout)
        except WorkerTimedOut:
            raise WorkerError(
                f"A worker was still loading the function after {self._timeout:g} s. Raise "
                "timeout, or have it import what it needs when it is called.",
                details=worker.log[-2000:],
            ) from None
        except WorkerDied as death:
            found = self._autopsy(worker, death.exit_status, smaller_passed=False)
            kind = NothingFitsError if found.outcome in endings.MEMORY else WorkerError
            raise kind(
                f"A worker died while loading the function: {found.why.rstrip('.')}. What the "
                "function refers to (models, data) is sent along with it: make it inside of the "
                "function instead.",
                details=worker.log[-2000:],
            ) from None
        if isinstance(answer, protocol.Failed):
            raise own_error(answer, "try_batch could not be loaded in a worker process")
        return worker

    def _autopsy(self, worker: Worker, status: int, smaller_passed: bool) -> oom.Diagnosis:
        return endings.End(
            phase="calling",
            device=calls.device_kind(),
            log=worker.log,
            exit_status=status,
            smaller_size_passed=smaller_passed,
            host_oom_kills=devices.host_oom_kills() - self._host_kills,
        ).diagnosis


def own_error(failed: protocol.Failed, what: str = "try_batch failed") -> ModelError:
    """The function's own error: the exception itself lies elsewhere."""
    return endings.own_error(failed, "", what, "search")


def _pickled(function: Callable[[int], Any]) -> bytes:
    try:
        return pickled(function)
    except Exception as error:
        said = (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(".")
        raise UsageError(
            f"try_batch cannot be sent to a worker process ({said}). Make its model and its data "
            "inside of it, or leave out isolated=True.",
            details=str(error),
        ) from error
