"""The child process: a thin loop around the engine, request in, answer out.

It is started by `launcher.Worker` with the numbers of two pipe ends, reads `protocol.Request`s
from the one and writes `protocol.Answer`s to the other. Stdout and stderr belong to the user's
model: nothing that is printed there can corrupt an answer. When the channel closes, the process
ends at once, without running anything of the user's that waits for its end. When the parent dies,
whatever kills it, the kernel kills this process too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

from autobatch import protocol
from autobatch.errors import DeviceError

_PR_SET_PDEATHSIG = 1


def main(read_fd: int, write_fd: int, parent_pid: int) -> NoReturn:
    """Serve one parent until it closes the channel."""
    _die_with(parent_pid)
    os.set_inheritable(read_fd, False)
    os.set_inheritable(write_fd, False)
    channel = protocol.Channel(read_fd, write_fd)
    try:
        channel.send(protocol.Stage(stage="importing"))
        try:
            channel.send(_import())
        except Exception as error:  # noqa: BLE001 - of a broken installation anything may come
            from autobatch.engine import failures

            traceback.print_exc()
            channel.send(failures.describe(_no_tensorflow(error), phase="importing"))
            leave(1)
        request = channel.receive()
        if request is not None:
            assert isinstance(request, protocol.Prepare)
            from autobatch.engine import session

            session.serve(channel, request)
    except BrokenPipeError:
        pass  # the parent has gone, and so do we
    except BaseException:  # noqa: BLE001 - whatever it is, it must not be lost
        traceback.print_exc()
        leave(1)
    leave(0)


def leave(status: int) -> NoReturn:
    """End this process now: no exit handlers, no threads waited for, no destructors."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _import() -> protocol.Imported:
    import tensorflow as tf

    with contextlib.suppress(ImportError):  # a back end that is missing is told of later
        import keras  # noqa: F401

    versions = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": getattr(sys.modules.get("keras"), "__version__", "unknown"),
    }
    return protocol.Imported(versions=versions)


def _no_tensorflow(error: Exception) -> DeviceError:
    said = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    return DeviceError(
        f"TensorFlow could not be imported ({type(error).__name__}: {said}). Try "
        f"{sys.executable} -c 'import tensorflow'; pip install 'keras-autobatch[cpu]' or "
        "'keras-autobatch[gpu]' installs a build of it."
    )


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:  # no such call there: look at the parent now and then

        def watch() -> None:
            while os.getppid() == parent_pid:
                time.sleep(0.2)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
    if os.getppid() != parent_pid:  # it died before the call above
        os._exit(1)
