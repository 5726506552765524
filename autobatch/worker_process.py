"""One worker as its parent holds it: its process, its pipes, and its end.

A worker has a warden (`autobatch.warden`) between it and the parent, which ends whatever the worker
started, in whatever session or process group that is, and removes its temporary folder: also when
the parent is killed. So the process that the parent waits for is the warden; it ends as the worker
did, after it.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autobatch import protocol, warden
from autobatch.errors import WorkerError

LOG_BYTES = 1 << 18  # of a worker's output are kept: a BFC report of an OOM has 100 kB
_BOOT = "import sys; sys.path[:1] = []; sys.path.append({root!r}); import autobatch.worker as w; "
_LAST = 10.0  # seconds for a warden to end: twice what it allows itself
_GREETING = re.compile(
    r"^(?:WARNING: All log messages before absl::|.*\bcpu_feature_guard\.cc:|"
    r"To enable the following instructions:).*\n",
    re.MULTILINE,
)


class Worker:
    """One child process and its warden. Made by `Launcher.start`.

    Attributes:
        name: What it is for.
        process: The warden, which ends like the worker and after it.
        left: Processes that it started and that would not end, once it is buried.
    """

    def __init__(self, name: str, environment: Mapping[str, str], held: tuple[int, ...]) -> None:
        self.name = name
        self.left: tuple[int, ...] = ()
        self._told = b""
        self._inbox = protocol.Inbox(protocol.Answer)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._log = bytearray()
        self._unsent = bytearray()
        self._folder = os.path.join(_temporary(), f"autobatch-{secrets.token_hex(8)}")
        child_in, self.requests = _pipe()
        self.answers, child_out = _pipe()
        self.output, child_log = _pipe()
        self._life, warden_life = _pair()
        root = str(Path(__file__).resolve().parent.parent)
        boot = _BOOT.format(root=root) + f"w.main({child_in}, {child_out})"
        command = [sys.executable, "-I", "-S", warden.__file__, str(warden_life), str(os.getpid())]
        command += [self._folder, f"{child_in},{child_out}", ",".join(map(str, held))]
        try:
            self.process = subprocess.Popen(
                [*command, sys.executable, "-u", "-c", boot],
                stdin=subprocess.DEVNULL,
                stdout=child_log,
                stderr=child_log,
                pass_fds=(child_in, child_out, warden_life, *held),
                env=dict(environment),
                start_new_session=True,
            )
        except BaseException:
            for fd in (self.requests, self.answers, self.output, self._life):
                os.close(fd)
            raise
        finally:
            for fd in (child_in, child_out, child_log, warden_life):
                os.close(fd)
        for fd in (self.requests, self.answers, self.output, self._life):
            os.set_blocking(fd, False)

    @property
    def pid(self) -> int | None:
        """The worker's own process id, not its warden's; None until it has started."""
        self._hear()
        first, end, _ = self._told.partition(b"\n")
        return int(first) if end else None

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
        """Close the channel, then SIGTERM, then SIGKILL to all its family, and wait for it."""
        os.close(self.requests)
        if patience and not self._ended(patience):
            self._terminate()
            self._ended(patience)
        self.kill()
        if not self._ended(_LAST):  # the warden itself is stuck, or was stopped
            self.process.kill()
            self.process.wait()
        if os.path.lexists(self._folder):  # it was killed before its work was done
            warden.sweep(self._folder)
        self.drain_output()
        self._hear()
        self.left = tuple(map(int, b" ".join(self._told.split(b"\n")[1:]).split()))
        for fd in (self.answers, self.output, self._life):
            os.close(fd)

    def kill(self) -> None:
        """Have it killed at once, and do not wait for that."""
        with contextlib.suppress(OSError), _socket(self._life) as life:
            life.shutdown(socket.SHUT_WR)

    def _terminate(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._life, warden.TERMINATE)

    def _ended(self, patience: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        return self.process.returncode is not None

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._life, 1 << 12):
                self._told += data


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise WorkerError(
            f"There is no place for temporary files ({error.strerror}). Set TMPDIR to a folder "
            "that can be written."
        ) from None


def _pipe() -> tuple[int, int]:
    """A pipe beside the standard streams, whose places are free where the caller closed them."""
    ends = os.pipe()
    try:
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    finally:
        for end in ends:
            os.close(end)
    return high[0], high[1]


def _pair() -> tuple[int, int]:
    """The descriptors of two connected sockets, above the standard streams'."""
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for end in socket.socketpair()]
        high = [fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    return high[0], high[1]


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """The descriptor as a socket that does not close it."""
    borrowed = socket.socket(fileno=fd)
    try:
        yield borrowed
    finally:
        borrowed.detach()
