"""The rows as tables for the README. Pure: rows in, Markdown out."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import rows

from referee.tools import MODELS, OURS, TOOLS, Tool
from referee.work import Measured

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
TIGHT, TIGHT_WORST = 0.95, 0.85
COST, COST_WORST = 2.0, 2.5
OOM, OOM_WORST = 0, 1
FASTER = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """One tool on one model.

    Attributes:
        answer: None where there was none.
        share: The answer over the safe maximum; None where either is not known.
        deaths, trainings: Fresh trainings at the answer.
        cost: Wall time over the floor taken beside it; None where there is no floor.
        out_of_memory: How often memory ran out in the search.
        ended: How the process ended where it gave no answer.
        weights_changed: None where the process did not live to tell.
    """

    model: str
    tool: Tool
    answer: int | None
    safe_maximum: int | None
    share: float | None
    deaths: int
    trainings: int
    cost: float | None
    seconds: float
    trials: int
    out_of_memory: int
    ended: str | None
    weights_changed: bool | None


def lines(measured: Measured, models: Iterable[str], tools: Collection[str]) -> list[Line]:
    """What is measured so far, in the order of models and tools."""
    found = []
    for model in models:
        best, exits = measured.safe_maximum(model), measured.exits(model)
        for name in [each for each in TOOLS if each in tools]:
            row = measured.tools.get((model, name))
            if row is None:
                continue
            size = row["batch_size"]
            codes = exits.get(size, [])
            floor = row["floor_seconds"] if row.get("floor_outcome") in rows.RAN else None
            found.append(
                Line(
                    model=model,
                    tool=TOOLS[name],
                    answer=size,
                    safe_maximum=best,
                    share=size / best if size and best else None,
                    deaths=sum(map(bool, codes)),
                    trainings=len(codes),
                    cost=row["seconds"] / floor if floor else None,
                    seconds=row["seconds"],
                    trials=len(row["trials"]),
                    out_of_memory=sum(what == "out_of_memory" for _, what in row["trials"]),
                    ended=None if size else row["why"].partition(":")[0],
                    weights_changed=row["weights_changed"],
                )
            )
    return found


def markdown(lines: list[Line], measured: Measured) -> str:
    """The caption, a table of the tools, one of everything, and the bars."""
    folded = f"<details><summary>Every search</summary>\n\n{of_everything(lines)}\n\n</details>"
    return "\n\n".join((caption(measured), of_tools(lines), verdict(lines), folded))


def caption(measured: Measured) -> str:
    """Date, machine and versions, as the rows have them."""
    rows = list(measured.tools.values())
    days = sorted({row["date"][:10] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    machines = {(row["machine"]["cores"], row["machine"]["architecture"]) for row in rows}
    where = ", ".join(f"{cores} cores ({kind})" for cores, kind in sorted(machines))
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row["versions"].items():
            if name != "commit":
                versions.setdefault(name, set()).add(version)
    ran = ", ".join(f"{name} {' and '.join(sorted(all_))}" for name, all_ in versions.items())
    loads = [row["machine"]["load"] for row in rows]
    return (
        f"Emulated device, {when}, {where}, load {min(loads):g} to {max(loads):g} when a search "
        f"began; {ran}."
    )


def of_tools(lines: list[Line]) -> str:
    """One row a tool, over all models that it was run on."""
    head = (
        "tool",
        "models",
        "answer over the safe maximum: median (range)",
        "fresh trainings that died",
        "time over the floor: median (worst)",
        "times as long as autobatch",
        "OOM: median (worst)",
        "gave no answer",
        "weights changed",
    )
    body = []
    for tool in TOOLS.values():
        its = [line for line in lines if line.tool == tool]
        if not its:
            continue
        told = [line for line in its if line.weights_changed is not None]
        body.append(
            (
                tool.label,
                str(len(its)),
                spread([line.share for line in its if line.share is not None], "{:.0%}"),
                deaths(sum(line.deaths for line in its), sum(line.trainings for line in its)),
                worst([line.cost for line in its if line.answer and line.cost], "{:.1f}"),
                "" if tool == OURS else median(slower(its, lines), "{:.1f}"),
                worst([line.out_of_memory for line in its], "{:g}"),
                f"{sum(line.answer is None for line in its)} of {len(its)}",
                f"{sum(bool(line.weights_changed) for line in told)} of {len(told)}",
            )
        )
    return grid(head, body)


def of_everything(lines: list[Line]) -> str:
    """One row for every tool on every model."""
    head = (
        "model",
        "safe maximum",
        "tool",
        "answer",
        "of the safe maximum",
        "fresh deaths",
        "seconds",
        "over the floor",
        "trials",
        "OOM",
        "process",
        "weights",
    )
    body = []
    for line in lines:
        weights = {None: "?", True: "changed", False: "as before"}[line.weights_changed]
        body.append(
            (
                f"{MODELS.get(line.model, line.model)}, {line.model.rpartition('-')[2]} MiB",
                str(line.safe_maximum or "?"),
                line.tool.label,
                str(line.answer or "none"),
                one(line.share, "{:.0%}"),
                deaths(line.deaths, line.trainings),
                f"{line.seconds:.0f}",
                one(line.cost, "{:.1f}"),
                str(line.trials),
                str(line.out_of_memory),
                line.ended or "lived",
                weights,
            )
        )
    return grid(head, body)


def verdict(lines: list[Line]) -> str:
    """Whether the bars are met, by these rows."""
    its = [line for line in lines if line.tool == OURS]
    if not its:
        return "autobatch itself is not measured yet."
    shares = [line.share for line in its if line.share is not None]
    costs = [line.cost for line in its if line.answer and line.cost]
    ooms = [line.out_of_memory for line in its]
    died, of = sum(line.deaths for line in its), sum(line.trainings for line in its)
    said = [("no fresh training dies at the answer", f"{died} of {of} did", of > 0 and died == 0)]
    if shares:
        said.append(
            (
                f"median {TIGHT:.0%} of the safe maximum, {TIGHT_WORST:.0%} at the least",
                f"median {statistics.median(shares):.0%}, least {min(shares):.0%}",
                statistics.median(shares) >= TIGHT and min(shares) >= TIGHT_WORST,
            )
        )
    if costs:
        said.append(
            (
                f"median {COST} times the floor, {COST_WORST} at most",
                f"median {statistics.median(costs):.2f}, most {max(costs):.2f}",
                statistics.median(costs) <= COST and max(costs) <= COST_WORST,
            )
        )
    said.append(
        (
            f"median {OOM} OOM, {OOM_WORST} at most",
            f"median {statistics.median(ooms):g}, most {max(ooms)}",
            statistics.median(ooms) <= OOM and max(ooms) <= OOM_WORST,
        )
    )
    for tool in TOOLS.values():
        times = slower([line for line in lines if line.tool == tool], lines)
        if tool != OURS and tool.tests_answer and times:
            factor = statistics.median(times)
            said.append(
                (
                    f"{FASTER:g} times faster than {tool.label}",
                    f"median {factor:.1f} times",
                    factor >= FASTER,
                )
            )
    return "\n".join(
        f"- {'Met' if met else 'Not met'}: {aim}; {figure}." for aim, figure, met in said
    )


def slower(its: Iterable[Line], lines: Iterable[Line]) -> list[float]:
    """How many times autobatch's cost a tool's was where both answered; costs are in floors."""
    ours = {each.model: each.cost for each in lines if each.tool == OURS and each.answer}
    return [
        line.cost / floor
        for line in its
        if line.answer and line.cost and (floor := ours.get(line.model))
    ]


def deaths(died: int, of: int) -> str:
    return f"{died} of {of}" if of else "?"


def one(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)


def median(values: list[float], form: str) -> str:
    return form.format(statistics.median(values)) if values else "?"


def worst(values: list[float], form: str) -> str:
    return f"{median(values, form)} ({form.format(max(values))})" if values else "?"


def spread(values: list[float], form: str) -> str:
    if not values:
        return "?"
    return f"{median(values, form)} ({form.format(min(values))} to {form.format(max(values))})"


def grid(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    rows = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def put_into(document: str, text: str) -> str:
    """A document with the text between the two marks in it.

    Raises:
        ValueError: The marks are not there, once each and in their order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in after or END in after:
        raise ValueError(f"The document must hold {BEGIN} and after it {END}, once each.")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
