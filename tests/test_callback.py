"""The callback in real calls of `fit`, each group in a TensorFlow process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).resolve().parent / "samples"
EMULATED = {
    "TF_CPU_ALLOCATOR_USE_BFC": "true",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


def sample(name: str, *arguments: str, mebibytes: int = 128) -> list[Any]:
    """What a sample program prints, a line of JSON each, on the emulated device."""
    ran = subprocess.run(
        [sys.executable, name, *arguments],
        cwd=SAMPLES,
        env={**os.environ, **EMULATED, "TF_CPU_BFC_MEM_LIMIT_IN_MB": str(mebibytes)},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "ran out of data" not in ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("{", "["))]
    return [json.loads(line) for line in lines]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "runs",
    [
        [("float32", "process", False), ("mixed_float16", "process", True)],
        [("float32", "process", True), ("mixed_float16", "worker", False)],
        [("float32", "worker", True)],
    ],
    ids=["process", "both", "worker"],
)
def test_training_with_it_is_bit_for_bit_training_hard_coded_to_its_answer(
    runs: list[tuple[str, str, bool]],
) -> None:
    found = sample("callback_exact.py", json.dumps(runs))
    same = {"losses": 0.0, "state": 0.0, "drawn": True, "scaled": True}
    assert found == [same] * len(runs)
