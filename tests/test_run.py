"""`autobatch run`: the process that trains, what its calls of `fit` get, and the whole command."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from autobatch.cli.run import run as run_command
from autobatch.options import ProbeOptions
from autobatch.run_plan import VARIABLE, Found, RunPlan, describe

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tests" / "samples"
EXAMPLES = ROOT / "scripts" / "examples"
AUTOBATCH = [sys.executable, "-m", "autobatch"]
SMALL = ["--device=cpu", "--memory-limit=256MiB", "--steps=2", "--proof-steps=2"]


# -- the process that trains ---------------------------------------------------------------------


def start(folder: Path, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """The training of script.py in a folder, as the command starts it after its probe."""
    plan = RunPlan(
        script="script.py",
        arguments=arguments,
        found=Found(batch_size=8, base_batch_size=4, optimizers=("optimizer",)),
        device="cpu",
        options=ProbeOptions(),
    )
    boot = (
        "import msgspec, sys; from autobatch.run_main import become; "
        "from autobatch.run_plan import RunPlan; "
        "become(msgspec.json.decode(sys.argv[1], type=RunPlan))"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "-c", boot, msgspec.json.encode(plan).decode()],
        **{**pipes, "text": True, "cwd": folder, **settings},
    )


def plainly(folder: Path, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """The same, by Python alone."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        **{**pipes, "text": True, "cwd": folder, **settings},
    )


def end(process: subprocess.Popen[str], stdin: str = "") -> tuple[int, str, str]:
    stdout, stderr = process.communicate(stdin, timeout=60)
    return process.returncode, stdout, stderr


SURROUNDINGS = f"""
import os, sys, __main__
import neighbour
print(sys.argv, __name__, __file__, __spec__, __cached__, sys.path[0], os.getcwd())
print(type(__loader__).__name__, sorted(n for n in vars(__main__) if n.startswith("__")))
print(sys.modules["__main__"] is __main__, sys.stdin.read(), {VARIABLE!r} in os.environ)
print([m for m in ("tensorflow", "keras", "numpy", "click", "rich") if m in sys.modules])
print("to stderr", file=sys.stderr)
"""
ENDINGS = {
    "its end": "",
    "a number": "import sys; sys.exit(7)",
    "a text": "import sys; sys.exit('sorry')",
    "an error": "def fail():\n    raise ValueError('no')\nfail()",
    "a chain": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e",
    "a syntax error at run time": "exec('1 +')",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "Ctrl-C": "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
    "an exit handler": "import atexit; atexit.register(print, 'bye'); print('hello')",
    "threads": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.3), print('late', __name__))).start()",
    "a pool": "import multiprocessing as m\n"
    "def f(x):\n    return x + 1\n"
    "if __name__ == '__main__':\n    print(m.get_context('spawn').Pool(1).map(f, [1]))",
}


def test_the_script_finds_itself_as_it_always_does(tmp_path):
    (tmp_path / "script.py").write_text(SURROUNDINGS)
    (tmp_path / "neighbour.py").write_text("")
    ours = end(start(tmp_path, "--a", "b c"), "typed")
    assert ours == end(plainly(tmp_path, "--a", "b c"), "typed")
    assert ours[0] == 0
    assert "typed" in ours[1]


@pytest.mark.parametrize("name", ENDINGS)
def test_the_script_ends_as_it_always_does(tmp_path, name):
    (tmp_path / "script.py").write_text(ENDINGS[name])
    status, stdout, stderr = end(start(tmp_path))
    assert (status, stdout) == end(plainly(tmp_path))[:2]
    assert stderr == end(plainly(tmp_path))[2]
    assert "autobatch" not in stderr


def test_signals_reach_the_script_itself(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, signal, sys, time\n"
        "def heard(*_):\n    print('heard'); sys.exit(5)\n"
        "signal.signal(signal.SIGUSR1, heard)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    process = start(tmp_path)
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid, "there is no process in between"
    process.send_signal(signal.SIGUSR1)
    assert end(process)[:2] == (5, "heard\n")


def sizes(batch_size, base_batch_size, *buckets):
    return Found(
        batch_size=batch_size,
        base_batch_size=base_batch_size,
        optimizers=(),
        bucket_batch_sizes=buckets,
        max_length=60,
    )


def test_what_is_said_fits_what_was_done():
    line = describe(sizes(259, 64), [(0.002, 0.001, "sqrt")])
    assert line == (
        "fit trains with batch size 259 instead of 64, learning rate 0.002 instead of 0.001 "
        "(sqrt rule)"
    )
    assert describe(sizes(64, 64)) == "fit keeps its batch size, 64: it is the largest that is safe"
    line = describe(sizes(9, 8), [(0.1, 0.1, "none")])
    assert line == "fit trains with batch size 9 instead of 8"
    assert describe(sizes(40, 24, 90, 30), would=True) == (
        "fit would train with the batch sizes 90, 30 in its buckets, 40 samples a step on average "
        "instead of 24; a sample longer than 60 would end it with an error"
    )


def test_the_readme_says_what_there_is():
    text = (ROOT / "README.md").read_text()
    section = text.split("## Train with it at once")[1].split("\n## ")[0]
    assert f"autobatch: {describe(sizes(259, 64), [(0.00201, 0.001, 'sqrt')])}." in section
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section, re.S) for line in
             block.splitlines()]  # fmt: skip
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["autobatch", "run"]
        context = run_command.make_context("run", words[2:])
        assert context.params["script"] == "train.py"
        assert context.params["arguments"] == ("--epochs", "10")
    for flag in set(re.findall(r"`(--[a-z-]+)`", section)):
        assert any(flag in option.opts for option in run_command.params), flag


# -- the command before anything starts ----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny.py:build_model"], "takes a training script"),
        (["model.keras"], "takes a training script"),
        (["nowhere.py"], "nowhere.py does not exist"),
        (["tiny.py", "--precision", "2"], "(--precision) must be a share"),
        ([], "SCRIPT"),
    ],
)
def test_wrong_usage(arguments, words):
    ran = subprocess.run(
        [*AUTOBATCH, "run", *arguments], cwd=SAMPLES, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert words in " ".join(ran.stderr.split())


# -- what calls of fit get -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What `run_cases.py` saw."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "run_cases.py")],
        capture_output=True,
        text=True,
        timeout=550,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return dict(json.loads(ran.stdout))


FIRST = "fit trains with batch size 8 instead of 2, learning rate 0.4 instead of 0.1 (linear rule)"
RATE = pytest.approx(0.4)
# Steps taken and the rate afterwards, of each call of fit: 16 rows in batches of 8 are 2 steps.
EXPECTED = {
    # the same model and another of its kind are not probed again, nor is a rate scaled twice
    "models": [
        [[2, RATE], [2, RATE], [2, RATE], [1, RATE]],
        [4],
        [
            FIRST,
            "call 4 of fit trains another model, which is probed now",
            "call 4 of fit trains with batch size 16 instead of 4, learning rate 0.4 instead of "
            "0.1 (linear rule)",
        ],
    ],
    # fine-tuning takes more memory: another size, and the new optimizer's own rate
    "unfrozen": [[[2, RATE], [4, pytest.approx(0.02)], [4, pytest.approx(0.02)]], [2]],
    "gpu": [
        [[2, RATE], [4, pytest.approx(0.1)], [4, pytest.approx(0.1)]],
        [],
        [
            FIRST,
            "call 2 of fit trains another model and is left as it is: this process holds the GPU. "
            "autobatch probe train.py --fit 2 sizes it",
        ],
    ],
    "died": [
        [[2, RATE], [4, pytest.approx(0.1)]],
        [
            FIRST,
            "call 2 of fit trains another model, which is probed now",
            "call 2 of fit is left as it is: It died",
        ],
    ],
    "second call": [[[8, pytest.approx(0.1)], [2, RATE]], [], [FIRST]],
    "inner fit": [[[8, pytest.approx(0.1)], [2, RATE]], []],
    "lazy": [[[2, RATE], [2, RATE]], []],
    "size only": [[[2, pytest.approx(0.1)]], ["fit trains with batch size 8 instead of 2"]],
    "rule": [
        [[2, pytest.approx(0.2)]],
        [FIRST.replace("0.4", "0.2").replace("linear", "sqrt")],
    ],
    "resumed": [
        [[2, pytest.approx(0.1)]],
        [
            "fit trains with batch size 8 instead of 2; the optimizer was loaded and has trained "
            "before: its rate is left as it is"
        ],
    ],
    "the same one before": [[8, pytest.approx(0.1)], [2, RATE]],
    "schedule": [0.4, 25, [FIRST.replace("rate 0.4", "rate schedule from 0.4")]],
    "own schedule": [pytest.approx(0.04), pytest.approx(0.2)],
    "scheduler": [
        [[2, 0.5]],
        [f"{FIRST}; the script's LearningRateScheduler sets the rate from here on"],
    ],
    "nothing to change": [
        [[2, pytest.approx(0.1)]],
        ["fit keeps its batch size, 8: it is the largest that is safe"],
    ],
    "mixed precision": [[2, RATE]],
    "padded to their own length": [[8, 8], [8, 16], [1, 17]],
    "unequal": "its batches may be of unequal shapes, padded or grouped by length",
    "merged": [[[6, 2], [3, 1]], [[24, 8], [24, 8], [3, 1]]],
    "merged and taken": "the parts of its batches have different numbers of rows",
    "zipped": [[8, 4], [8, 4], [1, 4]],
    "larger validation": True,
    "proven validation": [8, 16],
    # as many samples a step as before: 9 batches of 2 are 3 of 8, 5 of 2 are 2 of 8
    "steps": [3, 2, [list(range(8))]],
    "trained on datasets": [[2, RATE], [2, RATE]],
    "trained on a PyDataset": [[2, RATE]],
    "trained on a generator": [[2, RATE]],
}
WHOLE = [list(range(8)), list(range(8, 16)), [16]]


@pytest.mark.tensorflow
@pytest.mark.parametrize("case", EXPECTED)
def test_calls_of_fit(seen, case):
    assert seen[case] == EXPECTED[case]


@pytest.mark.tensorflow
def test_data_of_every_kind_keeps_its_rows_and_their_order(seen):
    datasets = seen["datasets"]
    for name in ("batched", "prefetched", "parallel", "mapped behind", "padded"):
        assert datasets[name] == [WHOLE, 3], name
    for name in ("dropped", "dropped, mapped behind"):
        assert datasets[name] == [WHOLE[:2], 2], name
    assert datasets["taken"][0] == WHOLE[:2]
    assert seen["PyDataset"] == WHOLE
    assert seen["generator"] == WHOLE


# -- the whole command ---------------------------------------------------------------------------


def run(script: str, *arguments: str, cwd: Path = SAMPLES) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AUTOBATCH, "run", script, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=550,
    )


def said(stderr: str) -> list[str]:
    """The lines that are ours, among TensorFlow's."""
    return re.findall(r"^autobatch: (.*)$", stderr, re.MULTILINE)


@pytest.mark.tensorflow
def test_a_script_with_two_models():
    ran = run("trains_two.py", *SMALL, "--max=16", "--", "--data", "big")
    assert ran.returncode == 7, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[:2] == ["iterations 4 --data big"] * 2
    assert lines[2] == "iterations 8 --data big"  # 4 more of the second model
    rates = [float(word) for word in lines[3].split()[1:]]
    assert rates == pytest.approx([0.04, 0.02])  # of 4 and of 8 to 16, once each
    assert lines[4] == "evaluated 1"
    told = said(ran.stderr)
    assert len(told) == 3, told
    assert told[0].startswith("fit trains with batch size 16 instead of 4, learning rate 0.04")
    assert told[1] == "call 2 of fit trains another model, which is probed now."
    assert told[2].startswith("call 2 of fit trains with batch size 16 instead of 8")


@pytest.mark.tensorflow
def test_a_dry_run_only_says():
    ran = run("trains_two.py", *SMALL, "--max=16", "--dry-run", "--batch-size-only")
    assert ran.returncode == 0
    assert ran.stdout == ""
    assert said(ran.stderr) == ["fit would train with batch size 16 instead of 4."]
    assert ran.stderr.count("\n") == 1


@pytest.mark.tensorflow
def test_a_probe_that_fails_runs_nothing():
    ran = run("exits_before_fit.py", *SMALL)
    assert ran.returncode == 4
    assert "ended by sys.exit" in " ".join(ran.stderr.split())


@pytest.mark.tensorflow
def test_a_script_that_never_calls_fit_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text("import keras\nprint(keras.Model.fit.__name__)")
    status, stdout, stderr = end(start(tmp_path))
    assert (status, stdout) == (0, "fit\n")
    assert said(stderr) == ["the script did not call model.fit, so nothing was changed."]


# Two runs of one script differ in the last bit unless TensorFlow's operations are deterministic.
SEEDED = """import keras
import tensorflow

keras.utils.set_random_seed(7)
tensorflow.config.experimental.enable_op_determinism()
"""
REPORTS = """
    import json

    history = MODEL.fit(DATA, epochs=2, verbose=0, validation_data=VALIDATION)
    weights = [float(abs(weight).sum()) for weight in MODEL.get_weights()]
    rate = float(MODEL.optimizer.learning_rate)
    print(json.dumps([history.history, weights, rate, int(MODEL.optimizer.iterations)]))
"""


def small_copy(example: str, folder: Path, *, samples: int = 160) -> Path:
    """The tutorial script, seeded and small, printing what it did."""
    source = (EXAMPLES / f"{example}.py").read_text()
    source = source.replace("import keras", SEEDED, 1)
    source = re.sub(r"SAMPLES = \d+", f"SAMPLES = {samples}", source)
    source = source.replace("LENGTH = 500", "LENGTH = 20")
    before, fit = source.split('if __name__ == "__main__":\n')
    assert "build_dataset().shuffle(SAMPLES).batch(64), epochs=1" in fit
    report = REPORTS.replace("DATA", "build_dataset().shuffle(SAMPLES).batch(64)", 1)
    report = report.replace("VALIDATION", "build_dataset().batch(64)").replace("MODEL", "model")
    path = folder / "train.py"
    path.write_text(f'{before}if __name__ == "__main__":\n    model = build_model()\n{report}')
    return path


def by_hand(script: Path, batch_size: int) -> None:
    """Edit the copy as one would by hand: the batch size, and the rate that goes with it."""
    rate = 0.001 * (batch_size / 64) ** 0.5
    source = script.read_text().replace(".batch(64)", f".batch({batch_size})")
    source = source.replace('optimizer="adam"', f"optimizer=keras.optimizers.Adam({rate!r})")
    assert source.count(f".batch({batch_size})") == 2
    assert "Adam(" in source
    script.write_text(source)


@pytest.mark.tensorflow
@pytest.mark.parametrize("example", ["cifar10_cnn", "imdb_lstm"])
def test_the_training_equals_that_of_a_copy_edited_by_hand(tmp_path, example):
    script = small_copy(example, tmp_path)
    ran = run("train.py", *SMALL, "--min=96", "--max=96", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    rate = 0.001 * (96 / 64) ** 0.5
    assert said(ran.stderr) == [
        f"fit trains with batch size 96 instead of 64, learning rate {rate:.6g} instead of 0.001 "
        "(sqrt rule)."
    ]
    by_hand(script, 96)
    edited = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert edited.returncode == 0, edited.stderr
    ours, theirs = json.loads(ran.stdout), json.loads(edited.stdout)
    assert ours == theirs  # losses, metrics, weights, rate and steps: to the last bit
    assert ours[3] == 4  # steps: 160 samples in batches of 96, twice
