"""Starts, watches, times out and buries workers.

A worker is the leader of a session of its own, so that Ctrl-C reaches the parent alone and the
worker's whole family can be ended at once. Everything it prints comes over a pipe that is drained
whenever the parent waits; its last bytes are kept as evidence.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from autobatch import protocol

LOG_BYTES = 1 << 18  # of a worker's output are kept: a BFC report of an OOM has 100 kB
_BOOT = "import sys; sys.path[:1] = []; sys.path.append({root!r}); import autobatch.worker as w; "


_GREETING = re.compile(
    r"^(?:WARNING: All log messages before absl::|.*\bcpu_feature_guard\.cc:|"
    r"To enable the following instructions:).*\n",
    re.MULTILINE,
)


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
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._log = bytearray()
        self._unsent = bytearray()
        child_in, self.requests = _pipe()
        self.answers, child_out = _pipe()
        self.output, child_log = _pipe()
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
        for fd in (self.requests, self.answers, self.output):
            os.set_blocking(fd, False)

    @property
    def log(self) -> str:
        """The end of what it wrote on stdout and stderr, less what TensorFlow always says."""
        return _GREETING.sub("", self._log.decode("utf-8", "replace"))

    def clear_log(self) -> None:
        """Forget what it wrote so far: it belongs to trials that ended well."""
        self._log.clear()

    def send(self, message: protocol.Request) -> None:
        """Write a request; a worker that died is noticed at the next receive.

        What the pipe does not take at once (a pickled closure may hold data, and the worker may
        still be importing) goes on its way in `Launcher.receive`.
        """
        self._unsent += protocol.encode(message)
        self.send_more()

    def send_more(self) -> bool:
        """Write what is still unsent; returns whether anything is left."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.requests, self._unsent[: 1 << 16])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()
        return bool(self._unsent)

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
        # After an interrupt the user waits for us: no asking then. And who presses Ctrl-C twice
        # must not leave a worker behind.
        hurried = kind is not None and issubclass(kind, KeyboardInterrupt)
        with _uninterrupted():
            for worker in tuple(self._workers):
                self.bury(worker, patience=0.0 if hurried else 0.3)

    def start(self, name: str, environment: Mapping[str, str]) -> Worker:
        """Start a worker; it imports TensorFlow and then waits for `Prepare`."""
        with _uninterrupted():  # between the fork and the list it would be nobody's
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
                selector.register(each.output, selectors.EVENT_READ, partial(self._pump_one, each))
                if each.send_more():
                    selector.register(each.requests, selectors.EVENT_WRITE, each.send_more)
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
                    if key.data is not None and not key.data():
                        selector.unregister(key.fileobj)
                    elif key.data is None and status is None:
                        time.sleep(0.001)

    def bury(self, worker: Worker, patience: float = 0.3) -> int:
        """End a worker and everything it started; returns its exit status."""
        with _uninterrupted():  # half buried, it would be closed twice
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
            self._on_output(worker.name, worker.decoder.decode(data))
        return bool(data)


def _pipe() -> tuple[int, int]:
    """A pipe beside the standard streams, whose places are free where the caller closed them."""
    ends = os.pipe()
    try:
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    finally:
        for end in ends:
            os.close(end)
    return high[0], high[1]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and its kin back until the block is through."""
    if threading.current_thread() is not threading.main_thread():
        yield  # their handlers never run in this thread
        return
    came: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    handlers = {}
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handler = signal.getsignal(sign)
        if callable(handler):  # Python's own; the kernel's are left as they are
            handlers[sign] = handler
            signal.signal(sign, lambda *event, then=handler: came.append((then, event)))
    try:
        yield
    finally:
        for sign, handler in handlers.items():
            signal.signal(sign, handler)
        for then, event in came[:1]:
            then(*event)
