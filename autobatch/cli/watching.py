"""What happens while a probe runs: the view on stderr, the log file, the signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from autobatch.cli.output import look
from autobatch.interrupts import SIGNALS

if TYPE_CHECKING:
    from autobatch.events import Event, Observer


@contextlib.contextmanager
def watching(quiet: bool, verbose: bool, log_file: str | None) -> Iterator[Observer]:
    """An observer that shows what happens on stderr and keeps the workers' output."""
    from autobatch.report.live import LiveView

    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    mode = "quiet" if quiet else "live" if terminal else "plain"
    suits = look(sys.stderr)
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(
            LiveView(
                sys.stderr,
                mode=mode,  # type: ignore[arg-type]
                color=suits["color"],
                unicode=suits["unicode"],
                verbose=verbose,
            )
        )
        if log_file is None:
            yield view
            return
        yield _Log(stack.enter_context(_log(log_file)), view)


def _log(path: str) -> IO[str]:
    from autobatch.errors import UsageError

    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"The log file {path} cannot be written ({error.strerror}). Name one in a folder that "
            "exists and may be written to."
        ) from error


class _Log:
    """Keeps the workers' output in a file, as long as the file takes it."""

    def __init__(self, file: IO[str], then: Observer) -> None:
        self._file, self._then, self._broken = file, then, False

    def __call__(self, event: Event) -> None:
        from autobatch.events import LogText, Notice

        if isinstance(event, LogText) and not self._broken:
            try:
                self._file.write(event.text)
                self._file.flush()
            except OSError as error:
                self._broken = True
                with contextlib.suppress(OSError):
                    self._file.close()
                self._then(Notice(f"The log file takes no more ({error.strerror}); going on."))
        self._then(event)


class _Ended(KeyboardInterrupt):
    """Not Ctrl-C's own: where Python sees that one leave an `exec` (a dataclass that is being
    imported, say), it kills itself with SIGINT at its end, whatever status it was to end with."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the probe as Ctrl-C does: no worker is left behind."""

    heard_one = False

    def interrupt(*_: object) -> None:
        nonlocal heard_one
        heard_one = True
        raise _Ended

    # What is ignored stays so: nohup asks for that.
    heard = [sign for sign in SIGNALS if signal.getsignal(sign) is not signal.SIG_IGN]
    before = {sign: signal.signal(sign, interrupt) for sign in heard}
    try:
        yield
        if heard_one:  # Python drops what is raised while it destroys an object
            raise _Ended
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
