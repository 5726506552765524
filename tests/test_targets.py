"""TARGET in each of its forms: what a worker loads for it, and what is said where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autobatch import devices, protocol, targets
from autobatch.errors import ModelError, UsageError
from autobatch.launcher import Launcher
from autobatch.units import MIB

SAMPLES = Path(__file__).resolve().parent / "samples"
LAYER = "keras.layers.Dense(1)"


def load(
    target: object,
    *arguments: str,
    environment: dict[str, str] | None = None,
    run_as: str = "auto",
    safe_mode: bool = True,
) -> protocol.Prepared | protocol.Failed:
    """What a worker of its own answers when it is to load the target."""
    device = devices.DeviceChoice("cpu", (), 128 * MIB, 128 * MIB)
    with Launcher(lambda name, text: None) as launcher:
        worker = launcher.start(
            "search", {**os.environ, **device.environment(proof=False), **(environment or {})}
        )
        found = targets.resolve(target, arguments, run_as=run_as)
        request = device.request(proof=False)
        worker.send(protocol.Prepare(target=found, device=request, safe_mode=safe_mode))
        while True:
            message = launcher.receive(worker, time.monotonic() + 120)
            if not isinstance(message, (protocol.Stage, protocol.Imported)):
                return message


# -- what needs no TensorFlow ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "kind", "name"),
    [
        (f"{SAMPLES}/tiny.py:build_model", "factory", "build_model"),
        (f"{SAMPLES}/tiny.py", "script", None),
    ],
)
def test_a_file_is_known_by_its_path(target, kind, name):
    found = targets.resolve(target, ("--epochs", "1"))
    assert (found.kind, found.name, found.path) == (kind, name, f"{SAMPLES}/tiny.py")
    assert found.arguments == ("--epochs", "1")


def test_a_relative_path_and_a_path_object_serve(monkeypatch):
    monkeypatch.chdir(SAMPLES)
    assert targets.resolve("tiny.py").path == f"{SAMPLES}/tiny.py"
    assert targets.resolve(SAMPLES / "tiny.py").path == f"{SAMPLES}/tiny.py"
    assert targets.resolve("tiny.py", run_as="module").kind == "module"


def test_a_module_needs_no_file():
    found = targets.resolve("package.module:factory")
    assert (found.kind, found.module, found.name) == ("factory", "package.module", "factory")


def test_a_colon_may_be_part_of_a_files_name(tmp_path):
    (tmp_path / "12:30.py").write_text("x = 1\n")
    assert targets.resolve(str(tmp_path / "12:30.py")).path == str(tmp_path / "12:30.py")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.csv", b"1,2,3\n", "not a Python file"),
        ("model.h5", b"\x89HDF\r\n", "model.save('model.keras')"),
        ("notes.ipynb", b"{}", "nbconvert"),
        ("zeros.py", b"\0\0\0", "null bytes"),
        ("latin.py", b"x = '\xe9\xff'\n", "not a Python file"),
        ("unknown", b"\x7fELF garbage", "not a Python file"),
    ],
)
def test_a_file_that_is_no_python_is_wrong_usage(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"expected|Call|anew") as caught:
        targets.resolve(str(tmp_path / name))
    assert said in caught.value.message
    assert name in caught.value.message


def test_a_saved_model_of_tensorflows_own_is_told_how_to_become_a_keras_file(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UsageError, match=r"SavedModel.*model\.save\('model\.keras'\)"):
        targets.resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("missing.py", "missing.py does not exist"),
        ("missing.py:build_model", "missing.py does not exist"),
        ("missing.keras", "missing.keras does not exist"),
        ("model.keras:build", "does not exist"),
        (".", "is a directory"),
        ("", "incomplete"),
        ("tiny.py:", "incomplete"),
        (":build_model", "incomplete"),
        ("package.module", "package.module:build_model"),
        ("not a target:at all", "TARGET is a Python file"),
        ("\udcff.py", "not valid UTF-8"),
    ],
)
def test_what_is_no_target_is_wrong_usage(monkeypatch, target, said):
    monkeypatch.chdir(SAMPLES)
    with pytest.raises(UsageError) as caught:
        targets.resolve(target)
    assert said in caught.value.message


def test_a_function_in_a_saved_model_is_wrong_usage(tmp_path):
    (tmp_path / "model.keras").touch()
    with pytest.raises(UsageError, match="leave out what follows the colon"):
        targets.resolve(f"{tmp_path}/model.keras:build")


def test_a_syntax_error_is_shown_with_its_line(tmp_path):
    (tmp_path / "train.py").write_text("import keras\nmodel = = 3\n")
    with pytest.raises(
        ModelError, match=r"train\.py, line 2: invalid syntax\. Correct it"
    ) as caught:
        targets.resolve(str(tmp_path / "train.py"))
    assert caught.value.details == "model = = 3"


def test_a_file_that_python_only_warns_about_is_taken_quietly(tmp_path):
    # Warnings are errors in these tests.
    (tmp_path / "train.py").write_text("pattern = '\\d'\nimport os\nos.environ['TF_X'] = '1'\n")
    found = targets.resolve(str(tmp_path / "train.py"))
    assert targets.literal_environment(found) == {"TF_X": "1"}


def test_only_a_callable_can_be_handed_over():
    with pytest.raises(UsageError, match="received int"):
        targets.resolve(42)


def test_a_function_that_cannot_be_sent_names_the_alternatives():
    import threading

    lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot pickle.*autobatch\.probe\('model\.py:build"):
        targets.resolve(lambda: lock)


def test_a_legacy_live_model_is_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(SAMPLES / "legacy"))
    import tf_keras

    model = tf_keras.Model()
    tf_keras.Model.__call__ = lambda self: None
    with pytest.raises(ModelError, match="legacy tf_keras"):
        targets.resolve(model)


# -- what a worker makes of it -------------------------------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "target",
    ["tiny.py:build_model", "tiny.py", "only_model.py", "only_model.py:regressor"],
)
def test_a_file_gives_its_model(target):
    found = load(f"{SAMPLES}/{target}")
    assert isinstance(found, protocol.Prepared), found
    assert found.model.endswith("9 parameters")
    assert [each.class_name for each in found.optimizers]


@pytest.mark.tensorflow
def test_a_module_in_the_working_directory_gives_its_model(monkeypatch, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "__init__.py").touch()
    text = (SAMPLES / "tiny.py").read_text()
    (tmp_path / "project" / "models.py").write_text(text.replace("build_model", "factory"))
    monkeypatch.chdir(tmp_path)
    found = load("project.models:factory")
    assert isinstance(found, protocol.Prepared), found
    assert found.model.endswith("9 parameters")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("target", "candidates"),
    [("candidates.py", "build_model, get_model"), ("two_models.py", "student, teacher")],
)
def test_ambiguity_lists_the_candidates(target, candidates):
    found = load(f"{SAMPLES}/{target}")
    assert isinstance(found, protocol.Failed)
    assert found.ours
    assert f"more than one model: {candidates}. Say which: autobatch probe" in found.message


@pytest.mark.tensorflow
def test_a_script_sees_what_it_would_see_if_it_were_run(tmp_path):
    script = SAMPLES / "neighbours" / "train.py"
    arguments = ["--data", "big one", "--", "-x"]
    seen = []
    for name in ("run", "probed"):
        place = tmp_path / name
        environment = {"TEST_SEEN": str(place), "TEST_OWN": "mine"}
        if name == "run":
            command = [sys.executable, str(script), *arguments]
            subprocess.run(
                command, env={**os.environ, **environment}, check=True, capture_output=True
            )
        else:
            found = load(str(script), *arguments, environment=environment)
            assert isinstance(found, protocol.Prepared), found
            assert found.script_batch_size == 32
        seen.append(json.loads(place.read_text()))
    assert seen[0]["name"] == "__main__"
    assert seen[0]["arguments"] == arguments
    assert seen[1] == seen[0]


SAVED = f"""
import sys, keras
def save(name, *layers):
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile("sgd", "mse")
    model.save(name)
save(sys.argv[1], {LAYER})
save(sys.argv[2], keras.layers.Lambda(lambda x: 2 * x), {LAYER})
"""


@pytest.mark.tensorflow
def test_a_saved_model_is_loaded_and_code_in_it_refused_unless_allowed(tmp_path):
    plain, code, damaged = (str(tmp_path / f"{n}.keras") for n in ("plain", "code", "damaged"))
    command = [sys.executable, "-c", SAVED, plain, code]
    subprocess.run(command, check=True, capture_output=True)
    Path(damaged).write_bytes(Path(plain).read_bytes()[:200])
    loaded = load(plain)
    assert isinstance(loaded, protocol.Prepared)
    assert loaded.optimizers[0].class_name == "SGD"
    refused = load(code)
    assert isinstance(refused, protocol.Failed)
    assert refused.ours
    assert "Lambda layer" in refused.message
    assert "--no-safe-mode" in refused.message
    assert isinstance(load(code, safe_mode=False), protocol.Prepared)
    broken = load(damaged)
    assert isinstance(broken, protocol.Failed)
    assert "damaged.keras" in broken.message


@pytest.mark.tensorflow
def test_a_notebooks_models_and_lambdas_are_probed():
    """A live model with a layer, an activation and a loss of its own; a lambda over a closure."""
    command = [sys.executable, "live_model.py"]
    done = subprocess.run(command, cwd=SAMPLES, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["live 4 fresh_process", "lambda 4 fresh_process"]


@pytest.mark.tensorflow
def test_a_function_of_a_neighbouring_module_is_found_again(tmp_path, monkeypatch):
    """It is pickled by its module's name, which the worker must be able to import."""
    function, body = "def build_model():\n", "    import keras\n    return keras.Sequential("
    text = f"{function}{body}[keras.Input((8,)), {LAYER}])\n"
    (tmp_path / "my_models.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_models

    found = load(my_models.build_model)
    assert isinstance(found, protocol.Prepared), found


@pytest.mark.tensorflow
def test_a_live_model_that_cannot_be_sent_names_the_alternatives():
    command = [sys.executable, "stubborn_model.py"]
    done = subprocess.run(command, cwd=SAMPLES, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    uncompiled, locked, unbuilt, function, number = done.stdout.splitlines()
    assert uncompiled.startswith("usage: The model")
    assert "not compiled; call its compile()" in uncompiled
    assert locked.startswith("model: The model 'sequential' cannot be sent")
    assert "autobatch.probe('model.py:build_model')" in locked
    assert "keras.Input" in unbuilt
    assert "cannot pickle" in function
    assert number.endswith("received int.")
