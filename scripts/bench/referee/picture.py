"""The rows as a picture: how good each answer was over what it cost. Lines in, SVG out."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.lines
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, PercentFormatter

from referee.table import Line
from referee.tools import MODELS, OURS, TOOLS

COLUMNS = 3
PANEL_INCHES = (3.4, 2.8)
COSTS = (0.5, 1, 2, 5, 10, 20, 50)  # ticks, in floors
MARKERS = dict(zip(TOOLS, "*v^<>sD", strict=True))
COLOURS = dict(
    zip(
        TOOLS,
        ("#1b7837", "#2166ac", "#4393c3", "#b35806", "#e08214", "#762a83", "#666666"),
        strict=True,
    )
)
DEADLY = "#c51b1b"


def svg(lines: Sequence[Line], caption: str) -> str:
    """The picture as SVG; the same lines give the same text."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "peers"}):
        figure(lines, caption).savefig(out, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def figure(lines: Sequence[Line], caption: str) -> Figure:
    """A panel for each model: time over the floor to the right, share of the safe maximum up.

    A ring around a mark and a number say how many fresh trainings died at that answer; a cross at
    the bottom is a tool that gave none.
    """
    models = list(dict.fromkeys(line.model for line in lines))
    columns = min(COLUMNS, max(1, len(models)))
    rows = max(1, -(-len(models) // columns))
    width, height = PANEL_INCHES
    whole = Figure((width * columns, height * rows + 1.3), layout="constrained")
    panels = whole.subplots(rows, columns, squeeze=False).flat
    for panel, model in zip(panels, models, strict=False):
        draw(panel, model, [line for line in lines if line.model == model])
    for panel in list(whole.axes)[len(models) :]:
        panel.remove()
    for panel in whole.axes[max(0, len(models) - columns) :]:
        panel.set_xlabel("time over the floor", fontsize=8)
    whole.supylabel("answer over the safe maximum", fontsize=9)
    legend(whole, lines)
    whole.suptitle("\n".join(textwrap.wrap(caption, 38 * columns)), fontsize=7)
    return whole


def draw(panel, model: str, lines: Sequence[Line]) -> None:
    panel.set_title(f"{MODELS.get(model, model)}, {model.rpartition('-')[2]} MiB", fontsize=9)
    panel.set_xscale("log")
    panel.axhline(1.0, color="#999999", linewidth=0.8, linestyle="--")
    panel.axvline(1.0, color="#999999", linewidth=0.8, linestyle="--")
    for line in lines:
        if line.cost is None or (line.answer and line.share is None):
            continue
        name = line.tool.name
        if line.answer is None:
            panel.plot(line.cost, 0.02, "x", color=COLOURS[name], markersize=8)
            continue
        size = 13 if line.tool == OURS else 7
        panel.plot(line.cost, line.share, MARKERS[name], color=COLOURS[name], markersize=size)
        if line.deaths:
            panel.plot(
                line.cost, line.share, "o", color="none", markeredgecolor=DEADLY, markersize=15
            )
            panel.annotate(
                f"{line.deaths}/{line.trainings}",
                (line.cost, line.share),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=DEADLY,
            )
    panel.set_ylim(0, max([1.25, *(line.share + 0.2 for line in lines if line.share)]))
    costs = [line.cost for line in lines if line.cost]
    panel.set_xlim(0.7 * min([1.0, *costs]), 1.5 * max([2.0, *costs]))
    panel.xaxis.set_major_locator(FixedLocator(COSTS))
    panel.xaxis.set_major_formatter("{x:g}×")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.tick_params(labelsize=7)


def legend(whole: Figure, lines: Sequence[Line]) -> None:
    """Every tool that has a mark, whatever panel it is in."""
    there = {line.tool.name for line in lines}
    marks = [
        mpl.lines.Line2D(
            [], [], linestyle="", marker=MARKERS[name], color=COLOURS[name], label=each
        )
        for name, each in ((tool.name, tool.label) for tool in TOOLS.values())
        if name in there
    ]
    ring = {"linestyle": "", "marker": "o", "color": "none", "markeredgecolor": DEADLY}
    marks.append(mpl.lines.Line2D([], [], **ring, markersize=11, label="fresh trainings died"))
    no_answer = {"linestyle": "", "marker": "x", "color": "black", "label": "no answer"}
    marks.append(mpl.lines.Line2D([], [], **no_answer))
    whole.legend(handles=marks, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
