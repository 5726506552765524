"""Buckets of sequence lengths against their bars: safe, tight, cheap, and faster than one size.

    buckets.py search [EXAMPLE ...]   probes five buckets, and the longest of them alone
    buckets.py check [EXAMPLE ...]    fresh trainings of each bucket at its size, and 1/0.9 of it
    buckets.py epoch [EXAMPLE ...]    an epoch with the buckets, and one with the best static size
    buckets.py table                  what the rows say

Rows are added to rows/buckets.jsonl as they come; `check` and `epoch` take the last search's
answer. A bucket is at least 90 % of its safe maximum where a size of 1/0.9 times it dies in one of
ten fresh trainings.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from configurations import EXAMPLES, REPEATS, ROWS, STEPS, Configuration

HERE = Path(__file__).resolve().parent
FILE = ROWS / "buckets.jsonl"
LIMIT_MIB = 1024
BUCKETS = 5
PATHS = {
    "imdb_bucketed": EXAMPLES / "imdb_bucketed.py",
    "transformer_bucketed": HERE / "transformer_bucketed.py",
}
ENVIRONMENT = Configuration("", "", LIMIT_MIB, 0).environment()


def add(row: dict) -> None:
    """Keep a row."""
    ROWS.mkdir(exist_ok=True)
    with FILE.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row)[:400], file=sys.stderr, flush=True)


def rows(kind: str, example: str) -> list[dict]:
    """Rows so far of one kind."""
    if not FILE.exists():
        return []
    found = [json.loads(line) for line in FILE.read_text().splitlines()]
    return [row for row in found if row["kind"] == kind and row["example"] == example]


def run(command: list, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess, float]:
    """A command to its end, and its seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=3600
    )
    return done, time.perf_counter() - started


def one_length(example: str, length: int) -> dict[str, str]:
    """The environment in which one_length.py is the example at this length."""
    wanted = {"example": str(PATHS[example]), "length": length}
    return {**ENVIRONMENT, "ONE_LENGTH": json.dumps(wanted)}


def search(example: str) -> None:
    program = [sys.executable, "-m", "autobatch"]
    limit = [f"--memory-limit={LIMIT_MIB}MiB", "--device=cpu", "--json", "--quiet"]
    target = f"{PATHS[example]}:build_model"
    done, seconds = run([*program, "buckets", target, f"--buckets={BUCKETS}", *limit], ENVIRONMENT)
    answer = json.loads(done.stdout)
    if done.returncode:
        add({"kind": "search", "example": example, "error": answer["error"]["message"]})
        return
    longest = answer["max_length"]
    alone, one_seconds = run(
        [*program, "probe", f"{HERE / 'one_length.py'}:build_model", *limit, "--no-cache"],
        one_length(example, longest),
    )
    found = json.loads(alone.stdout)
    trials = [
        [t["sequence_length"], t["batch_size"], t["outcome"], t.get("proof", False)]
        for t in answer["trials"]
    ]
    add(
        {
            "kind": "search",
            "example": example,
            "seconds": round(seconds, 2),
            "lengths": [bucket["longest"] for bucket in answer["buckets"]],
            "sizes": [bucket["batch_size"] for bucket in answer["buckets"]],
            "trials": trials,
            "alone_seconds": round(one_seconds, 2),
            "alone_size": found.get("batch_size"),
            "alone_trials": len(found["trials"]),
            "padding": answer["padding"],
            "result": answer,
        }
    )


def fresh(example: str, size: int, length: int) -> int:
    """The exit code of one fresh training at one length, kept as a row."""
    done, seconds = run(
        [sys.executable, HERE / "fresh_training.py", HERE / "one_length.py", size, STEPS],
        one_length(example, length),
    )
    row = {"kind": "fresh", "example": example, "length": length, "batch_size": size}
    why = (done.stderr.strip().splitlines() or [""])[-1][:200] if done.returncode else ""
    add(row | {"exit": done.returncode, "seconds": round(seconds, 2), "why": why})
    return done.returncode


def codes(example: str, size: int, length: int) -> list[int]:
    """Exit codes so far."""
    return [
        row["exit"]
        for row in rows("fresh", example)
        if (row["batch_size"], row["length"]) == (size, length)
    ]


def beyond(size: int) -> int:
    """A size of which this one is just 90 %."""
    return math.ceil(size / 0.9)


def check(example: str, repeats: int) -> None:
    last = rows("search", example)[-1]
    for size, length in zip(last["sizes"], last["lengths"], strict=True):
        while len(codes(example, size, length)) < repeats:
            fresh(example, size, length)
        while not any(found := codes(example, beyond(size), length)) and len(found) < repeats:
            fresh(example, beyond(size), length)


def epoch(example: str, steps: int) -> None:
    last = rows("search", example)[-1]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(last["result"]))
        file.flush()
        for how in ("buckets", "static"):
            done, _ = run(
                [sys.executable, HERE / "bucket_epoch.py", PATHS[example], file.name, how, steps],
                ENVIRONMENT,
            )
            said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
            row = {"kind": "epoch", "example": example, "how": how, "exit": done.returncode}
            add(row | {"whole": steps == 0, **said, "why": done.stderr[-300:] if not said else ""})


def table() -> None:
    for example in PATHS:
        for row in rows("search", example):
            if "error" in row:
                print(example, row["error"])
                continue
            ratio = row["seconds"] / row["alone_seconds"]
            print(f"{example}: sizes {row['sizes']} at {row['lengths']}, {ratio:.2f} times one")
            for size, length in zip(row["sizes"], row["lengths"], strict=True):
                at, above = codes(example, size, length), codes(example, beyond(size), length)
                deaths = f"{sum(map(bool, at))} of {len(at)} died at {size}"
                more = f"{sum(map(bool, above))} of {len(above)} at {beyond(size)}"
                print(f"  length {length}: {deaths}, {more}")
        for row in rows("epoch", example):
            speed = row["tokens"] / row["seconds"] if row.get("seconds") else 0
            print(f"  epoch, {row['how']}: exit {row['exit']}, {speed:,.0f} tokens a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("search", "check", "epoch", "table"))
    parser.add_argument("examples", nargs="*", default=list(PATHS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--steps", type=int, default=0, help="of an epoch; 0 for all of it")
    given = parser.parse_args()
    if given.what == "table":
        table()
    for name in given.examples:
        if given.what == "search":
            search(name)
        elif given.what == "check":
            check(name, given.repeats)
        elif given.what == "epoch":
            epoch(name, given.steps)
