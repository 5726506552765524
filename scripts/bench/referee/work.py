"""What is left to measure, in which order, and about how long it takes. Runs nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import rows
import safe_maximum as brute_force
from configurations import CONFIGURATIONS, REPEATS

from referee.tools import OURS, TOOLS, Tool

TOOL, SAFE_MAXIMUM, FRESH = "tool", "safe maximum", "fresh"
# Seconds, until there are rows to tell.
TRAINING_SECONDS = 20.0
TOOL_SECONDS = {
    "autobatch": 90.0,
    "lightning-power": 60.0,
    "lightning-binsearch": 150.0,
    "accelerate-2x": 120.0,
    "accelerate-8x": 250.0,
    "batch-probe": 150.0,
    "straight-line": 30.0,
}


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work.

    Attributes:
        kind: A tool's search, a training towards the safe maximum, or one at a tool's answer.
        what: The tool, or the batch size; None where that is not known yet.
        ready: Whether nothing else has to come first.
        seconds: About how long it takes.
        count: How many of the kind this stands for.
    """

    kind: str
    configuration: str
    what: str | int | None
    ready: bool
    seconds: float
    count: int = 1

    @property
    def claim(self) -> str:
        """Under which name it is claimed: a safe maximum is sought by one process."""
        what = "" if self.kind == SAFE_MAXIMUM else f"-{self.what}"
        return f"{self.configuration}-{self.kind.replace(' ', '_')}{what}"

    def __str__(self) -> str:
        return {
            TOOL: f"{self.configuration}: {self.what}",
            SAFE_MAXIMUM: f"{self.configuration}: safe maximum, a training at {self.what}",
            FRESH: f"{self.configuration}: a training at the answer {self.what}",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Store:
    """The rows of a run.

    Attributes:
        folder: Where `peers.jsonl` and `fresh.jsonl` are.
        known: A folder of rows that also tell the safe maximum.
        since: Older rows of tools count as not there: an ISO date or time.
    """

    folder: Path
    known: Path
    since: str = ""

    @property
    def peers(self) -> Path:
        return self.folder / "peers.jsonl"

    @property
    def fresh(self) -> Path:
        return self.folder / "fresh.jsonl"

    def read(self) -> Measured:
        """All there is now."""
        newest = {}
        for row in rows.read(self.peers):
            if row["date"] >= self.since:
                newest[row["configuration"], row["tool"]] = row
        files = {self.fresh, self.known / "fresh.jsonl"}
        return Measured(newest, rows.read(self.fresh), [r for f in files for r in rows.read(f)])


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows, as the plan and the table want them.

    Attributes:
        tools: The newest row of each configuration and tool.
        fresh: Fresh trainings of this run.
        known: All fresh trainings.
    """

    tools: dict[tuple[str, str], dict]
    fresh: list[dict] = field(repr=False)
    known: list[dict] = field(repr=False)

    def answer(self, configuration: str, tool: str) -> int | None:
        return self.tools.get((configuration, tool), {}).get("batch_size")

    def exits(self, configuration: str) -> dict[int, list[int]]:
        """Exit codes of this run's fresh trainings by size, the first `REPEATS` of each."""
        return {size: codes[:REPEATS] for size, codes in exits(self.fresh, configuration).items()}

    def safe_maximum(self, configuration: str) -> int | None:
        found = exits(self.known, configuration)
        return brute_force.known(found, CONFIGURATIONS[configuration].reach)


def exits(trainings: Iterable[dict], configuration: str) -> dict[int, list[int]]:
    """Exit codes of a configuration's trainings, by size."""
    found: dict[int, list[int]] = {}
    for row in trainings:
        if row["configuration"] == configuration:
            found.setdefault(row["batch_size"], []).append(row["exit"])
    return found


def left(
    measured: Measured, models: Iterable[str], tools: Collection[str], repeats: int
) -> list[Work]:
    """All that is left, in the order in which it is best done."""
    return [work for name in models for work in left_of(measured, name, tools, repeats)]


def left_of(
    measured: Measured, configuration: str, tools: Collection[str], repeats: int
) -> list[Work]:
    found: list[Work] = []
    best = measured.safe_maximum(configuration)
    asked = (configuration, OURS.name) in measured.tools
    training = training_seconds(measured, configuration)
    wanted = [OURS, *(TOOLS[name] for name in tools if name != OURS.name)]
    missing = [tool for tool in wanted if (configuration, tool.name) not in measured.tools]

    def search(tool: Tool) -> Work:
        ready = tool is OURS or (asked and (tool.start is None or best is not None))
        seconds = tool_seconds(measured, configuration, tool.name)
        return Work(TOOL, configuration, tool.name, ready, seconds)

    if OURS in missing:
        found.append(search(OURS))
    if best is None:
        found.append(towards_safe_maximum(measured, configuration, training))
    found += [search(tool) for tool in missing if tool is not OURS]
    done = measured.exits(configuration)
    for size in sorted({measured.answer(configuration, tool.name) or 0 for tool in wanted} - {0}):
        count = repeats - len(done.get(size, ()))
        if count > 0:
            found.append(Work(FRESH, configuration, size, True, training * count, count))
    if missing:
        count = repeats * len(missing)
        found.append(Work(FRESH, configuration, None, False, training * count, count))
    return found


def towards_safe_maximum(measured: Measured, configuration: str, training: float) -> Work:
    """The next training towards it, with the time that all of them take."""
    so_far = exits(measured.known, configuration)
    reach = CONFIGURATIONS[configuration].reach
    died = brute_force.smallest_death(so_far, reach)
    passed = max((size for size in so_far if size < died), default=0)
    between = sum(passed < size < died for size in brute_force.grid(reach))
    near = [len(codes) for size, codes in so_far.items() if size < died]
    steps = math.ceil(math.log2(1 + between))
    repeats = brute_force.NEIGHBOURS * REPEATS - (0 if between else sum(sorted(near)[-2:]))
    count = max(1, steps + repeats)
    size = brute_force.next_size(so_far, reach)
    return Work(SAFE_MAXIMUM, configuration, size, True, training * count, count)


def training_seconds(measured: Measured, configuration: str) -> float:
    took = [row["seconds"] for row in measured.known if row["configuration"] == configuration]
    return statistics.median(took) if took else TRAINING_SECONDS


def tool_seconds(measured: Measured, configuration: str, tool: str) -> float:
    """What it took before on this model, or as many times the usual as others did here."""
    if (configuration, tool) in measured.tools:
        return measured.tools[configuration, tool]["seconds"]
    shares = [
        row["seconds"] / TOOL_SECONDS[name]
        for (where, name), row in measured.tools.items()
        if where == configuration
    ]
    return TOOL_SECONDS[tool] * (statistics.median(shares) if shares else 1.0)
