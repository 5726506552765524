"""The worker's first steps: what it imports, and what it says where that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import autobatch
from autobatch import ModelError, worker

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
