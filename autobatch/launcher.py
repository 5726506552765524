"""Starts, watches, times out and buries workers.

A worker is the leader of a session of its own, so that Ctrl-C reaches the parent alone and the
worker's whole family can be ended at once. Everything it prints comes over a pipe that is drained
whenever the parent waits; its last bytes are kept as evidence.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autobatch import protocol

LOG_BYTES = 1 << 18  # of a worker's output are kept: a BFC report of an OOM has 100 kB
_BOOT = "import sys; sys.path[:1] = []; sys.path.append({root!r}); import autobatch.worker as w; "


class WorkerDied(Exception):  # noqa: N818 - an event of the protocol, not an error of ours
    """The worker is gone without an answer.

    Attributes:
        exit_status: As `Popen.returncode` gives it: negative for a signal.
    """

    def __init__(self, exit_status: int) -> None:
        super().__init__(f"the worker ended with status {exit_status}")
        self.exit_status = exit_status


class WorkerTimedOut(Exception):  # noqa: N818
    """No answer came before the deadline; the worker still runs."""


class Worker:
    """One child process. Made by `Launcher.start`."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._inbox = protocol.Inbox(protocol.Answer)
        self._log = bytearray()
        child_in, self.requests = os.pipe()
        self.answers, child_out = os.pipe()
        self.output, child_log = os.pipe()
        root = str(Path(__file__).resolve().parent.parent)
        boot = _BOOT.format(root=root) + f"w.main({child_in}, {child_out}, {os.getpid()})"
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", boot],
                stdin=subprocess.DEVNULL,
                stdout=child_log,
                stderr=child_log,
                pass_fds=(child_in, child_out),
                env=dict(environment),
                start_new_session=True,
            )
        except BaseException:
            for fd in (self.requests, self.answers, self.output):
                os.close(fd)
            raise
        finally:
            for fd in (child_in, child_out, child_log):
                os.close(fd)
        os.set_blocking(self.answers, False)
        os.set_blocking(self.output, False)

    @property
    def log(self) -> str:
        """The end of what it wrote on stdout and stderr."""
        return self._log.decode("utf-8", "replace")

    def clear_log(self) -> None:
        """Forget what it wrote so far: it belongs to trials that ended well."""
        self._log.clear()

    def send(self, message: protocol.Request) -> None:
        """Write a request; a worker that died is noticed at the next receive."""
        rest = memoryview(protocol.encode(message))
        with contextlib.suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(self.requests, rest) :]

    def next_message(self) -> Any:
        """The next whole message that has come, or None."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.answers, 1 << 16):
                self._inbox.feed(data)
        return self._inbox.next()

    def drain_output(self) -> bytes:
        """Read what it wrote on stdout and stderr; keep the end of it."""
        taken = bytearray()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.output, 1 << 16):
                taken += data
                if len(taken) > LOG_BYTES:
                    break  # a worker that prints without end must not keep the parent here
        self._log += taken
        del self._log[:-LOG_BYTES]
        return bytes(taken)

    def end(self, patience: float) -> None:
        """Close the channel, then SIGTERM, then SIGKILL to the whole group, and wait for it."""
        os.close(self.requests)
        deadline = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self._signal_group(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience if sign == signal.SIGTERM else 10)
        self._signal_group(signal.SIGKILL)  # children that it left behind
        self.drain_output()
        os.close(self.answers)
        os.close(self.output)

    def _signal_group(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, sign)


class Launcher:
    """Owns every worker of a probe; leaving it as a context ends them all.

    Args:
        on_output: Takes a worker's name and what it wrote, as it comes.
    """

    def __init__(self, on_output: Callable[[str, str], None]) -> None:
        self._on_output = on_output
        self._workers: list[Worker] = []

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        # After an interrupt the user waits for us: no asking then.
        for worker in tuple(self._workers):
            self.bury(worker, patience=0.0)

    def start(self, name: str, environment: Mapping[str, str]) -> Worker:
        """Start a worker; it imports TensorFlow and then waits for `Prepare`."""
        worker = Worker(name, environment)
        self._workers.append(worker)
        return worker

    def receive(self, worker: Worker, deadline: float) -> Any:
        """The worker's next message.

        Args:
            worker: Whose.
            deadline: In the time of `time.monotonic`.

        Raises:
            WorkerDied: It ended without another message.
            WorkerTimedOut: The deadline passed.
            WorkerError: What it wrote is no message.
        """
        with selectors.DefaultSelector() as selector:
            for each in self._workers:
                selector.register(each.output, selectors.EVENT_READ, each)
            selector.register(worker.answers, selectors.EVENT_READ, None)
            while True:
                # Asked before the last read: a message written just before death still counts.
                status = worker.process.poll()
                if (message := worker.next_message()) is not None:
                    return message
                self._pump()
                if status is not None:
                    raise WorkerDied(status)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise WorkerTimedOut
                # A pipe at its end stays readable, and one that a forked grandchild holds never
                # ends: neither tells of a death, so the process is asked now and then.
                for key, _ in selector.select(min(left, 0.1)):
                    if key.data is not None and not self._pump_one(key.data):
                        selector.unregister(key.fileobj)
                    elif key.data is None and status is None:
                        time.sleep(0.001)

    def bury(self, worker: Worker, patience: float = 0.3) -> int:
        """End a worker and everything it started; returns its exit status."""
        worker.end(patience)
        self._workers.remove(worker)
        return worker.process.returncode if worker.process.returncode is not None else 0

    def _pump(self) -> None:
        for worker in self._workers:
            self._pump_one(worker)

    def _pump_one(self, worker: Worker) -> bool:
        """Whether there was anything to read; False at the end of the pipe."""
        data = worker.drain_output()
        if data:
            self._on_output(worker.name, data.decode("utf-8", "replace"))
        return bool(data)
