"""One probe at a time on a GPU: two would take each other's memory and both answer wrongly.

The lock is `flock` on a small file in a folder of the user's own: `$XDG_RUNTIME_DIR/autobatch`,
`/run/user/UID/autobatch`, or else `~/.cache/autobatch`. The kernel lets go of it when the last
process that holds it ends, so there are no stale locks. What stands in the file is only for the
other's message. Probes of other users, in other containers or on other machines are not seen.

The CPU is not locked: the limit of the emulated device belongs to each process alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from autobatch.errors import DeviceError

MAX_RECORD = 4096  # bytes of an owner's record
POLL = 0.2  # seconds between two tries


class DeviceLock:
    """The lock of one device. A context manager that waits, and gives itself.

    Args:
        device: The device's identity; None for one that needs no lock.
        patience: Seconds to wait for another probe to end.
        tell: Told who holds the device, or why it cannot be locked.
        folder: Where the lock files are. Defaults to the user's own.

    Raises:
        DeviceError: On entering: another probe still holds the device.
    """

    def __init__(
        self,
        device: str | None,
        patience: float,
        tell: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        self._device, self._patience, self._tell = device, patience, tell
        self._folder = folder
        self._fd: int | None = None

    @property
    def held(self) -> tuple[int, ...]:
        """The descriptor that holds it; none where it is not held."""
        return () if self._fd is None else (self._fd,)

    def __enter__(self) -> DeviceLock:
        if self._device is None:
            return self
        try:
            self._fd = self._open(self._device)
            self._wait(self._fd)
        except OSError as error:
            self.release()
            said = error.strerror or str(error)
            self._tell(
                f"The lock of {self._device} cannot be taken ({said}): another probe on it would "
                "go unnoticed."
            )
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let go of it, if it is held."""
        if self._fd is not None:
            with contextlib.suppress(OSError):  # not held, say
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # also where a fork of this process has it
            os.close(self._fd)
            self._fd = None

    def _open(self, device: str) -> int:
        folder = self._folder if self._folder is not None else _own_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid != os.getuid() or about.st_mode & 0o022:
            raise PermissionError(1, f"{folder} can be written by others")
        name = re.sub(r"[^A-Za-z0-9-]+", "_", device)[:100]
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(folder / f"{name}.lock", flags, 0o600)

    def _wait(self, fd: int) -> None:
        deadline, told = time.monotonic() + self._patience, ""
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
                os.pwrite(fd, _record(), 0)
                return
            owner = _owner(os.pread(fd, MAX_RECORD, 0))
            if time.monotonic() >= deadline:
                raise DeviceError(
                    f"{self._device} is in use by another probe, {owner}; waited "
                    f"{self._patience:g} s for it. Two at once would take each other's memory: let "
                    "it end, wait longer (--device-wait), or take another device (--device)."
                )
            if owner != told:
                told = owner
                self._tell(
                    f"{self._device} is in use by another probe, {owner}. Waiting for it, for at "
                    f"most {self._patience:g} s (--device-wait)."
                )
            time.sleep(POLL)


class DeviceLocks:
    """The locks of several devices, taken in one order whoever asks, so that none waits in a ring.

    Args:
        devices: Their identities; none for what needs no lock.
        patience, tell, folder: See `DeviceLock`.
    """

    def __init__(
        self,
        devices: Iterable[str],
        patience: float,
        tell: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        names = sorted(set(devices))
        self._locks = [DeviceLock(name, patience, tell, folder) for name in names]

    @property
    def held(self) -> tuple[int, ...]:
        """The descriptors that hold them."""
        return tuple(fd for lock in self._locks for fd in lock.held)

    def __enter__(self) -> DeviceLocks:
        try:
            for lock in self._locks:
                lock.__enter__()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go of all that are held."""
        for lock in reversed(self._locks):
            lock.release()


def _own_folder() -> Path:
    """The user's own folder for things that live as long as processes do."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    if runtime.is_dir() and os.access(runtime, os.W_OK):
        return runtime / "autobatch"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise FileNotFoundError(2, str(error)) from None
    return cache / "autobatch"


def _record() -> bytes:
    """Who we are, for the other's message."""
    command = shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])[:200]
    return json.dumps({"pid": os.getpid(), "command": command, "since": time.time()}).encode()


def _owner(record: bytes) -> str:
    """The owner in words; nothing is trusted that stands there."""
    try:
        told = json.loads(record)
        pid, command = int(told["pid"]), str(told["command"])[:200]
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(told["since"])))
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return "of which nothing more is known"
    shown = "".join(each if each.isprintable() else "?" for each in command)
    return f"process {pid} ({shown}), since {since}"
