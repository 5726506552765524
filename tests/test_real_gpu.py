"""What only a GPU can show: skipped where there is none; `scripts/gpu-check` runs it on one.

An emulated GPU in the environment will do, too, so that these tests are known to run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from autobatch.records import Outcome, ProbeResult
from autobatch.survey import Survey

pytestmark = [pytest.mark.gpu, pytest.mark.tensorflow]
FUNCTION = str(Path(__file__).resolve().parent / "samples" / "wide.py:build_model")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "autobatch", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def found() -> Survey:
    survey = msgspec.json.decode(command("devices", "--json").stdout, type=Survey)
    if not survey.gpus or survey.gpus[0].device is None:
        pytest.skip("there is no GPU that TensorFlow can use")
    return survey


def probe(*arguments: str) -> ProbeResult:
    done = command("probe", FUNCTION, "--device=gpu:0", "--json", "--no-cache", *arguments)
    assert done.returncode == 0, done.stdout
    return ProbeResult.from_json(done.stdout)


def test_tensorflow_and_the_driver_tell_of_the_same_card(found: Survey) -> None:
    card = found.gpus[0]
    assert card.allocatable_bytes
    if card.total_bytes is not None:  # NVML is there
        assert card.uuid
        assert card.allocatable_bytes <= card.total_bytes
        assert card.used_bytes is not None


@pytest.mark.parametrize("jit", ["1", "0"])
def test_a_limit_is_kept_without_waiting_for_memory(
    found: Survey, monkeypatch: pytest.MonkeyPatch, jit: str
) -> None:
    monkeypatch.setenv("JIT", jit)
    result = probe("--memory-limit=160MiB", "--precision=0.1")
    assert result.limited_by.kind == "memory"
    assert max(result.proof.peak_bytes) <= 160 << 20
    assert sum(trial.outcome is Outcome.OUT_OF_MEMORY for trial in result.trials) <= 1


def test_the_whole_card_is_the_budget(found: Survey) -> None:
    result = probe("--max=64")
    assert result.device.budget_bytes == result.device.limit_bytes
    assert found.gpus[0].total_bytes is None or (
        result.device.budget_bytes <= found.gpus[0].total_bytes
    )
