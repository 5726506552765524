"""Trials that die in every way: real processes, and what is left of them afterwards.

`samples/misbehaves.py` behaves up to batch size 36, and from 37 on in its own way each time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import autobatch
from autobatch import devices, targets
from autobatch.crew import Crew
from autobatch.events import Event, Notice, TrialEnded, TrialStarted
from autobatch.options import ProbeOptions
from autobatch.records import LimitKind, Outcome, ProbeResult, ProofKind
from autobatch.units import MIB

HERE = Path(__file__).resolve().parent
SAMPLE = HERE / "samples" / "misbehaves.py"
TRIAL_LIMIT = 20.0  # seconds, where trials hang: enough for those of a busy machine that do not
LONG = 120.0  # seconds, where they do not
KILLING = 5.0  # seconds more that a trial may take to be over
MARK = "AUTOBATCH_TEST_MARK"
OPTIONS = {
    "device": "cpu",
    "memory_limit": "96MiB",
    "minimum": 18,  # so that 36 comes first, and 37 next
    "maximum": 37,
    "precision": 0.0,
    "steps": 4,
    "proof_steps": 8,
}

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel"),
]


@dataclass
class Surroundings:
    """A place for the user's own files, one for temporary ones, and a mark on every process."""

    scratch: Path
    temporary: Path
    mark: str
    seconds: list[float] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    _began: float = 0.0

    def __call__(self, event: Event) -> None:
        """Observe a probe."""
        if isinstance(event, TrialStarted):
            self._began = time.monotonic()
        elif isinstance(event, TrialEnded):
            self.seconds.append(time.monotonic() - self._began)
        elif isinstance(event, Notice):
            self.notices.append(event.text)

    def marked(self) -> list[int]:
        """Processes that the probe started, and those that hid."""
        needle, found = f"{MARK}={self.mark}".encode(), []
        for process in psutil.process_iter():
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if needle in environment and process.pid != os.getpid():
                found.append(process.pid)
        for name in self.scratch.glob("escaped*"):
            pid = int(name.read_text())
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        return found


@pytest.fixture
def around(
    nothing_left_open: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Surroundings]:
    """Where a probe runs; fails the test if a process or a file is left of it."""
    scratch, temporary = tmp_path / "scratch", tmp_path / "temporary"
    scratch.mkdir()
    temporary.mkdir()
    made = Surroundings(scratch, temporary, uuid.uuid4().hex)
    monkeypatch.setenv("MISBEHAVES_SCRATCH", str(scratch))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv(MARK, made.mark)
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up once
    yield made
    assert not made.marked()
    assert not list(temporary.iterdir())


def probe(around: Surroundings, **options: object) -> ProbeResult:
    return autobatch.probe(f"{SAMPLE}:build_model", observer=around, **{**OPTIONS, **options})


CRASH, HUNG = LimitKind.CRASH, LimitKind.TIMEOUT
OWN, MEMORY, NONE = LimitKind.MODEL_ERROR, LimitKind.MEMORY, LimitKind.MAXIMUM
# How it misbehaves, what the answer must be limited by, what is said of it, and the sizes that
# may be the answer.
WAYS = {
    "segfault": (CRASH, "Killed by SIGSEGV", {36}),
    "abort": (CRASH, "Killed by SIGABRT", {36}),
    "kill": (CRASH, "Killed by SIGKILL", {36}),
    "sys.exit": (OWN, "SystemExit: 3", {36}),
    "os._exit": (CRASH, "Exit status 0", {36}),
    "channel": (CRASH, "the channel is corrupt", {36}),
    "sleep": (HUNG, "no answer within", {36}),
    "C loop": (HUNG, "no answer within", {36}),
    "slower": (HUNG, "no answer within", {36}),
    "fork": (CRASH, "Killed by SIGKILL", {36}),
    "spawn": (HUNG, "no answer within", {36}),
    "ValueError": (OWN, "the moon is in the wrong house", {36}),
    "flood": (NONE, "--max is 37", {37}),
    "closed stderr": (NONE, "--max is 37", {37}),
    "leak": (MEMORY, "its proof ended out of memory", {36}),
    "third step": (MEMORY, "batch size 37: it needs ", {36}),
    "validation": (MEMORY, "its proof ended out of memory", {36}),
    "one size": (CRASH, "batch size 36: it ended crashed (Killed by SIGSEGV", {35}),
    "flaky": (CRASH, "batch size 37: its proof ended crashed (Killed by SIGKILL", {36}),
}
PROOFS = ("leak", "validation", "flaky")  # end in a proof; one size is enough below that


@pytest.mark.parametrize(
    ("way", "outcome", "beyond", "said", "workers"),
    [
        ("third step", Outcome.OUT_OF_MEMORY, 37, "with 3% more, batch size 37", 1),
        ("kill", Outcome.CRASHED, 37, "with 3% more, batch size 37", 1),
        ("ValueError", Outcome.FITS, None, "", 2),  # the user's own: it says nothing of memory
        ("validation", Outcome.FITS, 37, "", 1),  # which is not run with 37
    ],
)
def test_a_proof_begins_with_a_size_a_little_larger(
    around: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    outcome: Outcome,
    beyond: int | None,
    said: str,
    workers: int,
) -> None:
    monkeypatch.setenv("MISBEHAVES", way)
    options = ProbeOptions.checked(device="cpu", memory_limit="96MiB", proof_steps=4)
    with Crew(
        targets.resolve(f"{SAMPLE}:build_model"),
        devices.choose(options),
        options,
        environment={},
        observer=around,
        deadline=time.monotonic() + LONG,
    ) as crew:
        trial, done = crew.prove(36, enough_bytes=96 * MIB, beyond=37)
        assert len(crew.pids) == workers
    assert (trial.batch_size, trial.outcome, trial.proof) == (36, outcome, True), trial.why
    assert trial.beyond_batch_size == beyond
    assert said in (trial.why or "")
    passed = outcome is Outcome.FITS
    assert (done is not None) == passed
    assert (trial.peak_bytes is not None) == bool(trial.step_seconds) == passed  # of 36, not 37


@pytest.mark.parametrize("way", WAYS)
def test_the_probe_answers_whatever_a_trial_does(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("MISBEHAVES", way)
    kind, said, sizes = WAYS[way]
    limit = TRIAL_LIMIT if kind is HUNG else LONG
    result = probe(around, timeout=limit, **({"minimum": 36} if way in PROOFS else {}))
    assert result.limited_by.kind is kind, result.limited_by
    assert said in result.limited_by.evidence
    assert result.batch_size in sizes
    assert result.proof.kind is ProofKind.FRESH_PROCESS
    proofs = [t for t in result.trials if t.proof and t.outcome is Outcome.FITS]
    assert result.batch_size in {t.batch_size for t in proofs}
    assert any("grew with each step" in each for each in result.warnings) == (way == "leak")
    assert not around.notices
    for seconds, trial in zip(around.seconds, result.trials, strict=True):
        # A proof's time holds its worker's loading, and that of an OOM TensorFlow's own 10 s.
        if trial.outcome is not Outcome.FITS and not trial.proof:
            assert seconds < limit + KILLING
    if way == "spawn":
        assert (around.scratch / "escaped").exists()


@pytest.mark.parametrize("way", ["C loop", "spawn"])
def test_all_die_with_a_killed_parent(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also the worker that holds the interpreter's lock for ever, and the child that hides."""
    monkeypatch.setenv("MISBEHAVES", way)
    command = [sys.executable, "-m", "autobatch", "probe", f"{SAMPLE}:build_model", "--verbose"]
    command += ["--device=cpu", "--memory-limit=96MiB", "--min=37", "--max=37"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=HERE) as parent:
        assert parent.stderr is not None
        for line in parent.stderr:
            if "misbehaving now" in line:
                break
        assert len(around.marked()) >= 5  # the parent, two wardens, two workers
        parent.send_signal(signal.SIGKILL)
        parent.wait(30)
        until = time.monotonic() + 30
        while (around.marked() or list(around.temporary.iterdir())) and time.monotonic() < until:
            time.sleep(0.02)
