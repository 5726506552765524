"""Training scripts as people have them, run unmodified from the command line to a proven size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "scripts"))
from manifest import SCRIPTS, Script

pytestmark = pytest.mark.tensorflow
HERE = Path(__file__).parent
MAXIMUM = 16  # at least the size of every script that has its own baked in
FAST = ("--memory-limit", "256MiB", "--max", str(MAXIMUM), "--proof-steps", "2", "--steps", "2")


def probe(script: Path, *options: str, arguments: tuple[str, ...] = ()) -> tuple[int, Any]:
    """Exit code and JSON of `autobatch probe`."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "autobatch", "probe", script, "--json", "--quiet"),
            *(*FAST, *options, "--", *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=550,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_each_script_is_probed_to_a_proven_size(script: Script) -> None:
    options: tuple[str, ...] = ("--fit", str(script.fit))
    path = HERE / "scripts" / script.name
    if script.expect == "backend":
        code, answer = probe(path, *options, arguments=script.arguments)
        assert code == 4
        assert answer["error"]["kind"] == "model"
        assert "'jax'" in answer["error"]["message"]
        assert "--backend tensorflow" in answer["error"]["message"]
        assert script.overrides_expect == "found"
        options += ("--backend", "tensorflow")
    code, answer = probe(path, *options, arguments=script.arguments)
    assert code == 0, answer
    (check_buckets if "bucketed" in script.traits else check)(script, answer)


def check_buckets(script: Script, answer: dict[str, Any]) -> None:
    """Hold the answer for a script with buckets of its own against what is known of it."""
    assert answer["kind"] == "buckets"
    sizes = [bucket["batch_size"] for bucket in answer["buckets"]]
    assert sizes == [MAXIMUM] * (len(answer["boundaries"]) + 1)
    assert {bucket["limited_by"]["kind"] for bucket in answer["buckets"]} == {"maximum"}
    proofs = [trial for trial in answer["trials"] if trial.get("proof")]
    ends = [bucket["longest"] for bucket in answer["buckets"]]
    assert [trial["sequence_length"] for trial in proofs] == ends
    assert answer["base_batch_size"] == script.base_batch_size
    assert sum(bucket["samples"] for bucket in answer["buckets"]) == script.samples
    assert {each["rule"] for each in answer["learning_rates"]} == {script.rule}
    assert "unequal shapes" not in " ".join(answer["warnings"])


def check(script: Script, answer: dict[str, Any]) -> None:
    """Hold an answer against what is known of the script."""
    fixed = script.expect == "fixed_batch"
    size = script.base_batch_size if fixed else MAXIMUM
    assert answer["batch_size"] == size
    assert answer["limited_by"]["kind"] == ("model_error" if fixed else "maximum")
    assert not fixed or "baked into" in answer["limited_by"]["evidence"]

    assert answer["proof"]["kind"] == "fresh_process"
    proof = answer["trials"][-1]
    assert (proof["proof"], proof["batch_size"], proof["outcome"]) == (True, size, "fits")
    expected = {"fits", "failed"} if fixed else {"fits"}
    assert {trial["outcome"] for trial in answer["trials"]} <= expected

    assert answer["base_batch_size"] == script.base_batch_size
    if script.samples is not None:
        samples = int(script.samples * (1 - script.validation_split))
        assert answer["steps_per_epoch"] == -(-samples // size)
    assert tuple(each["optimizer"] for each in answer["learning_rates"]) == script.optimizers
    assert {each["rule"] for each in answer["learning_rates"]} == {script.rule}

    traits = set(script.traits)
    validates = any(trait.startswith("validation_") for trait in traits)
    assert not validates or answer["proof"]["validation_steps"] >= 1
    said = " ".join(answer["warnings"])
    assert ("unequal shapes" in said) == ("unequal_shapes" in traits)
    assert ("batches of different sizes" in said) == ("zipped_sizes" in traits)
    assert ("a-package-that-nobody-has" in said) == ("notebook" in traits)
    assert ("float64" in said) == (script.name == "cifar10_tutorial.py")  # the others' is small


# What a script does besides: each writes to `log` what is looked at afterwards.

TOP = """
import os, sys
log = open(sys.argv[1], "a")
def note(*words):
    print(*words, file=log, flush=True)
"""
MODEL = """
import keras
import numpy as np
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
x, y = np.zeros((64, 4), "float32"), np.zeros((64, 1), "float32")
"""
LOOP = """
import tensorflow as tf
optimizer = keras.optimizers.SGD()
with tf.GradientTape() as tape:
    loss = tf.reduce_mean((model(x) - y) ** 2)
weights = model.trainable_variables
optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Probes a script made of some text; returns the exit code, the answer and its log."""

    def probe_text(text: str, *options: str) -> tuple[int, Any, list[str]]:
        script, log = tmp_path / "train.py", tmp_path / "log"
        script.write_text(TOP + text)
        code, answer = probe(script, *options, arguments=(str(log),))
        return code, answer, log.read_text().splitlines()

    return probe_text


def test_what_is_before_fit_runs_once_a_worker_and_nothing_after_it(run: Any) -> None:
    text = """
import atexit, tempfile
note("before")
atexit.register(note, "exit")
os.chdir("/")
scratch = tempfile.TemporaryDirectory()
note("folder", scratch.name)
try:
    with tempfile.TemporaryDirectory() as folder:
        note("folder", folder)
        model.fit(x, y, 8)
        note("after")
except BaseException:
    note("except")
finally:
    note("finally")
"""
    code, answer, log = run(MODEL + text)
    assert code == 0, answer
    assert answer["batch_size"] == MAXIMUM
    assert [line for line in log if "folder" not in line] == ["before"] * 2  # search, and proof
    folders = [line.split()[1] for line in log if "folder" in line]
    assert len(folders) == 4
    assert not any(map(os.path.exists, folders))


def test_earlier_fits_are_cut_to_one_step(run: Any) -> None:
    text = """
class Never(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        note("callback")  # would write a checkpoint
history = model.fit(x, y, epochs=9, validation_split=0.5, callbacks=[Never()])
note(int(model.optimizer.iterations), len(history.history["val_loss"]))
model.fit(x, y, 4, initial_epoch=history.epoch[-1], epochs=20)
note("after")
"""
    code, answer, log = run(MODEL + text, "--fit", "2")
    assert code == 0, answer
    assert log == ["1 1", "1 1"]
    assert answer["base_batch_size"] == 4


def test_a_fit_that_the_script_has_not_is_a_wrong_argument(run: Any) -> None:
    code, answer, _ = run(MODEL + "model.fit(x, y)\n", "--fit", "3")
    assert code == 2
    assert "calls fit 1 times" in answer["error"]["message"]


def test_a_script_that_runs_only_once_is_told_so(run: Any) -> None:
    code, answer, _ = run(f"os.mkdir(sys.argv[1] + '.d')\n{MODEL}model.fit(x, y)\n")
    assert code == 4
    assert "FileExistsError" in answer["error"]["message"]
    assert "has to be repeatable" in answer["error"]["message"]


def test_workers_start_again_with_the_variables_that_a_script_sets(run: Any) -> None:
    text = """
note(os.environ.get("TF_TWO_SAID"), os.environ.get("TF_COMPUTED"), os.environ.get("XLA_FLAGS"))
os.environ["TF_TWO_SAID"] = "plainly"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_COMPUTED"] = str(1 + 1)
os.environ.setdefault("XLA_FLAGS", " ".join(["--xla_dump_max_hlo_modules=3"]))
"""
    code, answer, log = run(text + MODEL + "model.fit(x, y)\n")
    assert code == 0, answer
    # What is said plainly is seen beforehand; what is computed costs one start.
    seen = "plainly 2 --xla_dump_max_hlo_modules=3"
    assert log == ["plainly None None", seen, seen]


def test_a_back_end_that_is_chosen_at_run_time_is_refused(run: Any) -> None:
    code, answer, log = run(
        'note("run")\nos.environ["KERAS_BACKEND"] = "".join(["j", "ax"])\n'
        + MODEL
        + "model.fit(x, y)\n"
    )
    assert code == 4
    assert "--backend tensorflow" in answer["error"]["message"]
    assert log == ["run"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("for _ in range(9):\n    model.train_on_batch(x, y)\n", "around train_on_batch"),
        ("models = [model]\ndel model\n", "ran to its end without model.fit"),
        (f"{LOOP}models = [model]\ndel model\n", "trains in a loop of its own"),
        ("sys.exit('no data')\n", "sys.exit('no data')"),
        ("model.fit((n for n in range(0)))\n", "gives no batch at all"),
        ("model.fit(object())\n", "training data of type object"),
    ],
    ids=["train_on_batch", "no fit", "own loop", "exit before fit", "no data", "odd data"],
)
def test_what_cannot_be_probed_is_refused_in_a_paragraph(run: Any, text: str, said: str) -> None:
    code, answer, log = run(MODEL + 'note("before")\n' + text + 'note("after")\n')
    assert code == 4
    assert answer["error"]["kind"] == "model"
    assert said in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]
    assert log[0] == "before"
    assert ("after" in log) == ("del model" in text)


# The engine's pieces, looked at in one process: tests/script_cases.py


@pytest.fixture(scope="module")
def seen() -> Any:
    done = subprocess.run(
        [sys.executable, HERE / "script_cases.py"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_dataset_tells_its_batch_size_its_samples_and_its_fixed_size(seen: Any) -> None:
    assert seen["chains"] == {
        "plain": [4, 10, None],
        "mapped": [4, 10, None],
        "dropped": [4, 10, 4],
        "repeated_outside": [4, 10, None],
        "repeated_inside": [4, 10, None],
        "twice": [4, 24, None],
        "taken": [4, 4, None],
        "skipped": [4, 8, None],
        "filtered": [4, None, None],
        "zipped": [4, 12, None],
        "generated": [4, None, None],
        "parallel": [4, 10, None],
        "padded": [4, 10, None],
    }


def test_unequal_shapes_are_probed_at_the_longest(seen: Any) -> None:
    shapes, samples, (warning,) = seen["bucketed"]
    assert shapes == [[5, 9]] * 3
    assert samples == 6
    assert "unequal shapes" in warning
    assert "shape: 9" in warning
    assert seen["bucketed_model_of_one_length"] == [True, []]
    assert seen["endless"] == [True, True, None]  # looked through once, not for as long as may be
    samples, shapes, (warning,) = seen["py_dataset_bucketed"]
    assert (samples, shapes) == (10, [[5, 7]] * 3)
    assert "unequal shapes" in warning
    lengths, (warning,) = seen["ragged"]
    assert lengths == [4, 3, 4]  # the longest batch, again and again
    assert "ragged" in warning


def test_parts_with_different_numbers_of_rows_keep_their_proportion(seen: Any) -> None:
    size, samples, sizes, (warning,) = seen["zipped"]
    assert (size, samples) == (4, 12)
    assert sizes == [[6, 3]] * 4
    assert "(4, 2)" in warning
    # a batch's graphs merged into one: the first trial finds out that it cannot be cut anew
    assert seen["merged"] == [4, 2, [[18, 6]] * 4]


def test_views_of_a_sample_are_no_samples(seen: Any) -> None:
    size, shapes, rows, (warning,) = seen["views"]
    assert (size, shapes) == (5, [[2, 7, 3], [7]])
    assert rows == [[[0, 1], [0, 1]], [2, 2, 2, 2, 2, 0, 0]]  # the source begins anew
    assert "2 views of 5 samples" in warning


def test_batches_from_python_are_cut_anew_and_never_run_dry(seen: Any) -> None:
    assert seen["py_dataset"] == [4, 10, [[5, 3]] * 4]
    assert seen["py_dataset_endless"] == [4, None, [[6, 1]] * 3]
    assert seen["generator"] == [4, None, [[5, 2]] * 9, {"0": 1.0}]
    assert seen["generator_rows"] == list(range(6))


def test_float64_is_said_with_its_cost_and_the_way_out(seen: Any) -> None:
    samples, device_bytes, (warning,) = seen["float64"]
    assert samples == 1890
    assert device_bytes == 2100 * 1000 * 4 + 2100  # Keras casts it to float32
    assert "16.0 MiB of float64" in warning
    assert "8.0 MiB" in warning
    assert "astype('float32')" in warning
    assert "read" in warning
    assert seen["float32"] == [[]]
    (warning,) = seen["float64_slices"]
    assert "from_tensor_slices" in warning
    assert "astype('float32')" in warning


def test_validation_follows_the_script(seen: Any) -> None:
    assert seen["validation_of_a_split"] == {"validation_batch_size": 128, "validation_steps": 2}
    assert seen["no_targets"] is None
    # A model with a training step of its own, and no validation: there is nothing to validate.
    assert seen["training_step_alone"] == [32, {}]


def test_the_script_s_own_batch_size_is_read_as_keras_reads_it(seen: Any) -> None:
    assert seen["steps_per_epoch"] == [8, 48, 8]  # ceil(64 * 0.75 / 6); 8 is baked in, too
    assert seen["earlier_fit"] == [[32], [3]]  # one step of it, in the epoch asked for


def test_optimizers_that_no_step_applies_are_left_out(seen: Any) -> None:
    held, applied = seen["optimizers"]
    assert held == ["optimizer", "d_optimizer", "others['g']"]
    assert applied == ["d_optimizer"]


def test_the_devices_stay_as_they_were_set_up(seen: Any) -> None:
    assert seen["gpu_settings"] == [None] * 4


def test_an_error_of_keras_says_in_its_first_line_what_happened(seen: Any) -> None:
    assert seen["keras_error"].startswith("Exception encountered when calling Lambda.call(): {{")
    assert "requested shape has 7" in seen["keras_error"]
    assert "Graph execution error: indices = 7 is not in [0, 3)" in seen["graph_error"]
