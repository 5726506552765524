"""An exception, told so that another process can judge it."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

from autobatch.errors import AutobatchError
from autobatch.protocol import Failed

MAX_TEXT = 20_000  # of a message: TensorFlow's can hold a whole graph
# Keras tells which layer it was first, and what it was two lines further, in bold.
_KERAS = re.compile(
    r"\A(Exception encountered when calling [^\n]*)\.\n+\x1b\[1m(.*?)\x1b\[0m", re.S
)
# TensorFlow tells first where a node was defined, which takes pages, and then what happened: at the
# left edge, or as the first of several "root errors".
_GRAPH = "Graph execution error:"
_HAPPENED = re.compile(
    r"^(?!Graph execution|Detected at|<|\d+ root error)(?:\s+\(0\) )?(\S.*)$", re.M
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_LIBRARIES = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) + os.sep for name in ("stdlib", "purelib")}
)


def describe(error: BaseException, *, phase: str) -> Failed:
    """All that can be said of `error`, in plain values."""
    ours = isinstance(error, AutobatchError)
    return Failed(
        exception_types=_type_names(error),
        message=_text(error),
        causes=tuple(_causes(error)),
        traceback="".join(_format(error))[-4 * MAX_TEXT :],
        user_traceback="" if ours else _user_traceback(error),
        phase=phase,
        ours=ours,
    )


def _text(error: BaseException) -> str:
    """The message, what happened in its first line, without colours."""
    text = str(error)
    if text.startswith(_GRAPH) and (happened := _HAPPENED.search(text)):
        text = text.replace(_GRAPH, f"{_GRAPH} {happened[1]}", 1)
    return _COLOURS.sub("", _KERAS.sub(r"\1: \2", text[:MAX_TEXT]))


def _type_names(error: BaseException) -> tuple[str, ...]:
    return tuple(c.__name__ for c in type(error).__mro__ if c is not object)


def _causes(error: BaseException) -> list[tuple[tuple[str, ...], str]]:
    found: list[tuple[tuple[str, ...], str]] = []
    seen = {id(error)}
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < 20:
        each = waiting.pop(0)
        if each is None:
            continue
        found += [(("note",), str(n)[:MAX_TEXT]) for n in getattr(each, "__notes__", ())]
        for other in (each.__cause__, each.__context__, *getattr(each, "exceptions", ())):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                found.append((_type_names(other), _text(other)))
                waiting.append(other)
    return found


def _format(error: BaseException) -> list[str]:
    return traceback.format_exception(type(error), error, error.__traceback__)


def _user_traceback(error: BaseException) -> str:
    """The traceback's frames in the user's files, and the exception; no library's, none of ours."""
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(type(error), error))
    frames = [f for f in traceback.extract_tb(_tb(error)) if _is_users(f.filename)]
    lines = ["Traceback (your files only):\n", *traceback.format_list(frames)] if frames else []
    text = "".join(lines + traceback.format_exception_only(type(error), error))
    text = _COLOURS.sub("", text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT // 2] + "\n[...]\n"


def _tb(error: BaseException) -> TracebackType | None:
    return error.__traceback__


def _is_users(filename: str) -> bool:
    if filename.startswith("<frozen"):
        return False
    path = str(Path(filename).resolve())
    inside_environment = path.startswith(_LIBRARIES) or f"{os.sep}site-packages{os.sep}" in path
    return not (inside_environment or path.startswith(_OURS) or path == sys.executable)
