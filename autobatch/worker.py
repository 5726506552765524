"""The child process: a thin loop around the engine, request in, answer out.

Its warden (`autobatch.warden`) starts it with the numbers of two pipe ends. It reads
`protocol.Request`s from the one and writes `protocol.Answer`s to the other. Stdout and stderr
belong to the user's model: nothing that is printed there can corrupt an answer. When the channel
closes, the process ends at once, without running anything of the user's that waits for its end.
When the parent dies, whatever kills it, the warden kills this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from autobatch import protocol
from autobatch.errors import DeviceError, ModelError


def main(read_fd: int, write_fd: int) -> NoReturn:
    """Train for one parent until it closes the channel."""
    serve(read_fd, write_fd, _train)


def serve(read_fd: int, write_fd: int, work: Callable[[protocol.Channel], None]) -> NoReturn:
    """Work for one parent, and end with the channel: at once, and whatever came up.

    Args:
        read_fd, write_fd: The pipes' ends that the parent passed.
        work: Reads requests and writes answers until there are no more.
    """
    os.set_inheritable(read_fd, False)
    os.set_inheritable(write_fd, False)
    try:
        work(protocol.Channel(read_fd, write_fd))
    except BrokenPipeError:
        pass  # the parent has gone, and so do we
    except BaseException:  # noqa: BLE001 - whatever it is, it must not be lost
        traceback.print_exc()
        leave(1)
    leave(0)


def _train(channel: protocol.Channel) -> None:
    channel.send(protocol.Stage(stage="importing"))
    try:
        channel.send(_import())
    except Exception as error:  # noqa: BLE001 - of a broken installation anything may come
        from autobatch.engine import failures

        traceback.print_exc()
        channel.send(failures.describe(error, phase="importing"))
        leave(1)
    request = channel.receive()
    if request is not None:
        assert isinstance(request, protocol.Prepare)
        from autobatch.engine import session

        session.serve(channel, request)


def leave(status: int) -> NoReturn:
    """End this process now: no exit handlers, no threads waited for, no destructors."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _import() -> protocol.Imported:
    """Import what the engine needs.

    Raises:
        DeviceError: TensorFlow or Keras cannot be imported.
        ModelError: Keras is set to another back end.
    """
    backend, origin = _keras_backend()
    try:
        import keras
        import tensorflow as tf
    except Exception as error:
        if backend != "tensorflow":
            but = f", which could not be imported ({_said(error)})"
            raise _other_backend(backend, origin, but) from error
        raise _no_tensorflow(error) from error
    if keras.backend.backend() != "tensorflow":
        raise _other_backend(keras.backend.backend(), origin)
    versions = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    return protocol.Imported(versions=versions)


def _keras_backend() -> tuple[str, str]:
    """The back end that Keras will take, and where that is written."""
    if named := os.environ.get("KERAS_BACKEND"):
        return named, "the variable KERAS_BACKEND"
    folder = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    path = os.path.join(folder, "keras.json")
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["backend"]), path
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", "Keras's default"


def _other_backend(backend: str, origin: str, but: str = "") -> ModelError:
    return ModelError(
        f"Keras is set to the back end {backend!r} by {origin}{but}; autobatch measures "
        "TensorFlow's memory. Where the model allows it, --backend tensorflow overrides that."
    )


def _no_tensorflow(error: Exception) -> DeviceError:
    return DeviceError(
        f"TensorFlow could not be imported ({_said(error)}). Try "
        f"{sys.executable} -c 'import tensorflow'; pip install 'keras-autobatch[cpu]' or "
        "'keras-autobatch[gpu]' installs a build of it."
    )


def _said(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    return f"{type(error).__name__}: {line}"
