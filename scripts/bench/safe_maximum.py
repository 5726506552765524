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

from configurations import CONFIGURATIONS, REPEATS, ROWS, STEPS, Configuration

FRESH = ROWS / "fresh.jsonl"
SCRIPT = ROWS.parent / "fresh_training.py"


def train(configuration: Configuration, batch_size: int) -> dict:
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
    ROWS.mkdir(exist_ok=True)
    with FRESH.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def recorded(name: str) -> dict[int, list[int]]:
    """Exit codes of the fresh trainings so far, by batch size."""
    exits = defaultdict(list)
    if FRESH.exists():
        for line in FRESH.read_text().splitlines():
            row = json.loads(line)
            if row["configuration"] == name:
                exits[row["batch_size"]].append(row["exit"])
    return exits


def grid(reach: int) -> list[int]:
    """Sizes from 1 to `reach`, about 2 % apart."""
    sizes = [1]
    while sizes[-1] < reach:
        sizes.append(max(sizes[-1] + 1, round(sizes[-1] * 1.02)))
    return sizes


def safe_maximum(name: str) -> int | None:
    """What the rows say so far; None while they do not say."""
    exits = recorded(name)
    died = min((size for size, codes in exits.items() if any(codes)), default=None)
    if died is None:
        return None
    passed = [s for s, c in exits.items() if s < died and len(c) >= REPEATS]
    below = [s for s in exits if s < died]
    return max(passed) if passed and max(passed) == max(below) else None


def passes(configuration: Configuration, batch_size: int, repeats: int) -> bool:
    codes = recorded(configuration.name)[batch_size]
    while not any(codes) and len(codes) < repeats:
        codes.append(train(configuration, batch_size)["exit"])
        print(f"{configuration.name} {batch_size}: {codes}", file=sys.stderr)
    return not any(codes)


def find(configuration: Configuration) -> int:
    sizes = grid(configuration.reach)
    low, high = 0, len(sizes) - 1
    while high - low > 1:  # one run a size: where about is the edge?
        middle = (low + high) // 2
        if passes(configuration, sizes[middle], 1):
            low = middle
        else:
            high = middle
    streak, edge = 0, high
    while streak < 2:  # two neighbours in a row must hold: a zone is not monotonic
        edge -= 1
        streak = streak + 1 if passes(configuration, sizes[edge], REPEATS) else 0
    return sizes[edge + 1]


if __name__ == "__main__":
    for name in sys.argv[1:] or CONFIGURATIONS:
        print(name, find(CONFIGURATIONS[name]), flush=True)
