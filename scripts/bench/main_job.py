"""The main job against its bars: safe, tight, no crashes on the way, fast.

    main_job.py search [--repeats N] [CONFIGURATION ...]   probes, and the floor beside each
    main_job.py check [CONFIGURATION ...]                  fresh trainings at every answer
    main_job.py table                                      what the rows say

Every probe is a row in rows/searches.jsonl; each is followed at once by its floor, one proof at
the answer alone in a fresh process, so that the ratio is of two times taken side by side.
`safe_maximum.py` finds what the answers are held against.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict

import rows
from configurations import CONFIGURATIONS, REPEATS, ROWS, Configuration
from safe_maximum import passes, recorded, safe_maximum

from autobatch import devices, targets
from autobatch.crew import Crew
from autobatch.events import ignore
from autobatch.options import ProbeOptions

SEARCHES = ROWS / "searches.jsonl"


def ask(configuration: Configuration) -> tuple[float, int, dict]:
    """One probe as a user runs it: its seconds, its exit code and its JSON."""
    target = f"{configuration.path}:build_model"
    command = [sys.executable, "-m", "autobatch", "probe", target, "--json", "--quiet"]
    for name, value in configuration.options().items():
        command += [f"--{name.replace('_', '-')}", value]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--no-cache"],
        env={**os.environ, **configuration.device_environment()},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    return time.perf_counter() - started, done.returncode, json.loads(done.stdout)


def probe(configuration: Configuration) -> dict:
    """One probe and its floor, as a row."""
    seconds, code, answer = ask(configuration)
    row = {"configuration": configuration.name, "exit": code, "seconds": round(seconds, 2)}
    if code != 0:
        return row | {"error": answer["error"]["message"]}
    outcomes = [trial["outcome"] for trial in answer["trials"]]
    floor, floor_outcome = proof_alone(
        configuration, answer["batch_size"], answer["proof"]["beyond_batch_size"]
    )
    return row | {
        "batch_size": answer["batch_size"],
        "floor_seconds": round(floor, 2),
        "floor_outcome": floor_outcome,
        "trials": len(outcomes),
        "sizes": [trial["batch_size"] for trial in answer["trials"]],
        "out_of_memory": outcomes.count("out_of_memory"),
        "versions": answer["versions"],
    }


def proof_alone(
    configuration: Configuration, batch_size: int, beyond: int | None
) -> tuple[float, str]:
    """Seconds from nothing to a proof of this size, as no honest finder could do without; and
    what became of it. It begins at the size `beyond`, if there is one, as the probe's proof did.
    """
    target = f"{configuration.path}:build_model"
    options = ProbeOptions.checked(**configuration.options())
    started = time.perf_counter()
    with Crew(
        targets.resolve(target),
        devices.choose(options),
        options,
        environment=configuration.device_environment(),
        observer=ignore,
        deadline=time.monotonic() + 1800,
    ) as crew:
        budget = configuration.limit_mib << 20
        trial, _ = crew.prove(batch_size, enough_bytes=budget, beyond=beyond)
    if trial.outcome != "fits":
        print(f"the floor's own proof failed: {trial.why}", file=sys.stderr)
    return time.perf_counter() - started, trial.outcome


def searches() -> dict[str, list[dict]]:
    """Searches so far, by configuration."""
    found = defaultdict(list)
    for row in rows.read(SEARCHES):
        found[row["configuration"]].append(row)
    return found


def search(names: list[str], repeats: int) -> None:
    for _ in range(repeats):
        for name in names:
            row = probe(CONFIGURATIONS[name])
            rows.append(SEARCHES, row)
            print(json.dumps(row), file=sys.stderr, flush=True)


def check(names: list[str]) -> None:
    for name in names:
        for size in sorted({row["batch_size"] for row in searches()[name] if "batch_size" in row}):
            print(name, size, passes(CONFIGURATIONS[name], size, REPEATS), flush=True)


def table() -> None:
    print(
        "| configuration | answers | safe maximum | tightness | fresh deaths | OOM | trials |",
        end="",
    )
    print(" cost / floor |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for name, found in searches().items():
        good = [row for row in found if "batch_size" in row]
        sizes = [row["batch_size"] for row in good]
        best = safe_maximum(name)
        tight = f"{min(sizes) / best:.0%} to {max(sizes) / best:.0%}" if best else "?"
        runs = [code for size in set(sizes) for code in recorded(name)[size]]
        floors = [row for row in good if row.get("floor_outcome", "fits") in rows.RAN]
        costs = [row["seconds"] / row["floor_seconds"] for row in floors]
        ratios += [statistics.median(costs)] if costs else []
        print(
            f"| {name} | {', '.join(map(str, sizes))} | {best or '?'} | {tight} "
            f"| {sum(map(bool, runs))} of {len(runs)} "
            f"| {', '.join(str(row['out_of_memory']) for row in good)} "
            f"| {', '.join(str(row['trials']) for row in good)} "
            f"| {', '.join(f'{cost:.2f}' for cost in costs)} |"
        )
    print(f"\nMedian cost over the floor: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("search", "check", "table"))
    parser.add_argument("configurations", nargs="*", default=list(CONFIGURATIONS))
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    if given.what == "search":
        search(given.configurations, given.repeats)
    elif given.what == "check":
        check(given.configurations)
    else:
        table()
