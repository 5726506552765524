"""What nobody may do to the user of autobatch: one test for each promise of the README."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from autobatch import protocol, records
from autobatch.errors import AutobatchError, ModelError, NothingFitsError
from autobatch.events import LogText, Notice, Prepared, TrialEnded, TrialStarted, WorkerStage
from autobatch.records import (
    Device,
    LearningRate,
    LimitedBy,
    LimitKind,
    Outcome,
    ProbeResult,
    Proof,
    ProofKind,
    Trial,
    error_json,
)
from autobatch.report.live import LiveView
from autobatch.report.summary import failure, summary

PACKAGE = Path(__file__).resolve().parent.parent / "autobatch"
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\x1b]8;;http://x\x1b\\a\x00\x08\r\u202e\u2066b\x85c\ud800"
# Colours, and what the live view's region needs: columns, lines up, erasing, the cursor.
OURS = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[hl]|\x1b\[[0-2]?K|\x1b\[\d*A|\x1b\[J")
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def calls(*names: str) -> list[tuple[str, ast.Call]]:
    """Calls of functions with these names in the package, with the files they are in."""
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
                found.append((str(path.relative_to(PACKAGE)), node))
    return found


# -- processes and files ---------------------------------------------------------------------------


def test_no_shell_is_ever_started():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                pytest.fail(f"{path}:{node.value.lineno}")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                assert name not in ("os.system", "os.popen", "subprocess.getoutput"), path
                assert not name.startswith("os.spawn"), path
    started = calls("Popen", "run", "check_output", "call", "check_call")
    started = [(p, c) for p, c in started if ast.unparse(c.func).startswith("subprocess.")]
    assert started, "the workers' start was not found"
    assert all(isinstance(call.args[0], ast.List) for _, call in started)


def test_pickles_come_over_a_workers_own_pipe_and_from_nowhere_else():
    """It has no name in the file system: only this user's processes could reach it."""
    reads = {
        f"{path}: {ast.unparse(call)}"
        for path, call in calls("loads", "load", "load_model", "Unpickler")
        if ast.unparse(call) != "load(module)"  # of an import of the user's
        and not ast.unparse(call.func).startswith(("json.", "model_source."))
    }
    assert reads == {
        "pickles.py: cloudpickle.loads(content)",  # inside of the next one
        "function_worker.py: cloudpickle.loads(pickled)",  # protocol.Load's
        "engine/model_source.py: cloudpickle.loads(target.pickle)",  # protocol.Prepare's
        "engine/model_source.py: keras.models.load_model(target.path, safe_mode=safe_mode)",
        # the live model's own bytes, out of the same pickle
        "targets.py: keras.models.load_model(path, custom_objects=self._custom_objects, "
        "safe_mode=False)",
    }
    imported = {
        alias.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not imported & {"pickle", "marshal", "shelve", "dill", "joblib"}


def test_temporary_folders_are_their_owners_alone(tmp_path):
    assert not calls("mktemp", "mkstemp", "NamedTemporaryFile")  # TemporaryFile has no name
    kinds = {ast.unparse(call.func) for _, call in calls("TemporaryDirectory", "mkdtemp")}
    assert "tempfile.TemporaryDirectory" in kinds, "the live model's folder was not found"
    old = os.umask(0)
    try:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(tempfile.mkdtemp(dir=tmp_path)).st_mode) == 0o700
    finally:
        os.umask(old)


def test_what_is_read_has_a_schema_and_a_size():
    """JSON is decoded into a type, always; and after its size was looked at."""
    for path, call in calls("decode"):
        if ast.unparse(call.func) == "msgspec.json.decode":
            assert any(keyword.arg == "type" for keyword in call.keywords), path
    free = {p for p, c in calls("loads", "load") if ast.unparse(c.func).startswith("json.")}
    # A record of at most MAX_RECORD bytes, each part of it made what it should be; and Keras's own
    # file in the user's home, of which one word is taken.
    assert free == {"device_lock.py", "worker.py"}
    inbox = protocol.Inbox(protocol.Answer)
    inbox.feed((protocol.MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(AutobatchError, match="corrupt"):
        inbox.next()
    # what comes of the disk: see test_journal and test_storage


# -- what reaches a terminal -----------------------------------------------------------------------


def assert_harmless(shown: str) -> None:
    rest = OURS.sub("", shown).replace("\r", "")
    assert not STEERING.search(rest), repr(STEERING.search(rest))


EVIL_TRIAL = Trial(
    batch_size=3, outcome=Outcome.CRASHED, why=f"why {EVIL}\n{EVIL}", phase=f"phase {EVIL}"
)
EVIL_DEVICE = Device(name=f"card {EVIL}", kind="gpu", limit_bytes=1 << 30, budget_bytes=1 << 29)
EVIL_RESULT = ProbeResult(
    batch_size=2, global_batch_size=2, learning_rate=0.1,
    learning_rates=(
        LearningRate(
            optimizer=f"opt{EVIL}", rule=f"rule {EVIL}", reason=EVIL, factor=2.0, base_batch_size=1,
            batch_size=2, base_learning_rate=0.1, learning_rate=0.2, hyperparameters={EVIL: 0.5},
            schedule={"class_name": EVIL, "config": {EVIL: EVIL, "name": EVIL}}, advice=(EVIL,),
        ),
    ),
    limited_by=LimitedBy(LimitKind.CRASH, f"evidence {EVIL}"), device=EVIL_DEVICE,
    peak_bytes=1 << 20, headroom_bytes=1 << 20, proof=Proof(kind=ProofKind.FRESH_PROCESS, steps=8),
    trials=(EVIL_TRIAL, msgspec.structs.replace(EVIL_TRIAL, batch_size=2, outcome=Outcome.FITS)),
    warnings=(f"warning {EVIL}",), seconds=1.0, versions={f"name {EVIL}": f"version {EVIL}"},
)  # fmt: skip
EVIL_ERRORS = [
    AutobatchError(EVIL, details=f"{EVIL}\n{EVIL}", trials=(EVIL_TRIAL,)),
    ModelError(EVIL, details=EVIL, traceback=f"whole {EVIL}"),
    NothingFitsError(EVIL, needed_bytes=2, budget_bytes=1, trials=(EVIL_TRIAL,)),
]


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("unicode", [False, True])
def test_no_text_of_others_steers_the_terminal_from_a_report(color, unicode):
    look: dict[str, Any] = {"width": 80, "color": color, "unicode": unicode}
    assert_harmless(summary(EVIL_RESULT, **look, command=f"autobatch {EVIL}"))
    for error in EVIL_ERRORS:
        for verbose in (False, True):
            assert_harmless(failure(error, verbose=verbose, **look))


class Written:
    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("mode", ["live", "plain"])
def test_no_text_of_others_steers_the_terminal_while_a_probe_runs(mode):
    stream = Written()
    events = [
        WorkerStage("search", EVIL),
        WorkerStage(EVIL, "loading"),
        Prepared(f"model {EVIL}", EVIL_DEVICE, 5, 1.0),
        TrialStarted(3, proof=False),
        LogText("search", f"{EVIL}\n{EVIL}"),
        LogText(EVIL, EVIL),
        TrialEnded(EVIL_TRIAL, 0, 3, 2),
        Notice(f"notice {EVIL}"),
    ]
    with LiveView(stream, mode=mode, color=True, verbose=True, size=lambda: (80, 24)) as view:
        for event in events:
            view(event)
            if mode == "live":
                view._paint()
    assert "model" in stream.text
    assert_harmless(stream.text)


def test_json_on_a_terminal_steers_nothing_either():
    results = (EVIL_RESULT.to_json(), EVIL_RESULT.to_json(indent=2))
    for text in (*results, *map(error_json, EVIL_ERRORS)):
        assert_harmless(text)
        assert "\\u009b31m" in text
    mild = msgspec.structs.replace(
        EVIL_RESULT, warnings=("\x9b1m \u202e é \x7f \x1b[0m",), trials=()
    )
    assert ProbeResult.from_json(msgspec.structs.replace(
        mild, versions={}, device=msgspec.structs.replace(EVIL_DEVICE, name="a"),
        learning_rates=(), limited_by=LimitedBy(LimitKind.CRASH, ""),
    ).to_json()).warnings == mild.warnings  # fmt: skip


def test_wrong_usage_with_a_steering_name_is_harmless():
    for arguments in (["probe", "\x1b[2J\x9b31mno.py"], ["probe", "x", "--\x1b[2J"], ["\x9b2Jx"]):
        done = subprocess.run(
            [sys.executable, "-m", "autobatch", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert_harmless(done.stderr + done.stdout)
    scale = ["scale-lr", "--base-lr=1", "--base-batch-size=1", "--batch-size=2"]
    done = subprocess.run(
        [sys.executable, "-m", "autobatch", *scale, "--optimizer=\x1b[2JAdam"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert_harmless(done.stderr + done.stdout)


# -- with TensorFlow -------------------------------------------------------------------------------

SECRET = "hunter2-do-not-tell"


@pytest.mark.tensorflow
def test_no_secret_of_the_environment_is_in_what_is_written(tmp_path, monkeypatch, cache_folder):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("TF_SECRET", SECRET)
    (tmp_path / "train.py").write_text(
        "import keras, numpy, os\n"
        "os.environ['LATE_TOKEN'] = os.environ['WANDB_API_KEY']\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse')\n"
        "model.fit(numpy.zeros((8, 4), 'float32'), numpy.zeros((8, 1), 'float32'))\n"
    )
    written = {"--output": "result", "--journal": "journal", "--log-file": "log"}
    done = subprocess.run(
        [sys.executable, "-m", "autobatch", "probe", "train.py", "--json", "--device=cpu",
         "--memory-limit=128MiB", "--max=2", "--steps=2", "--proof-steps=2",
         *(f"{option}={name}" for option, name in written.items()), "--", "--token", SECRET],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [p for p in (*tmp_path.rglob("*"), *cache_folder.rglob("*")) if p.is_file()]
    assert {"result", "journal"} <= {path.name for path in files}
    assert any(path.parent.name == "results" for path in files)
    for text in (done.stdout, done.stderr, *(p.read_text() for p in files)):
        assert SECRET not in text
    assert (tmp_path / "result").read_text() == done.stdout


@pytest.mark.tensorflow
def test_a_saved_model_runs_no_code_unless_it_may(tmp_path):
    """A Lambda layer holds bytecode: Keras's safe mode is on by default."""
    program = (
        "import keras; m = keras.Sequential([keras.Input((4,)), keras.layers.Lambda("
        "lambda x: x * (open('ran', 'w').close() or 1)), keras.layers.Dense(1)])\n"
        "m.compile('sgd', 'mse'); m.save('model.keras')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "ran").unlink(missing_ok=True)
    command = [sys.executable, "-m", "autobatch", "probe", "model.keras", "--json", "-q"]
    small = ["--device=cpu", "--memory-limit=128MiB", "--max=2", "--steps=2", "--proof-steps=2"]
    done = subprocess.run(
        [*command, *small], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 4, done.stderr
    assert "--no-safe-mode" in done.stdout
    assert not (tmp_path / "ran").exists()
    done = subprocess.run(
        [*command, *small, "--no-safe-mode"], cwd=tmp_path, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists()


def test_the_readme_says_that_a_model_is_code():
    text = " ".join((PACKAGE.parent / "README.md").read_text().split())
    assert "Running a model is running its code" in text
    assert records.SCHEMA_VERSION == 1
