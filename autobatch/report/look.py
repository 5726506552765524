"""How a report looks: its width, its colours, its letters; and lines of text made a string."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from autobatch.report.text import one_line, to_ascii

MIN_WIDTH = 20
MAX_WIDTH = 100  # prose in wider lines is hard to read

_UNICODE = {
    "bar": "█", "headroom": "▒", "free": "░", "over": "▶", "bullet": "•",
    "times": "×", "ellipsis": "…", "spinner": "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "box": "╭─╮│╰╯",
}  # fmt: skip
_ASCII = {
    "bar": "#", "headroom": "=", "free": ".", "over": ">", "bullet": "*",
    "times": "x", "ellipsis": "...", "spinner": "|/-\\", "box": "+-+|++",
}  # fmt: skip
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Look:
    """Makes lines that fit a width, and the string that shows them.

    Args:
        width: Columns that no line exceeds.
        color: Whether to use colours and bold type; without, no escape code is written.
        unicode: Whether more than ASCII may be written.
    """

    def __init__(self, *, width: int, color: bool, unicode: bool = True) -> None:
        self.width = max(MIN_WIDTH, min(width, MAX_WIDTH))
        self.unicode = unicode
        self._glyphs = _UNICODE if unicode else _ASCII
        self._console = Console(
            file=io.StringIO(),
            width=self.width,
            force_terminal=color,
            force_jupyter=False,
            legacy_windows=False,
            color_system="standard" if color else None,
            no_color=not color,
        )

    def glyph(self, name: str) -> str:
        """A sign in the letters that may be used."""
        return self._glyphs[name]

    def plain(self, text: str) -> str:
        """A text as one harmless line in the letters that may be used."""
        line = one_line(text)
        return line if self.unicode else to_ascii(line)

    def text(self, text: str, style: str = "") -> Text:
        """A text as one harmless line, never read as markup."""
        return Text(self.plain(text), style)

    def wrapped(self, text: Text, *, indent: int = 0, first: Text | None = None) -> list[Text]:
        """A text over as many lines as it needs, each indented, `first` in the first indent."""
        lead = Text(" " * indent) if first is None else first.copy()
        lead.pad_right(max(0, indent - lead.cell_len))
        lines: list[Text] = []
        for line in text.wrap(self._console, max(8, self.width - indent), overflow="fold"):
            line.rstrip()
            lines.append(Text.assemble(Text(" " * indent) if lines else lead, line))
        return lines or [lead]

    def labelled(self, label: str, *values: Text) -> list[Text]:
        """A label and its values beside it; above them where the width is small."""
        name = Text(label, "bold")
        if self.width < 60:
            return [name, *(line for value in values for line in self.wrapped(value, indent=2))]
        lines: list[Text] = []
        for value in values:
            lines += self.wrapped(value, indent=16, first=None if lines else name)
        return lines

    def bar(self, share: float, cells: int) -> str:
        """A bar that is full at 1, and marked beyond."""
        if share > 1:
            return self.glyph("bar") * (cells - 1) + self.glyph("over")
        if not self.unicode:
            return self.glyph("bar") * round(share * cells)
        eighths = round(share * cells * 8)
        return (self.glyph("bar") * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()

    def boxed(self, lines: list[Text]) -> list[Text]:
        """Lines in a frame."""
        top_left, edge, top_right, side, bottom_left, bottom_right = iter(self.glyph("box"))
        inner = max(text.cell_len for text in lines) + 2
        rows = [Text(top_left + edge * inner + top_right)]
        for text in lines:
            row = Text.assemble(f"{side} ", text)
            row.pad_right(inner - text.cell_len - 1)
            rows.append(row.append(side))
        return [*rows, Text(bottom_left + edge * inner + bottom_right)]

    def cut(self, line: Text, width: int) -> Text:
        """A line no wider than `width`, with a sign where something was cut off."""
        if line.cell_len <= width:
            return line
        mark = self.glyph("ellipsis")
        short = line.copy()
        short.truncate(max(0, width - cell_len(mark)))
        return short.append(mark)

    def render(self, lines: Iterable[Text]) -> list[str]:
        """Lines as strings, with colours where they are wanted."""
        rendered = []
        for line in lines:
            with self._console.capture() as capture:
                self._console.print(line, soft_wrap=True, end="")
            text = capture.get().rstrip()
            rendered.append(text if self.unicode else to_ascii(text))
        return rendered

    def page(self, lines: Iterable[Text]) -> str:
        """Lines as one string that ends with a line break."""
        return "".join(f"{line}\n" for line in self.render(lines))
