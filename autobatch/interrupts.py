"""Ctrl-C and its kin, which come at any moment: what must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold `SIGNALS` back until the block is through; then the first that came is handled."""
    if threading.current_thread() is not threading.main_thread():
        yield  # their handlers never run in this thread
        return
    came: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    handlers = {}
    for sign in SIGNALS:
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
