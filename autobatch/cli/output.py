"""What goes to stdout and stderr, and how a command ends. Only the command line prints."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from autobatch.errors import AutobatchError
    from autobatch.records import ProbeResult


def look(stream: IO[str]) -> dict[str, Any]:
    """Width, colour and characters that suit the stream."""
    import shutil

    terminal = stream.isatty()
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return {
        "width": max(40, min(shutil.get_terminal_size((80, 24)).columns, 100)),
        "color": terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "unicode": encoding.startswith("utf"),
    }


def show(result: ProbeResult, *, as_json: bool, quiet: bool, form: str | None = None) -> None:
    from autobatch.report.summary import summary

    if not (as_json or form):
        answer(summary(result, **look(sys.stdout or sys.stderr)))
        return
    if not quiet:
        write(sys.stderr, summary(result, **look(sys.stderr)))
    if form is None:
        answer(result.to_json())
        return
    from autobatch.report.values import values

    answer(values(result, form))


def fail(error: AutobatchError, *, as_json: bool, verbose: bool = False) -> NoReturn:
    from autobatch.report.summary import failure

    if as_json and sys.stdout is not None:
        from autobatch.records import error_json

        write(sys.stdout, error_json(error))
    write(sys.stderr, failure(error, verbose=verbose, **look(sys.stderr)))
    sys.exit(error.exit_code)


def answer(text: str) -> None:
    """Write to stdout; where that is closed or full, to stderr, for the answer was expensive."""
    if sys.stdout is None:
        write(sys.stderr, text)
        return
    failed = write(sys.stdout, text)
    if failed is not None:
        write(sys.stderr, f"Stdout takes no more ({failed.strerror}); the answer was:\n{text}")
        sys.exit(1)


def write(stream: TextIO, text: str) -> OSError | None:
    """Write a text and its line's end; returns why it could not be, if a reader still wants it.

    A reader that has gone, such as `head`, is no error.
    """
    data = (text.rstrip("\n") + "\n").encode(
        "utf-8" if text.startswith("{") else stream.encoding or "utf-8", "backslashreplace"
    )
    try:
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()
    except OSError as error:
        # What is still buffered would fail again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None
