"""Starts, watches, times out and buries workers.

A worker leads a session of its own: Ctrl-C reaches the parent alone. Everything it prints comes
over a pipe that is drained whenever the parent waits; its last bytes are kept as evidence.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from autobatch.interrupts import uninterrupted
from autobatch.worker_process import Worker


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


class Launcher:
    """Owns every worker of a probe; leaving it as a context ends them all.

    Args:
        on_output: Takes a worker's name and what it wrote, as it comes.
        held: Descriptors that the wardens keep open until nothing of the workers is left, also
            when this process is killed: of a lock, say.
    """

    def __init__(self, on_output: Callable[[str, str], None], held: tuple[int, ...] = ()) -> None:
        self._on_output, self.held = on_output, held
        self._workers: list[Worker] = []

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        # After an interrupt the user waits for us: no asking then. And who presses Ctrl-C twice
        # must not leave a worker behind.
        hurried = kind is not None and issubclass(kind, KeyboardInterrupt)
        with uninterrupted():
            for worker in self._workers if hurried else ():
                worker.kill()  # all of them at the same time
            for worker in tuple(self._workers):
                self.bury(worker, patience=0.0 if hurried else 0.3)

    def start(self, name: str, environment: Mapping[str, str], *, room: str = "worker") -> Worker:
        """Start a worker; `room` is the module of ours whose `main` it runs."""
        with uninterrupted():  # between the fork and the list it would be nobody's
            worker = Worker(name, environment, self.held, room)
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
        with uninterrupted():  # half buried, it would be closed twice
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
