"""What a person sees while a probe runs."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol

from autobatch.events import Event, LogText, Notice, TrialEnded
from autobatch.report.look import MIN_WIDTH, Look
from autobatch.report.progress import Progress, plain_line
from autobatch.report.region import Region
from autobatch.report.text import format_elapsed, strip_controls, to_ascii

Mode = Literal["live", "plain", "quiet"]
_FRAME_SECONDS = 0.15
_MAX_WIDTH = 80
_LONGEST_LOG_LINE = 4096  # characters kept back for a line break that may never come


class Stream(Protocol):
    """What the view needs of a text stream."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class LiveView:
    """Shows a probe's events on a stream; a context manager and an observer in one.

    `live` paints a few lines at the bottom of a terminal and takes them away at the end; `plain`
    writes a line for each event of note and no control sequence; `quiet` writes nothing. A stream
    that is closed or full silences the view and nothing else.

    Args:
        stream: Where to write; stderr as a rule.
        mode: `live`, `plain` or `quiet`. `live` needs a terminal that knows escape sequences.
        color: Whether to use colours and bold type.
        verbose: Whether to show what the workers print. Defaults to not.
        unicode: Whether more than ASCII may be written. Defaults to what the stream's encoding
            takes.
        size: The terminal's columns and rows. Defaults to asking the terminal before each frame.
        clock: Seconds from any start.

    Example:
        with LiveView(sys.stderr, mode="live", color=True) as view:
            result = probe(target, observer=view)
    """

    def __init__(
        self,
        stream: Stream,
        *,
        mode: Mode,
        color: bool,
        verbose: bool = False,
        unicode: bool | None = None,
        size: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._mode = mode
        self._color = color
        self._verbose = verbose
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._unicode = self._encoding.lower().startswith("utf") if unicode is None else unicode
        self._size = size or self._terminal_size
        self._clock = clock
        self._progress = Progress(clock())
        self._region = Region()
        self._log_tails: dict[str, str] = {}
        self._last_plain_line = ""
        self._silent = mode == "quiet"
        self._lock = threading.RLock()
        self._done = threading.Event()
        self._painter: threading.Thread | None = None

    def __enter__(self) -> LiveView:
        self._progress.started = self._clock()
        if self._mode == "live":
            self._done.clear()
            self._painter = threading.Thread(target=self._paint_on, daemon=True)
            self._painter.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._painter is not None:
            self._painter.join(timeout=1)
        if not self._lock.acquire(timeout=1):  # the painter hangs in a stopped terminal
            return
        try:
            self._painter = None
            rest = "".join(f"{tail}\n" for tail in map(strip_controls, self._take_tails()) if tail)
            if self._mode == "live":
                rest = self._region.erase(columns=self._size()[0]) + rest
            self._write(rest)
        finally:
            self._lock.release()

    def __call__(self, event: Event) -> None:
        """Take one event, in whichever thread it comes."""
        with self._lock:
            now = self._clock()
            self._progress.take(event, now)
            if self._silent:
                return
            if isinstance(event, LogText):
                above = self._log_lines(event) if self._verbose else ""
            elif self._mode == "plain":
                above = self._plain(plain_line(event, self._progress), now)
            elif isinstance(event, Notice):
                above = self._notice(event)
            else:
                above = ""
            if self._painter is None:
                self._write(above)
            elif above or isinstance(event, TrialEnded):
                self._paint(above)

    def _plain(self, line: str | None, now: float) -> str:
        if line is None or line == self._last_plain_line:
            return ""
        self._last_plain_line = line
        elapsed = format_elapsed(now - self._progress.started)
        return f"[{elapsed:>5}] {line}\n"

    def _notice(self, event: Notice) -> str:
        look = Look(width=self._size()[0] - 1, color=self._color, unicode=self._unicode)
        return look.page(look.wrapped(look.text(f"note: {event.text}", "yellow")))

    def _log_lines(self, event: LogText) -> str:
        """The whole lines of a worker's output; what has no end yet waits for it."""
        text = self._log_tails.pop(event.worker, "") + event.text
        whole, end, tail = text.rpartition("\n")
        if len(tail) > _LONGEST_LOG_LINE:
            whole, end, tail = text, "\n", ""
        self._log_tails[event.worker] = tail
        return strip_controls(whole) + "\n" if end else ""

    def _take_tails(self) -> list[str]:
        tails = list(self._log_tails.values())
        self._log_tails.clear()
        return tails

    def _paint_on(self) -> None:
        while not self._done.is_set() and not self._silent:
            self._paint()
            self._done.wait(_FRAME_SECONDS)

    def _paint(self, above: str = "") -> None:
        with self._lock:
            if self._done.is_set() or self._silent:
                return
            columns, rows = self._size()
            # The last column stays free, so that no terminal wraps. Lines of 80 columns at most
            # survive most changes of a wide window as they are.
            look = Look(
                width=min(columns - 1, _MAX_WIDTH), color=self._color, unicode=self._unicode
            )
            lines = self._progress.lines(look, rows=rows - 1, now=self._clock())
            if columns <= MIN_WIDTH:  # nothing fits; say nothing rather than garble the screen
                lines = []
            self._write(self._region.frame(look.render(lines), columns=columns, above=above))

    def _write(self, text: str) -> None:
        if self._silent or not text:
            return
        if not self._unicode:
            text = to_ascii(text)
        try:
            self._stream.write(text.encode(self._encoding, "replace").decode(self._encoding))
            self._stream.flush()
        except (OSError, ValueError, LookupError):  # closed, full or unknown: nobody is watching
            self._silent = True

    def _terminal_size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())  # type: ignore[attr-defined]
        except (AttributeError, OSError, ValueError):
            size = shutil.get_terminal_size()
        return size.columns or 80, size.lines or 24
