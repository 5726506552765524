"""What goes to stdout and stderr, and how a command ends. Only the command line prints."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autobatch.bucket_records import BucketResult
    from autobatch.errors import AutobatchError, StorageError
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


def show(
    result: ProbeResult | BucketResult,
    page: Callable[..., str],
    *,
    found: str,
    as_json: bool,
    quiet: bool,
    values: str | None = None,
    output: str | None = None,
) -> None:
    """Give the answer, in the file first: where that fails, the command fails.

    Args:
        result: It.
        page: Makes a page for a person of it, given what `look` gives.
        found: The answer in a few words, up to `was` or `were`.
        as_json, quiet: What the command was told.
        values: The values alone, to be printed in place of the page; None for the page.
        output: The file.
    """
    text = result.to_json()
    if output is not None and (error := _keep(output, text)) is not None:
        write(sys.stderr, page(**look(sys.stderr)))
        error.message = f"{found} found and proven (see above), but {error.message}"
        error.trials = result.trials
        fail(error, as_json=as_json)
    if not (as_json or values is not None):
        answer(page(**look(sys.stdout or sys.stderr)))
        return
    if not quiet:
        write(sys.stderr, page(**look(sys.stderr)))
    answer(text if values is None else values)


def fail(
    error: AutobatchError, *, as_json: bool, verbose: bool = False, output: str | None = None
) -> NoReturn:
    """Say what went wrong, in the file too, and end with the error's own status."""
    from autobatch.report.summary import failure

    if as_json or output is not None:
        from autobatch.records import error_json

        text = error_json(error)
        if output is not None and (unkept := _keep(output, text)) is not None:
            error.message += f" And {unkept.message}"
            text = error_json(error)
        if as_json and sys.stdout is not None:
            write(sys.stdout, text)
    write(sys.stderr, failure(error, verbose=verbose, **look(sys.stderr)))
    sys.exit(error.exit_code)


@contextlib.contextmanager
def failing(
    *, as_json: bool = False, verbose: bool = False, output: str | None = None
) -> Iterator[None]:
    """Whatever goes wrong inside is said, and the command ends with the error's own status."""
    from autobatch.errors import AutobatchError

    try:
        yield
    except AutobatchError as error:
        fail(error, as_json=as_json, verbose=verbose, output=output)
    except KeyboardInterrupt:  # while we are still being imported
        from autobatch.errors import ProbeInterrupted

        fail(
            ProbeInterrupted(),
            as_json=as_json,
            output=output,
        )
    except Exception as error:  # noqa: BLE001 - a bug of ours is in the result's file as well
        fail(bug(error), as_json=as_json, verbose=verbose, output=output)


def require_output(output: str | None) -> None:
    """Refuse a result's file that could not be written, before the work and not after it."""
    if output is None:
        return
    from autobatch.errors import StorageError, UsageError
    from autobatch.storage import require_writable

    try:
        require_writable(Path(output))
    except StorageError as error:
        raise UsageError(
            f"The result's file {error.message} Name one in a folder that exists and may be "
            "written to."
        ) from error


def bug(error: Exception) -> AutobatchError:
    """An exception that is not ours, as an error that is. Call it where the exception is caught."""
    import traceback

    from autobatch.errors import AutobatchError

    said = f"autobatch itself failed ({type(error).__name__}: {error})."
    asked = "That is a bug: please report it with what follows."
    return AutobatchError(f"{said} {asked}", details=traceback.format_exc())


def _keep(output: str, text: str) -> StorageError | None:
    """Write the result's file; returns what went wrong."""
    from autobatch.errors import StorageError
    from autobatch.storage import PUBLIC_MODE, write_whole

    try:
        write_whole(Path(output), f"{text}\n".encode(), mode=PUBLIC_MODE)
    except StorageError as error:
        return error
    return None


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
        "utf-8" if text.startswith(("{", "[")) else stream.encoding or "utf-8", "backslashreplace"
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
