"""Find the safe maximum by brute force: the largest size such that it and every smaller size
tried pass 10 of 10 fresh trainings.

    safe_maximum.py [CONFIGURATION ...]

Every fresh training is a row in rows/fresh.jsonl, written as it ends; run again, it goes on where
it stopped. A size is dropped at its first death. The sizes tried lie about 2 % apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import rows
from configurations import CONFIGURATIONS, REPEATS, ROWS, STEPS, Configuration

FRESH = ROWS / "fresh.jsonl"
SCRIPT = ROWS.parent / "fresh_training.py"
NEIGHBOURS = 2  # sizes below the smallest death that must hold: a zone is not monotonic
Exits = Mapping[int, Sequence[int]]


def train(configuration: Configuration, batch_size: int, file: Path = FRESH) -> dict:
    """Run one fresh training and return its row."""
    started = time.perf_counter()
    whole = batch_size * max(1, len(configuration.gpus))
    done = subprocess.run(
        [sys.executable, SCRIPT, configuration.path, str(whole), str(STEPS)],
        env=configuration.environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    row = {
        "configuration": configuration.name,
        "batch_size": batch_size,
        "exit": done.returncode,
        "seconds": round(time.perf_counter() - started, 2),
    }
    if done.returncode == 0:
        row["stages"] = json.loads(done.stdout.splitlines()[-1])
    else:
        row["why"] = (done.stderr.strip().splitlines() or [""])[-1][:300]
    rows.append(file, row)
    return row


def recorded(name: str, file: Path = FRESH) -> dict[int, list[int]]:
    """Exit codes of the fresh trainings so far, by batch size."""
    exits = defaultdict(list)
    for row in rows.read(file):
        if row["configuration"] == name:
            exits[row["batch_size"]].append(row["exit"])
    return exits


def grid(reach: int) -> list[int]:
    """Sizes from 1 to `reach`, about 2 % apart."""
    sizes = [1]
    while sizes[-1] < reach:
        sizes.append(max(sizes[-1] + 1, round(sizes[-1] * 1.02)))
    return sizes


def smallest_death(exits: Exits, reach: int) -> int:
    """The smallest size that died; one beyond the grid where none has."""
    return min((size for size, codes in exits.items() if any(codes)), default=grid(reach)[-1] + 1)


def next_size(exits: Exits, reach: int) -> int | None:
    """The size to train next; None once the safe maximum is known.

    One run a size narrows down where the deaths begin; then the sizes just below them must pass
    all their runs.

    Raises:
        ValueError: The largest size of the grid did not die.
    """
    died = smallest_death(exits, reach)
    passed = max((s for s, codes in exits.items() if s < died and codes), default=0)
    between = [size for size in grid(reach) if passed < size < died]
    if between:
        return between[len(between) // 2]
    if died > grid(reach)[-1]:
        raise ValueError(f"Nothing died up to {grid(reach)[-1]}: this is no reach.")
    below = sorted(size for size in {*grid(reach), *exits} if size < died)[-NEIGHBOURS:]
    return next((size for size in reversed(below) if len(exits.get(size, ())) < REPEATS), None)


def known(exits: Exits, reach: int) -> int | None:
    """The safe maximum, once these rows tell."""
    if not exits or next_size(exits, reach) is not None:
        return None
    died = smallest_death(exits, reach)
    return max((s for s, codes in exits.items() if s < died and len(codes) >= REPEATS), default=0)


def safe_maximum(name: str, file: Path = FRESH) -> int | None:
    """What the rows say so far; None while they do not say."""
    return known(recorded(name, file), CONFIGURATIONS[name].reach)


def passes(configuration: Configuration, batch_size: int, repeats: int) -> bool:
    codes = recorded(configuration.name)[batch_size]
    while not any(codes) and len(codes) < repeats:
        codes.append(train(configuration, batch_size)["exit"])
        print(f"{configuration.name} {batch_size}: {codes}", file=sys.stderr)
    return not any(codes)


def find(configuration: Configuration) -> int:
    while (size := next_size(recorded(configuration.name), configuration.reach)) is not None:
        row = train(configuration, size)
        print(f"{configuration.name} {size}: {row['exit']}", file=sys.stderr)
    return safe_maximum(configuration.name)


if __name__ == "__main__":
    for name in sys.argv[1:] or CONFIGURATIONS:
        print(name, find(CONFIGURATIONS[name]), flush=True)
