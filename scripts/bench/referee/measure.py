"""One tool on one model, in a process of its own: what it answered, and what that cost.

A row of `peers.jsonl` holds one such measurement, with the floor that was taken beside it.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import main_job
from configurations import Configuration

from referee.tools import OURS, Tool

ROOT = Path(__file__).resolve().parents[3]
DRIVE = Path(__file__).resolve().parent / "drive.py"
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
TIMEOUT = 3600


def row_of(
    tool: Tool,
    configuration: Configuration,
    safe_maximum: int | None,
    floor_size: int | None,
    floor_beyond: int | None = None,
    python: Path = PEERS_PYTHON,
) -> dict:
    """Measure a tool.

    Args:
        safe_maximum: For tools that begin from above.
        floor_size: What the floor is taken at; None for our own answer.
        floor_beyond: Where its proof begins, as that of our own answer did.
        python: What peers run in.
    """
    row = {
        "tool": tool.name,
        "configuration": configuration.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
    }
    if tool is OURS:
        row |= ours(configuration)
    else:
        row |= peer(tool, configuration, safe_maximum, python)
    size = floor_size or row["batch_size"]
    if size is not None:
        seconds, outcome = main_job.proof_alone(
            configuration, size, row.get("beyond_batch_size", floor_beyond)
        )
        row |= {"floor_seconds": round(seconds, 2), "floor_batch_size": size}
        row["floor_outcome"] = str(outcome)
    return row


def ours(configuration: Configuration) -> dict:
    """`autobatch probe` as a user types it, and whether a live model's weights stay."""
    seconds, code, answer = main_job.ask(configuration)
    trials = answer.get("trials", answer.get("error", {}).get("trials", []))
    return {
        "batch_size": answer.get("batch_size"),
        "beyond_batch_size": answer.get("proof", {}).get("beyond_batch_size"),
        "seconds": round(seconds, 2),
        "trials": [[trial["batch_size"], trial["outcome"]] for trial in trials],
        "exit": code,
        "why": answer["error"]["message"] if code else None,
        "weights_changed": weights_change(configuration),
        "versions": answer.get("versions", {}) | {"commit": commit()},
    }


def weights_change(configuration: Configuration) -> bool | None:
    """Whether a small probe of a live model changes its weights; None where it did not answer.

    Its time is not counted: the command that is measured has no live model.
    """
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from referee.steps import Log, Steps\n"
        "import autobatch\n"
        "steps = Steps(Path(sys.argv[2]), Log(Path(os.devnull)))\n"
        "before = steps.digest()\n"
        "autobatch.probe(steps.model, maximum=2, memory_limit=sys.argv[3], cache=False)\n"
        "print(steps.digest() != before)\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", "import os\n" + program, DRIVE.parent.parent),
            *(configuration.path, f"{configuration.limit_mib}MiB"),
        ],
        env=configuration.environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    if done.returncode:
        print(f"{configuration.name}, live model: {done.stderr[-2000:]}", file=sys.stderr)
        return None
    return done.stdout.split()[-1] == "True"


def peer(tool: Tool, configuration: Configuration, safe_maximum: int | None, python: Path) -> dict:
    """A peer's search, from the start of its process to its end."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        command = [
            *(python, DRIVE, tool.name, configuration.path),
            *(str(configuration.limit_mib), str(safe_maximum or 0), log),
        ]
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                env=configuration.environment(),
                cwd=folder,  # Lightning leaves a checkpoint where it runs
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
            code, stderr = done.returncode, done.stderr
        except subprocess.TimeoutExpired:
            code, stderr = -signal.SIGKILL, f"{TIMEOUT} s were over"
        seconds = time.perf_counter() - started
        said = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return (
        {"seconds": round(seconds, 2)}
        | told(said, code, stderr)
        | {"versions": versions(tool, python)}
    )


def told(said: Iterable[dict], code: int, stderr: str) -> dict:
    """What a peer's log and end amount to.

    Args:
        said: The lines of its log.
        code: Its exit status, as `subprocess` has it.
        stderr: Of which the last line is kept where it did not answer.
    """
    trials: list[list] = []
    answer = None
    for line in said:
        if line["event"] == "trial":
            trials.append([line["batch_size"], "fits"])
        elif line["event"] == "out_of_memory":
            trials[-1][1] = "out_of_memory"
        else:
            answer = line
    if answer is None and trials and trials[-1][1] == "fits":
        trials[-1][1] = "crashed" if code < 0 else "failed"
    last = (stderr.strip().splitlines() or [""])[-1][:300]
    return {
        "batch_size": answer and answer["batch_size"],
        "trials": trials,
        "exit": code,
        "why": None if answer else f"{ending(code)}: {last}",
        "weights_changed": answer and answer["weights_changed"],
    }


def ending(code: int) -> str:
    """An exit status in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def versions(tool: Tool, python: Path) -> dict[str, str]:
    """Of what a peer ran with."""
    names = ["tensorflow", "keras", *([tool.package] if tool.package else [])]
    program = (
        "import json, platform, sys\n"
        "from importlib.metadata import PackageNotFoundError, version\n"
        "found = {'python': platform.python_version()}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = version(name)\n"
        "    except PackageNotFoundError: found[name] = version(f'{name}-cpu')\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [python, "-c", program, *names], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def commit() -> str | None:
    """The last commit that touched the package, with `-dirty` where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    last = [*git, "log", "-1", "--format=%h", "--abbrev=12", "--", "autobatch"]
    said = subprocess.run(last, capture_output=True, text=True, timeout=60)
    if said.returncode:
        return None  # a copy without its history
    same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "autobatch"], timeout=60)
    return said.stdout.strip() + ("-dirty" if same.returncode else "")


def machine() -> dict:
    """What the times depend on."""
    return {
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
    }
