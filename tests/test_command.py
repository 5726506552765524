"""The command: bad input, signals, closed streams. Each through a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil
import pytest
from click.testing import CliRunner

from autobatch import cli
from autobatch.cli.options import given
from autobatch.options import FLAGS, ProbeOptions

SAMPLES = Path(__file__).resolve().parent / "samples"
README = SAMPLES.parent.parent / "README.md"
AUTOBATCH = [sys.executable, "-m", "autobatch"]
SMALL = ["--device=cpu", "--memory-limit=128MiB", "--max=16", "--steps=3", "--proof-steps=3"]
SCALE = ["scale-lr", "--base-lr=0.05", "--base-batch-size=16", "--batch-size=96"]
HEAVY = ("tensorflow", "keras", "numpy", "rich", "pynvml")


def command(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`autobatch` with these arguments, run to its end among the samples."""
    settings = {"cwd": SAMPLES, "capture_output": True, "timeout": 200, **settings}
    return subprocess.run([*AUTOBATCH, *arguments], text=True, errors="replace", **settings)


def probe(target: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return command("probe", target, *SMALL, *arguments, **settings)


def error_of(stdout: str, *, kind: str) -> dict[str, Any]:
    """The error that stdout holds, and nothing else; checked for its form."""
    body = json.loads(stdout)
    assert set(body) == {"schema_version", "error", "trials"}
    error = body["error"]
    assert error["kind"] == kind
    assert "\n" not in error["message"], "a message is one paragraph"
    assert "\x1b" not in stdout
    return {**error, "trials": body["trials"]}


# -- wrong usage, said before anything starts ------------------------------------------------------

WRONG = {
    "no target": ([], "TARGET"),
    "no such file": (["nowhere.py"], "nowhere.py does not exist"),
    "a directory": (["."], "is a directory"),
    "no Python": (["../../pyproject.toml"], "not a Python file"),
    "zero": (["tiny.py", "--min", "0"], "(--min) must be a whole number from 1 on; received 0"),
    "negative": (["tiny.py", "--max", "-3"], "(--max) must be a whole number from 1 on"),
    "a word": (["tiny.py", "--max", "many"], "'many' is not a valid"),
    "a fraction": (["tiny.py", "--steps", "2.5"], "'2.5' is not a valid"),
    "no steps": (["tiny.py", "--steps", "0"], "(--steps) must be"),
    "no proof": (["tiny.py", "--proof-steps", "0"], "(--proof-steps) must be"),
    "bounds crossed": (["tiny.py", "--min", "9", "--max", "3"], "9, is above the largest, 3"),
    "no multiple": (["tiny.py", "--multiple-of", "64", "--max", "16"], "no multiple of 64"),
    "no power": (["tiny.py", "--power-of-two", "--multiple-of", "3"], "multiple of 3"),
    "precision": (["tiny.py", "--precision", "1"], "(--precision) must be a share"),
    "headroom": (["tiny.py", "--headroom", "120%"], "(--headroom) must be a share"),
    "no memory": (["tiny.py", "--memory-limit", "0"], "(--memory-limit) must be a positive size"),
    "no unit": (["tiny.py", "--memory-limit", "6 gigs"], "received '6 gigs'"),
    "no time": (["tiny.py", "--timeout", "nan"], "(--timeout) must be a positive number"),
    "rate": (["tiny.py", "--base-lr", "-1"], "(--base-lr) must be a positive number"),
    "rule": (["tiny.py", "--lr-rule", "cubic"], "must be auto, linear"),
    "kind": (["tiny.py", "--as", "package"], "must be auto, script, module; received 'package'"),
    "back end": (["tiny.py", "--backend", "jax"], "must be tensorflow; received 'jax'"),
    "device": (["tiny.py", "--device", "tpu"], "received 'tpu'"),
    "shape": (["tiny.py", "--input-shape", "3,x"], "expected sizes like 224,224,3"),
    "empty shape": (["tiny.py", "--input-shape", "image=3,0"], "positive sizes"),
    "fit": (["tiny.py", "--fit", "0"], "(--fit) must be"),
    "unknown option": (["tiny.py", "--epochs", "3"], "-- --epochs 1"),
    "log": (["tiny.py", "--log-file", "/nowhere/log"], "/nowhere/log cannot be written"),
    "bytes": (["\udcff.py"], "not valid UTF-8"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_wrong_usage_says_what_was_received_and_what_to_do(arguments, said):
    done = command("probe", *arguments, "--json")
    assert done.returncode == 2, done.stderr
    assert said in error_of(done.stdout, kind="usage")["message"]
    assert " ".join(said.split()) in " ".join(done.stderr.split())


def test_wrong_usage_in_a_process():
    done = command("probe", "tiny.py", "--min", "9", "--max", "3", "--json")
    assert done.returncode == 2
    assert "Change --min, --max" in error_of(done.stdout, kind="usage")["message"]
    done = command("probe", "nowhere.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Wrong usage: nowhere.py does not exist; expected")
    assert command("bogus").returncode == 2
    assert command().returncode in (
        0,
        2,
    )  # its help; which of them differs between versions of click


def test_after_two_dashes_json_is_the_scripts_own():
    done = command("probe", "nowhere.py", "--", "--json")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_syntax_error_is_the_models_failure(tmp_path):
    (tmp_path / "train.py").write_text("import keras\nmodel = = 3\n")
    done = command("probe", "train.py", "--json", cwd=tmp_path)
    assert done.returncode == 4
    assert "train.py, line 2" in error_of(done.stdout, kind="model")["message"]


def test_more_memory_than_there_is_is_a_devices_error():
    done = command("probe", "tiny.py", "--device=cpu", "--memory-limit=900TiB", "--json")
    assert done.returncode == 5
    assert "900 TiB is more than" in error_of(done.stdout, kind="device")["message"]


def test_a_bug_of_ours_is_an_error_object_too(monkeypatch):
    monkeypatch.chdir(SAMPLES)
    monkeypatch.setattr("autobatch.as_trained.find_one", lambda *a, **k: 1 / 0)
    done = CliRunner().invoke(cli.main, ["probe", "tiny.py", "--json"])
    assert done.exit_code == 1
    assert "ZeroDivisionError" in error_of(done.stdout, kind="error")["message"]


# -- help, and its price ---------------------------------------------------------------------------


def _options() -> Iterator[tuple[click.Option, str]]:
    for parameter in cli.probe.params:
        if isinstance(parameter, click.Option):
            yield parameter, parameter.help or ""


def test_the_help_states_every_default():
    plain = " ".join(command("probe", "--help").stdout.split())
    defaults = {f.name: f.default for f in msgspec.structs.fields(ProbeOptions)}
    flags = {parameter.name: parameter for parameter, _ in _options()}
    assert set(defaults) <= set(flags), "every field has an option"
    for parameter, text in _options():
        assert "[default: " in text, parameter.name
        said = text.split("[default: ")[1].rstrip("]")
        assert f"[default: {said}]" in plain.replace("- ", "-") or said in plain
        default = defaults.get(parameter.name)
        if parameter.name == "power_of_two":
            assert (default, said) == (False, "any size")
        elif parameter.name == "resume":
            assert (default, said) == (False, "start anew")
        elif isinstance(default, bool):
            assert parameter.opts[0] == f"--{'' if default else 'no-'}{said}"
        elif isinstance(default, (int, float)):
            assert float(said) == default, parameter.name
        elif isinstance(default, str):
            assert said.split(",")[0].split(":")[0] == default, parameter.name
        if parameter.name in defaults:
            flag = FLAGS.get(parameter.name, f"--{parameter.name.replace('_', '-')}")
            assert flag in parameter.opts


def test_the_readmes_table_has_every_option():
    table = README.read_text().split("## Options of `autobatch probe`")[1].split("\n\n")[1]
    told = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", table))
    there = {name for parameter, _ in _options() for name in parameter.opts if name[:2] == "--"}
    assert there - {"--devices"} <= told
    others = {name for parameter, _ in _options() for name in parameter.secondary_opts}
    assert told <= there | others


def test_the_help_of_each_command_is_there():
    for arguments in (["--help"], ["-h"], ["probe", "-h"], ["scale-lr", "--help"]):
        assert "Usage: " in CliRunner().invoke(cli.main, arguments).stdout
    assert re.search(r"\d+\.\d+", CliRunner().invoke(cli.main, ["--version"]).stdout)


@pytest.mark.parametrize(
    "arguments", [["-c", "import autobatch"], ["-m", "autobatch", "--help"]], ids=["import", "help"]
)
def test_nothing_slow_is_imported(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "autobatch" in imported
    assert not imported & set(HEAVY)


def test_the_command_that_trains_with_the_answer_asks_for_the_same(tmp_path):
    options = ["--memory-limit=6GiB", "--max=64", "--fit=2", "--power-of-two", "--no-validation"]
    options += ["--input-shape", "image=8,8,3", "--input-shape=5", "--headroom", "5%", "--no-cache"]
    script, log = tmp_path / "train it.py", ["--log-file=x", "--json", "--journal=y", "--resume"]
    script.write_text("model.fit(x, y)\n")
    to_train = sys.modules["autobatch.cli.probe"]._to_train
    asked = cli.probe.make_context("probe", [str(script), *options, *log, "--", "--lr", "1e-3"])
    probed = options_given(asked)
    words = shlex.split(to_train(str(script), asked.params["arguments"], probed))
    assert words[:2] == ["autobatch", "run"]
    runs = cli.main.get_command(asked, "run").make_context("run", words[2:])
    assert runs.params["script"] == str(script)
    assert runs.params["arguments"] == ("...",)  # they may be secrets
    assert options_given(runs) == {
        k: v for k, v in probed.items() if k not in ("journal", "resume")
    }
    script.write_text("def build_model(): ...\n")
    assert to_train(str(script), (), {}) is None
    assert to_train(f"{script}:build_model", (), {}) is None


def options_given(context: click.Context) -> dict[str, Any]:
    fields = {field.name for field in msgspec.structs.fields(ProbeOptions)}
    return given({name: value for name, value in context.params.items() if name in fields})


# -- scale-lr, and where stdout goes ---------------------------------------------------------------


def test_scale_lr_scales():
    done = command(*SCALE)
    assert (done.returncode, done.stdout) == (0, "0.3\n")
    assert "linear rule" in done.stderr
    adam = [*SCALE[:1], "--base-lr=0.001", "--base-batch-size=64", "--batch-size=256"]
    done = command(*adam, "--optimizer=Adam", "--json")
    assert json.loads(done.stdout)["learning_rate"] == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base-lr=-1", "--base-batch-size=2", "--batch-size=4"], "received -1"),
        (["--base-lr=1", "--base-batch-size=0", "--batch-size=4"], "received 0"),
        (["--base-lr=1", "--base-batch-size=2"], "Missing option '--batch-size'"),
        (["--base-lr=1", "--base-batch-size=2", "--batch-size=4", "--lr-rule=no"], "no"),
        (["--base-lr=x", "--base-batch-size=2", "--batch-size=4"], "'x' is not a valid float"),
    ],
)
def test_scale_lr_refuses_what_makes_no_sense(arguments, said):
    done = CliRunner().invoke(cli.main, ["scale-lr", *arguments, "--json"])
    assert done.exit_code == 2
    assert said in error_of(done.stdout, kind="usage")["message"]


def test_a_reader_that_has_gone_is_no_error():
    for arguments in (SCALE, ["--help"], ["probe", "nowhere.py", "--json"]):
        read, write = os.pipe()
        os.close(read)
        done = command(*arguments, capture_output=False, stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        assert "Traceback" not in done.stderr
        assert "BrokenPipe" not in done.stderr
        assert done.returncode == (2 if "nowhere.py" in arguments else done.returncode)
    head = f"set -o pipefail; {' '.join([*AUTOBATCH, *SCALE])} | head -c 1"
    done = subprocess.run(["bash", "-c", head], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0")


def test_an_answer_that_stdout_does_not_take_goes_to_stderr():
    line = " ".join([*AUTOBATCH, *SCALE])
    full = subprocess.run(["bash", "-c", f"{line} >/dev/full"], capture_output=True, text=True)
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "0.3" in full.stderr
    closed = subprocess.run(["bash", "-c", f"{line} >&-"], capture_output=True, text=True)
    assert closed.returncode == 0
    assert closed.stderr.startswith("0.3\n")
    deaf = subprocess.run(["bash", "-c", f"{line} 2>&-"], capture_output=True, text=True)
    assert (deaf.returncode, deaf.stdout) == (0, "0.3\n")


def test_json_is_utf_8_whatever_the_terminal_speaks():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = command("probe", "nówhere.py", "--json", env=environment, encoding="utf-8")
    assert "nówhere.py does not exist" in error_of(done.stdout, kind="usage")["message"]


# -- the user's model fails ------------------------------------------------------------------------

FAILING = {
    "raises": ("broken.py:raises", "raised KeyError while building: 'output'"),
    "needs arguments": ("broken.py:needs_arguments", "needs arguments (units)"),
    "no model": ("broken.py:returns_a_number", "returned int; expected a Keras model"),
    "no such function": ("broken.py:build", "Its functions: raises, needs_arguments"),
    "exits in a function": ("broken.py:exits", "raised SystemExit while building: no GPU"),
    "no loss": (
        "broken.py:has_no_loss",
        "raised ValueError while tracing its first step: No loss to compute",
    ),
    "wrong shapes": ("wrong_shapes.py", "received input with shape (1, 5)"),
    "never calls fit": ("no_model.py", "It ran to its end without model.fit"),
    "exits before fit": ("exits_before_fit.py", "before it called model.fit. If it needs arg"),
    "legacy script": ("legacy/train.py", "legacy tf_keras (Keras 2) model"),
    "legacy factory": ("legacy/train.py:build_model", "legacy tf_keras (Keras 2) model"),
    "no such module": ("no.such_module:build", "raised ModuleNotFoundError while loading"),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize(("target", "said"), FAILING.values(), ids=FAILING)
def test_a_model_that_fails_is_told_with_its_own_words(target, said):
    done = probe(target, "--json", "--quiet")
    assert done.returncode == 4, done.stderr
    error = error_of(done.stdout, kind="model")
    assert said in error["message"]
    if target.endswith("raises"):
        assert 'broken.py", line 12, in raises' in error["details"]
        assert "site-packages" not in error["details"]
        assert "--verbose shows the whole traceback" in done.stderr
    if "exits_before" in target:
        assert "the following arguments are required: --data" in error["details"]
    if "has_no_loss" in target:
        assert {trial["outcome"] for trial in error["trials"]} == {"failed"}


@pytest.mark.tensorflow
def test_nothing_fits_says_how_much_was_needed():
    done = command(
        "probe", "large.py:build_model", "--device=cpu", "--memory-limit=2MiB", "--json", "-q"
    )
    assert done.returncode == 3, done.stderr
    error = error_of(done.stdout, kind="nothing_fits")
    assert re.search(r"Even batch size 1 does not fit.*needs at least \d.* MiB", error["message"])
    assert error["needed_bytes"] > 4 << 20
    assert error["budget_bytes"] == 2 << 20
    assert error["trials"][-1]["batch_size"] == 1


@pytest.mark.tensorflow
def test_no_gpu_is_a_devices_error():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": ""}
    done = command("probe", "tiny.py", "--device=gpu", "--json", "-q", env=environment)
    assert done.returncode == 5, done.stderr
    assert "--device cpu" in error_of(done.stdout, kind="device")["message"]


@pytest.mark.tensorflow
def test_a_broken_tensorflow_is_a_devices_error(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise ImportError('libcuda is gone')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = probe("tiny.py", "--json", "-q", env=environment)
    assert done.returncode == 5, done.stderr
    assert "(ImportError: libcuda is gone)" in error_of(done.stdout, kind="device")["message"]


@pytest.mark.tensorflow
def test_a_worker_that_dies_loading_is_an_unknown_death():
    done = probe("broken.py:dies", "--json", "-q")
    assert done.returncode == 6, done.stderr
    message = error_of(done.stdout, kind="worker")["message"]
    assert "died while building" in message
    assert "SIGSEGV" in message


@pytest.mark.tensorflow
def test_megabytes_on_fd_1_a_full_log_and_nan_losses_harm_nothing():
    done = probe("noisy.py", "--json", "--log-file=/dev/full")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["batch_size"] == 16
    assert result["base_batch_size"] == 4
    assert any("NaN" in warning for warning in result["warnings"])
    assert "The log file takes no more (No space left on device)" in done.stderr
    assert "xxxx" not in done.stderr


@pytest.mark.tensorflow
def test_a_closed_stdout_and_stdin_take_no_workers_pipe(tmp_path):
    """What a worker prints is in the log; the answer is on stderr, its only place."""
    script = tmp_path / "train.py"
    script.write_text(f"print('hello from the script')\n{(SAMPLES / 'only_model.py').read_text()}")
    log = tmp_path / "log"
    line = " ".join([*AUTOBATCH, "probe", str(script), *SMALL, "--max=2", f"--log-file={log}"])
    done = subprocess.run(
        ["bash", "-c", f"{line} <&- >&-"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "BATCH SIZE  2" in done.stderr
    assert "hello from the script" in log.read_text()


@pytest.mark.tensorflow
def test_a_reader_of_one_line_ends_the_answer_and_nothing_else():
    line = shlex.join([*AUTOBATCH, "probe", "only_model.py", *SMALL, "--max=2", "--no-cache"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} | head -1"],
        cwd=SAMPLES,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (0, "Trials\n"), done.stderr
    assert "batch 2: proof passed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Pipe" not in done.stderr


# -- signals ---------------------------------------------------------------------------------------


LONG = 30.0  # seconds that a busy machine may take


class Running:
    """A probe of `slow.py` with its process tree, followed by what it writes on stderr."""

    def __init__(self, *arguments: str, at: str, terminal: bool = False) -> None:
        self.seen = ""
        environment = {**os.environ, "SLOW_AT": at, "SLOW_SECONDS": "0.3"}
        settings: dict[str, Any] = {"cwd": SAMPLES, "env": environment}
        target = ["probe", "slow.py:build_model", *SMALL, "--max=4", "--steps=2", "--verbose"]
        if terminal:
            self._read, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x18\0\x50\0\0\0\0\0")
            settings |= {"stdin": slave, "stdout": subprocess.PIPE, "stderr": slave}
            settings["preexec_fn"] = lambda: _lead(slave)
        else:
            self._read, slave = os.pipe()
            settings |= {"stdout": subprocess.PIPE, "stderr": slave}
            settings["preexec_fn"] = lambda: signal.signal(
                signal.SIGINT, signal.default_int_handler
            )
        self.process = subprocess.Popen([*AUTOBATCH, *target, *arguments], **settings)
        os.close(slave)

    def wait_for(self, pattern: str, limit: float = 300) -> re.Match[str]:
        os.set_blocking(self._read, False)
        until = time.monotonic() + limit
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < until, f"no {pattern!r} in {self.seen}"
            with contextlib.suppress(BlockingIOError):
                self.seen += os.read(self._read, 1 << 16).decode(errors="replace")
            time.sleep(0.02)
        return found

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def type(self, keys: bytes) -> None:
        os.write(self._read, keys)

    def end(self) -> tuple[int, str]:
        """Its exit status and its stdout; reads on, so that it never waits for us."""
        os.set_blocking(self._read, False)
        until = time.monotonic() + 120
        while self.process.poll() is None:
            assert time.monotonic() < until, self.seen
            with contextlib.suppress(BlockingIOError, OSError):
                self.seen += os.read(self._read, 1 << 16).decode(errors="replace")
            time.sleep(0.01)
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._read, 1 << 16):
                self.seen += data.decode(errors="replace")
        assert self.process.stdout is not None
        return self.process.returncode, self.process.stdout.read().decode()

    def close(self) -> None:
        """Whatever became of the test, neither process nor descriptor stays."""
        if self.process.poll() is None:
            self.process.kill()  # its workers go with it
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._read)


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(
            contextlib.closing(Running(*arguments, **settings))
        )


def _lead(terminal: int) -> None:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def assert_gone(processes: list[psutil.Process], within: float) -> None:
    """No process of these runs; one that only its parent's wait is missing for does not."""
    assert processes
    until = time.monotonic() + within
    while alive := [p for p in processes if _runs(p)]:
        assert time.monotonic() < until, alive
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


ENDED = """
import os, sys
from autobatch.cli.watching import ended_by_signals
try:
    with ended_by_signals():
        exec("os.kill(os.getpid(), int(sys.argv[1]))")  # as a dataclass that is being imported
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_wherever_a_signal_comes_the_status_is_ours(tmp_path, sign):
    (tmp_path / "ended.py").write_text(ENDED)
    done = subprocess.run(
        [sys.executable, "-m", "ended", str(int(sign))],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(SAMPLES.parent.parent)},
        # Where the tests run in the background of a shell, it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == 130


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("at", "sign", "word"),
    [
        ("starting", signal.SIGINT, "proof: starting"),
        ("building", signal.SIGTERM, "napping"),
        ("tracing", signal.SIGINT, "napping"),
    ],
)
def test_an_interrupt_leaves_nothing_behind(running, at, sign, word):
    run = running("--json", at=at)
    run.wait_for(word)
    workers, began = run.tree(), time.monotonic()
    run.process.send_signal(sign)
    status, stdout = run.end()
    assert time.monotonic() - began < LONG  # it sleeps longer; test_launcher says how fast
    assert status == 130
    assert_gone(workers, within=LONG)
    error_of(stdout, kind="interrupted")


@pytest.mark.tensorflow
def test_ctrl_c_in_a_terminal_while_stepping(running):
    """It reaches the foreground's process group only, where no worker is; twice, as people do."""
    run = running(at="step", terminal=True)
    run.wait_for("napping")
    workers, began = run.tree(), time.monotonic()
    run.type(b"\x03")
    run.type(b"\x03")
    status, _ = run.end()
    assert time.monotonic() - began < LONG
    assert status == 130
    assert_gone(workers, within=LONG)
    assert "Interrupted" in run.seen
    assert "Traceback" not in run.seen
    assert run.seen.rindex("\x1b[?25h") > run.seen.rindex("\x1b[?25l"), "the cursor is back"


@pytest.mark.tensorflow
def test_a_killed_parent_takes_its_workers_along(running):
    run = running(at="tracing")  # asleep, so it cannot notice by itself
    run.wait_for("napping")
    workers = run.tree()
    run.process.kill()
    assert_gone(workers, within=LONG)
    assert run.end()[0] == -signal.SIGKILL


@pytest.mark.tensorflow
def test_workers_killed_by_others_are_survived_or_named(running):
    """First the one that waits for the proof, then the one that steps."""
    run = running("--json", at="step")
    stepping = int(run.wait_for(r"napping in (\d+)\s")[1])
    workers = [p for p in run.tree() if p.cmdline()[1] == "-u"]  # and not their wardens
    (search,) = (p for p in workers if p.pid == stepping)
    (proof,) = (p for p in workers if p.pid != stepping)
    proof.kill()
    run.wait_for("batch 2: fits")
    search.kill()
    status, stdout = run.end()
    body = json.loads(stdout)
    assert any("SIGKILL" in (trial["why"] or "") for trial in body["trials"])
    if status == 0:
        assert body["limited_by"]["kind"] in ("crash", "maximum")
        assert body["trials"][-1]["proof"]
    else:
        assert status == 6
        assert "SIGKILL" in body["error"]["message"]
