"""The child process: a thin loop around the engine, request in, answer out.

Its warden (`autobatch.warden`) starts it with the numbers of two pipe ends. It reads
`protocol.Request`s from the one and writes `protocol.Answer`s to the other. Stdout and stderr
belong to the user's model: nothing that is printed there can corrupt an answer. When the channel
closes, the process ends at once, without running anything of the user's that waits for its end.
When the parent dies, whatever kills it, the warden kills this process.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import traceback
from typing import NoReturn

from autobatch import protocol
from autobatch.errors import DeviceError


def main(read_fd: int, write_fd: int) -> NoReturn:
    """Serve one parent until it closes the channel."""
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
