"""Keeps one worker: starts it, and when it ends, ends everything that it started.

    parent ── warden ── worker ── whatever the user's code starts

The launcher runs this file as a program (`python -I -S warden.py ...`): the standard library
alone, there in a few hundredths of a second. It is a "child subreaper": a descendant of the worker
whose own parent dies becomes the warden's child, in whatever session, process group or environment
it is. So nothing escapes: when the worker is gone, what is left of its family gets SIGTERM, and
SIGKILL a little later; then the worker's temporary folder goes, and the warden ends as the worker
did, with its exit status or by its signal.

The parent holds the other end of a socket. The warden writes there the worker's process id, and at
the end the ids of what could not be ended. The parent writes `TERMINATE` to have the worker asked
by SIGTERM; when the parent closes its end, or dies by whatever kills it, the worker is killed at
once. When the warden dies, the kernel kills the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

TERMINATE = b"t"
GRACE = 0.3  # seconds between SIGTERM and SIGKILL for what a worker leaves behind
LIMIT = 5.0  # seconds that the kernel may take to end what was killed
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_CHILD_SUBREAPER = 1, 4, 36
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(
    life: int, parent: int, folder: str, worker_fds: list[int], held: list[int], command: list[str]
) -> NoReturn:
    """Start the worker, watch it to its end, clean up, and end like it.

    Args:
        life: The socket to the parent.
        parent: The parent's process id.
        folder: The worker's temporary folder, made here.
        worker_fds: Descriptors that are the worker's, and not ours.
        held: Descriptors to keep open as long as anything of the worker is there, and not its.
        command: The worker's command line.
    """
    for each in (life, *held):
        os.set_inheritable(each, False)
    wake, waker = os.pipe()
    for each in (wake, waker):
        os.set_blocking(each, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    before = {sign: signal.signal(sign, _noted) for sign in (*_ENDINGS, signal.SIGCHLD)}
    _prctl(_SET_CHILD_SUBREAPER, 1)
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)  # beside the socket, which a fork of the parent may hold
    if os.getppid() != parent:
        os._exit(1)
    os.mkdir(folder, 0o700)
    warden, worker = os.getpid(), os.fork()
    if not worker:
        try:
            _become(command, folder, warden, before)
        finally:
            os._exit(127)
    for each in worker_fds:
        os.close(each)
    _tell(life, str(worker))
    status = _watch(worker, life, wake)
    _tell(life, " ".join(map(str, _end_family(worker))))
    remove(folder)
    _end_like(status)


def sweep(folder: str) -> None:
    """End and remove what a killed warden left: whoever has its folder in the environment.

    Args:
        folder: The worker's temporary folder.
    """
    mark = b"TMPDIR=" + os.fsencode(folder)
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != os.getpid():
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        os.kill(int(name), signal.SIGKILL)
    remove(folder)


def remove(folder: str) -> None:
    """Remove the folder and all in it, as far as that is allowed."""
    try:
        os.rmdir(folder)
    except OSError:
        import shutil  # late: as a rule the folder is empty

        for _ in range(3):  # what is being killed may still be writing
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.lexists(folder):
                break
            time.sleep(0.05)


def _become(
    command: list[str], folder: str, warden: int, handlers: Mapping[signal.Signals, Any]
) -> None:
    """In the fork: be the worker, the leader of a session of its own."""
    os.setsid()
    for sign, handler in {**handlers, signal.SIGPIPE: signal.SIG_DFL}.items():
        signal.signal(sign, handler)
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != warden:  # it died before the call above
        return
    os.environ["TMPDIR"] = folder
    os.execv(command[0], command)  # noqa: S606


def _watch(worker: int, life: int, wake: int) -> int | None:
    """The worker's wait status; None if it was killed and the kernel does not end it."""
    deadline = None
    sources = select.poll()  # not select(), which takes no number from 1024 on
    sources.register(life, select.POLLIN)
    sources.register(wake, select.POLLIN)
    while True:
        status = _reap(worker)
        if status is not None or (deadline is not None and time.monotonic() > deadline):
            return status
        ready = {fd for fd, _ in sources.poll(None if deadline is None else 100)}
        wish = b"-"
        if wake in ready:
            signs = os.read(wake, 1 << 12)
            wish = b"" if any(sign in signs for sign in _ENDINGS) else wish
        if life in ready:
            try:
                wish = os.read(life, 64) and wish and TERMINATE
            except OSError:  # the parent was killed with something of ours unread
                wish = b""
        if wish == TERMINATE:
            with contextlib.suppress(ProcessLookupError):  # not yet a leader
                os.killpg(worker, signal.SIGTERM)
        elif not wish:
            os.kill(worker, signal.SIGKILL)
            if deadline is None:
                deadline = time.monotonic() + LIMIT
                sources.unregister(life)


def _reap(worker: int) -> int | None:
    """Take leave of all that have ended; the worker's wait status if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                found = ended[1]
    return found


def _end_family(worker: int) -> list[int]:
    """End what the worker left behind; returns what would not end."""
    if sys.platform != "linux":  # no subreaper there: the process group is what can be found
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker, signal.SIGKILL)
        return []
    began, asked = time.monotonic(), set()
    while True:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        family, passed = _descendants(), time.monotonic() - began
        if passed > LIMIT:
            return family
        for pid in family:
            if passed > GRACE or pid not in asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if passed > GRACE else signal.SIGTERM)
                asked.add(pid)
        time.sleep(0.01)


def _descendants() -> list[int]:
    """All processes below this one, by what the kernel says of each one's parent."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{int(name)}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                children.setdefault(int(parent), []).append(int(name))
    found = [os.getpid()]
    for pid in found:  # grows meanwhile
        found += children.get(pid, ())
    return found[1:]


def _end_like(status: int | None) -> NoReturn:
    if status is None or os.WIFSIGNALED(status):
        sign = signal.SIGKILL if status is None else os.WTERMSIG(status)
        _prctl(_SET_DUMPABLE, 0)  # no core of ours beside the worker's
        with contextlib.suppress(OSError, ValueError):
            signal.signal(sign, signal.SIG_DFL)
        os.kill(os.getpid(), sign)
        time.sleep(1)
    os._exit(1 if status is None else os.WEXITSTATUS(status))


def _tell(life: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(life, line.encode() + b"\n")


def _noted(*_: object) -> None:
    """A signal came: the wake-up descriptor tells which."""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    _life, _parent, _folder, _worker_fds, _held, *_command = sys.argv[1:]
    main(
        int(_life),
        int(_parent),
        _folder,
        [int(each) for each in _worker_fds.split(",")],
        [int(each) for each in _held.split(",") if each],
        _command,
    )
