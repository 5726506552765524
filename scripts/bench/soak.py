"""Probes in a row, disturbed at random: each has a proven answer or ends with a typed error.

    soak.py run [--probes N] [--first N] [--seed S]   goes on where the rows end
    soak.py table                                     what the rows say; exit 1 for trouble

The disturbances: none; a worker is killed; the parent is killed, or asked to end, and the probe
resumed, its journal as it was left, cut off at a random byte, or with a byte of it changed. Every
probe is a row in rows/soak.jsonl. What is held of it:

- exit 0: among the trials of this very run is a proof that passed of the size that is the answer;
  else the JSON is an error whose kind belongs to the exit code. `--output` holds the same JSON.
- resumed: the trials that the journal still held are the first of the answer's, unchanged.
- the same: where sizes are bounded by `--max`, the resumed probe has the same answer as one that
  was never stopped. Where memory is the bound, peaks scatter from run to run and so do answers:
  there it lies among those of the undisturbed probes, or within 6 % of them.
- afterwards no process of the probe runs, no file is left in the temporary folder, and this
  process has as many open files as before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
from configurations import EXAMPLES, ROWS

from autobatch import errors, journal
from autobatch.records import Outcome, Trial

SAMPLES = EXAMPLES.parent.parent / "tests" / "samples"
SOAK = ROWS / "soak.jsonl"
MOST_TRIALS = 6  # that are waited for before a disturbance
LONGEST = 1200  # seconds that a probe may take on a busy machine
NEAR = 0.06  # of the undisturbed answers, where memory is the bound
GONE_WITHIN = 5.0  # seconds until the workers of a killed parent must be gone
KINDS = {e.exit_code: e.kind for e in errors.AutobatchError.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is probed, and how often; `exact` where `--max` is the bound: one answer each time."""

    name: str
    target: str
    options: tuple[str, ...]
    exact: bool = True
    weight: int = 0


SMALL = ("--steps=2", "--proof-steps=2")
CIFAR, LARGE = f"{EXAMPLES}/cifar10_cnn.py:build_model", f"{SAMPLES}/large.py:build_model"
ROOMY = ("--memory-limit=1GiB", *SMALL)
SUBJECTS = [
    Subject("cifar10_cnn-256", CIFAR, ("--memory-limit=256MiB",), exact=False, weight=2),
    Subject("imdb_lstm", f"{EXAMPLES}/imdb_lstm.py", ("--max=8", *ROOMY), weight=2),
    Subject("transformer", f"{EXAMPLES}/transformer.py", ("--max=8", *ROOMY), weight=1),
    Subject("cifar10_cnn-max", CIFAR, ("--max=64", *ROOMY), weight=2),
    Subject("tiny", f"{SAMPLES}/tiny.py", ("--max=64", *ROOMY), weight=2),
    Subject("large", LARGE, ("--memory-limit=32MiB", *SMALL), exact=False, weight=2),
    Subject("resnet50", f"{EXAMPLES}/resnet50.py", ("--max=2", *ROOMY), weight=1),
]
DISTURBANCES = ("none", "worker killed", "parent killed", "journal cut", "journal changed", "asked")


class Soak:
    """One probe after the other, in a folder of its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def probe(self, number: int, references: dict[str, dict]) -> dict:
        """The row of one probe."""
        chance = random.Random(f"{self.seed}-{number}")
        first = number < len(SUBJECTS)  # each once, undisturbed: what the others are held against
        weights = [subject.weight for subject in SUBJECTS]
        subject = SUBJECTS[number] if first else chance.choices(SUBJECTS, weights)[0]
        disturbance = "none" if first else chance.choice(DISTURBANCES)
        row = {"number": number, "seed": self.seed, "subject": subject.name}
        row["disturbance"] = disturbance
        files, began = open_files(), time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="autobatch-soak-"))
        try:
            trouble = Run(folder, subject, chance, row).disturbed(disturbance, references)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if open_files() != files:
            trouble.append("open files")
        row["seconds"] = round(time.monotonic() - began, 1)
        return row | {"trouble": trouble}


class Run:
    """The processes and the files of one row."""

    def __init__(self, folder: Path, subject: Subject, chance: random.Random, row: dict) -> None:
        self.subject, self.chance, self.row = subject, chance, row
        self.journal, self.output = folder / "journal", folder / "result"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.log = folder / "log"
        self.seen: set[psutil.Process] = set()
        self.trouble: list[str] = []
        folders = {"TMPDIR": str(self.temporary), "AUTOBATCH_CACHE_DIR": str(folder / "cache")}
        self.environment = {**os.environ, **folders}

    def disturbed(self, disturbance: str, references: dict[str, dict]) -> list[str]:
        """Run it, disturb it, check what came of it; returns what is not in order."""
        process = self.start()
        if disturbance != "none":
            usual = references.get(self.subject.name, {"sizes": [0] * MOST_TRIALS})
            self.wait_for_a_moment(process, min(len(usual["sizes"]), MOST_TRIALS))
            if disturbance == "worker killed":
                self.row["disturbed"] = self.kill_a_worker(process)
            else:
                self.row["disturbed"] = process.poll() is None
                process.send_signal(signal.SIGTERM if disturbance == "asked" else signal.SIGKILL)
        stdout = self.end(process)
        # Asked to end before or after it listens, it ends at once, as any program does.
        killed = process.returncode in (-signal.SIGKILL, -signal.SIGTERM)
        stopped = killed or process.returncode == 130
        self.row["exit"] = process.returncode
        if not killed:
            self.check(process.returncode, stdout)
        if stopped and disturbance != "none":
            self.resume(disturbance)
        left = [str(p.relative_to(self.temporary)) for p in self.temporary.rglob("*")]
        if left:
            self.trouble.append(f"temporary files: {', '.join(left)}")
        return self.trouble

    def resume(self, disturbance: str) -> None:
        data = self.journal.read_bytes() if self.journal.exists() else b""
        if data and disturbance == "journal cut":
            self.journal.write_bytes(data[: self.chance.randrange(len(data))])
        elif data and disturbance == "journal changed":
            at = self.chance.randrange(len(data))
            self.journal.write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
        kept = read(self.journal)
        while kept and kept[-1].outcome is Outcome.CRASHED:  # tried again, by design
            kept = kept[:-1]
        process = self.start("--resume")
        stdout = self.end(process)
        self.row |= {"kept": len(kept), "exit": process.returncode}
        if (
            process.returncode == 2
            and "left as it is" in stdout
            and disturbance == "journal changed"
        ):
            self.row["error"] = "no journal any more"  # its first bytes: refused, not overwritten
            return
        answer = self.check(process.returncode, stdout)
        if process.returncode != 0:
            self.trouble.append("the resumed probe has no answer")
            return
        trials = msgspec.convert(answer["trials"], tuple[Trial, ...])
        if trials[: len(kept)] != kept or answer["earlier_trials"] != len(kept):
            self.trouble.append(f"of {len(kept)} trials {answer['earlier_trials']} were kept")

    # -- processes ---------------------------------------------------------------------------

    def start(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "autobatch", "probe", self.subject.target, "--json", "-q"]
        command += [*self.subject.options, "--no-cache", "--device=cpu"]
        with self.log.open("w") as log:
            return subprocess.Popen(
                [*command, f"--journal={self.journal}", f"--output={self.output}", *options],
                stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment,
            )  # fmt: skip

    def look(self, process: subprocess.Popen) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
            self.seen.update(children)
            return children
        return []

    def wait_for_a_moment(self, process: subprocess.Popen, trials: int) -> None:
        """Until a random number of trials is done, fewer than these, and a little longer."""
        wanted = self.chance.randrange(trials)
        self.row["after_trials"] = wanted
        until = time.monotonic() + LONGEST
        while process.poll() is None and len(read(self.journal)) < wanted:
            self.look(process)
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        moment = time.monotonic() + self.chance.uniform(0, 3.0)
        while process.poll() is None and time.monotonic() < moment:
            self.look(process)
            time.sleep(0.02)

    def kill_a_worker(self, process: subprocess.Popen) -> bool:
        """Whether there was one to kill."""
        workers = sorted(self.look(process), key=lambda each: each.create_time())
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.chance.choice(workers).kill()
                return True
        return False

    def end(self, process: subprocess.Popen) -> str:
        """Its stdout, once it and all that it started are gone."""
        until = time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < until:
            self.look(process)
            time.sleep(0.05)
        if process.poll() is None:
            self.trouble.append(f"still running after {LONGEST} s")
            process.kill()
        stdout, _ = process.communicate()
        until = time.monotonic() + GONE_WITHIN
        while (alive := [each for each in self.seen if runs(each)]) and time.monotonic() < until:
            time.sleep(0.02)
        if alive:
            self.trouble.append(f"{len(alive)} processes left")
            for each in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.seen.clear()
        return stdout

    def check(self, status: int, stdout: str) -> dict:
        """Whether exit code, JSON and the result's file agree, and the answer is proven."""
        try:
            answer = json.loads(stdout)
        except ValueError:
            said = self.log.read_text(errors="replace")[-500:]
            self.trouble.append(f"exit {status} without JSON: {stdout[-200:]!r} {said!r}")
            return {}
        if not self.output.exists() or self.output.read_text() != stdout:
            self.trouble.append("the result's file says something else")
        if status == 0:
            trials = msgspec.convert(answer["trials"], tuple[Trial, ...])
            proofs = [trial for trial in trials[answer["earlier_trials"] :] if trial.proof]
            passed = [each.batch_size for each in proofs if each.outcome is Outcome.FITS]
            self.row["proofs"] = [[each.batch_size, each.outcome] for each in proofs]
            if answer["batch_size"] not in passed:
                self.trouble.append("the answer is not proven")
            self.row |= {
                "batch_size": answer["batch_size"], "sizes": sizes(trials),
                "limited_by": answer["limited_by"]["kind"],
            }  # fmt: skip
        else:
            self.row["error"] = answer["error"]["kind"]
            if KINDS.get(status) != answer["error"]["kind"]:
                self.trouble.append(f"exit {status} is not of {answer['error']['kind']}")
        return answer


def sizes(trials: tuple[Trial, ...]) -> list[int]:
    return [trial.batch_size for trial in trials]


def read(path: Path) -> tuple[Trial, ...]:
    with contextlib.suppress(FileNotFoundError):
        return journal.parse(path.read_bytes()).trials
    return ()


def runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def rows() -> list[dict]:
    if not SOAK.exists():
        return []
    return [json.loads(line) for line in SOAK.read_text().splitlines()]


def run(first: int, probes: int, seed: int) -> None:
    soak = Soak(seed)
    for number in range(first, probes):
        # read anew each time: another run may do other numbers
        done = {row["number"]: row for row in rows() if row["seed"] == seed}
        if number in done:
            continue
        references = {
            row["subject"]: row
            for row in done.values()
            if row["number"] < len(SUBJECTS) and "batch_size" in row
        }
        row = soak.probe(number, references)
        ROWS.mkdir(exist_ok=True)
        with SOAK.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)


def answered(row: dict, all_rows: list[dict]) -> tuple[bool, bool]:
    """Whether a resumed probe has the first undisturbed answer, and whether it is near enough."""
    usual = [
        each["batch_size"]
        for each in all_rows
        if each["subject"] == row["subject"] and each["disturbance"] == "none"
    ]
    exact = next(each.exact for each in SUBJECTS if each.name == row["subject"])
    near = 0 if exact else NEAR
    low, high = min(usual) * (1 - near), max(usual) * (1 + near)
    return row["batch_size"] == usual[0], low <= row["batch_size"] <= high


def table() -> int:
    all_rows = sorted(rows(), key=lambda row: row["number"])
    groups = defaultdict(list)
    for row in all_rows:
        groups[row["disturbance"]].append(row)
        if "kept" in row and "batch_size" in row:
            row["same"], in_order = answered(row, all_rows)
            if not in_order:
                row["trouble"].append(f"answered {row['batch_size']}")
    print(
        "| disturbance | probes | disturbed in time | proven answers | typed errors | resumed |",
        end="",
    )
    print(" with trials kept | same answer | another | not in order | median s |")
    print("|" + "---|" * 11)
    troubled = []
    for name in [each for each in DISTURBANCES if each in groups] + ["all"]:
        found = groups[name] if name != "all" else all_rows
        resumed = [row for row in found if "kept" in row]
        bad = [row for row in found if row["trouble"]]
        troubled = bad
        cells = [
            name, len(found), sum(row.get("disturbed", "kept" in row) for row in found),
            sum(row["exit"] == 0 for row in found),
            sum(row["exit"] != 0 for row in found), len(resumed),
            sum(row["kept"] > 0 for row in resumed),
            sum(row.get("same") is True for row in resumed),
            sum(row.get("same") is False for row in resumed), len(bad),
            round(statistics.median(row["seconds"] for row in found)),
        ]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |")
    for row in troubled:
        print(f"\n{row['number']} ({row['subject']}, {row['disturbance']}): {row['trouble']}")
    return bool(troubled)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--probes", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "run":
        run(given.first, given.probes, given.seed)
    else:
        sys.exit(table())
