"""A child process that calls a function of the user's: `autobatch.search(..., isolated=True)`.

It is started like `worker`, with the numbers of two pipe ends; reads `protocol.Load`, then any
number of `protocol.Call`, and answers each. It imports nothing but what the function needs. Stdout
and stderr belong to the function. When the channel closes, it ends at once; its warden sees to the
rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

from autobatch import protocol, worker
from autobatch.calls import peak_bytes
from autobatch.engine import failures


def main(read_fd: int, write_fd: int) -> NoReturn:
    """Call for one parent until it closes the channel."""
    worker.serve(read_fd, write_fd, _serve)


def _serve(channel: protocol.Channel) -> None:
    request = channel.receive()
    if request is None:
        return
    assert isinstance(request, protocol.Load)
    try:
        function = _load(request.pickle)
    except BaseException as error:  # noqa: BLE001 - the user's modules may raise anything
        channel.send(failures.describe(error, phase="loading"))
        return
    channel.send(protocol.Loaded())
    while (request := channel.receive()) is not None:
        assert isinstance(request, protocol.Call)
        channel.send(_call(function, request.batch_size))


def _load(pickled: bytes) -> Callable[[int], Any]:
    import cloudpickle

    function: Callable[[int], Any] = cloudpickle.loads(pickled)
    return function


def _call(function: Callable[[int], Any], batch_size: int) -> protocol.Called | protocol.Failed:
    started = time.perf_counter()
    try:
        peak = peak_bytes(function(batch_size))
    except BaseException as error:  # noqa: BLE001 - sys.exit included
        return failures.describe(error, phase="calling")
    return protocol.Called(peak_bytes=peak, seconds=time.perf_counter() - started)
