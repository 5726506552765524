"""A few lines at the bottom of a terminal that are painted over and over.

Not rich's Live: that hides the cursor for as long as it runs (a killed process leaves it hidden),
ends the process on a closed pipe, and after the window was made narrower forgets that the terminal
wrapped what it had painted. Here the cursor is hidden only within the one write of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from autobatch.report.text import strip_controls

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_ERASE_LINE, _ERASE_LINE_REST, _ERASE_BELOW = "\x1b[2K", "\x1b[K", "\x1b[J"


class Region:
    """Makes the strings that paint, repaint and erase the lines; writes nothing itself."""

    def __init__(self) -> None:
        self._widths: list[int] = []  # of the lines on the screen; the cursor is after the last
        self._columns = 0  # of the terminal at the last frame

    def frame(self, lines: Sequence[str], *, columns: int, above: str = "") -> str:
        """What to write so that the terminal shows `lines`, below `above`, which then stays.

        Args:
            lines: What the region shows from now on, each narrower than `columns`.
            columns: The terminal's width now, which may be another than at the last frame.
            above: Whole lines that scroll away above the region.
        """
        # Overwritten in place where it can be, so that nothing flickers. After a change of width
        # rows may still be tied together as parts of one wrapped line: erasing them unties them.
        if above or not lines or columns != self._columns:
            start = self._clear(columns) + above
        else:
            start = self._home(columns)
        self._columns = columns
        self._widths = [cell_len(strip_controls(line)) for line in lines]
        body = "\n".join(f"{line}{_ERASE_LINE_REST}" for line in lines)
        return f"{HIDE_CURSOR}{start}{body}{_ERASE_BELOW * bool(lines)}{SHOW_CURSOR}"

    def erase(self, *, columns: int) -> str:
        """What to write so that the region is gone and the cursor is visible where it began."""
        start = self._clear(columns)
        self._widths = []
        return f"{start}{SHOW_CURSOR}"

    def _rows(self, columns: int) -> int:
        """Rows that the region takes now: a terminal wraps lines when it is made narrower."""
        return sum(max(1, -(-width // max(1, columns))) for width in self._widths)

    def _home(self, columns: int) -> str:
        rows = self._rows(columns)
        return "\r" + f"\x1b[{rows - 1}A" * (rows > 1)

    def _clear(self, columns: int) -> str:
        # Row by row: tmux copies the screen to its history when all of it is erased at once.
        return f"\r{_ERASE_LINE}" + f"\x1b[1A{_ERASE_LINE}" * (self._rows(columns) - 1)
