"""The worker's first steps: what it imports, and what it says where that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import autobatch
from autobatch import DeviceError, ModelError, devices, worker
from autobatch.device_lock import DeviceLock
from autobatch.events import Event, Notice, Prepared

TINY = Path(__file__).resolve().parent / "samples" / "tiny.py"


@pytest.mark.parametrize(
    ("variable", "file", "backend", "origin"),
    [
        ("torch", '{"backend": "jax"}', "torch", "the variable KERAS_BACKEND"),
        ("", '{"backend": "jax"}', "jax", "keras.json"),
        (None, '{"backend": "jax"}', "jax", "keras.json"),
        (None, "{}", "tensorflow", "Keras's default"),
        (None, "[1]", "tensorflow", "Keras's default"),
        (None, "{", "tensorflow", "Keras's default"),
        (None, None, "tensorflow", "Keras's default"),
    ],
)
def test_where_the_back_end_is_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str | None,
    file: str | None,
    backend: str,
    origin: str,
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if variable is not None:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    if file is not None:
        (tmp_path / "keras.json").write_text(file)
    found, where = worker._keras_backend()
    assert found == backend
    assert where.endswith(origin)


@pytest.mark.tensorflow
@pytest.mark.parametrize("backend", ["nowhere", "openvino"])
def test_another_back_end_in_keras_json_is_told(
    nothing_left_open: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    """One that Keras does not know, and one that is not installed here."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": backend}))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    with pytest.raises(ModelError, match=f"'{backend}' by .*keras.json.*--backend tensorflow"):
        autobatch.probe(f"{TINY}:build_model", device="cpu", memory_limit="128MiB")


@pytest.mark.tensorflow
def test_the_option_overrides_keras_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "nowhere"}))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    result = autobatch.probe(
        f"{TINY}:build_model", device="cpu", memory_limit="128MiB", maximum=1, backend="tensorflow"
    )
    assert result.batch_size == 1


# -- where there is no GPU -----------------------------------------------------------------------


def test_only_a_missing_gpu_falls_back_to_the_cpu(
    nothing_left_open: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A broken TensorFlow would be as broken there."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise ImportError('libcuda is gone')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(devices, "gpu_may_be_there", lambda: True)
    said: list[Event] = []
    with pytest.raises(DeviceError, match="libcuda is gone"):
        autobatch.probe(f"{TINY}:build_model", memory_limit="128MiB", observer=said.append)
    assert not [event for event in said if isinstance(event, Notice)]


@pytest.mark.tensorflow
def test_without_a_gpu_the_cpu_is_probed_and_the_gpus_lock_let_go(
    nothing_left_open: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(devices, "gpu_may_be_there", lambda: True)
    said: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)
        if isinstance(event, Prepared):  # by then it is free for others
            with DeviceLock(devices.gpu_identity(0), 0, pytest.fail):
                pass

    result = autobatch.probe(
        f"{TINY}:build_model", memory_limit="128MiB", maximum=1, observer=observe
    )
    assert result.device.kind == "cpu"
    (only,) = said
    assert only.startswith("TensorFlow sees no GPU: the CPU is probed instead.")
