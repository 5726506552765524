"""The main job on real input: the examples, from the command line to a proven size."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autobatch import devices, targets
from autobatch.crew import Crew
from autobatch.events import ignore
from autobatch.evidence import MARGIN
from autobatch.options import ProbeOptions
from autobatch.records import Outcome
from autobatch.units import MIB

pytestmark = pytest.mark.tensorflow
EXAMPLES = Path(__file__).resolve().parent.parent / "scripts" / "examples"


def probe(*arguments: str) -> tuple[int, dict]:
    """Exit code and JSON of `autobatch probe`."""
    done = subprocess.run(
        [sys.executable, "-m", "autobatch", "probe", *arguments, "--json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=550,
    )
    return done.returncode, json.loads(done.stdout)


def test_the_cifar_example_is_searched_and_proven_within_its_budget() -> None:
    code, answer = probe(f"{EXAMPLES}/cifar10_cnn.py:build_model", "--memory-limit", "256MiB")
    assert code == 0
    assert answer["limited_by"]["kind"] == "memory"
    assert answer["device"]["kind"] == "cpu"
    assert answer["device"]["budget_bytes"] == 256 * MIB
    # Brute force found deaths from 280 on (scripts/bench/rows); a zone is no line, so not exact.
    assert 200 <= answer["batch_size"] <= 280
    assert answer["headroom_bytes"] == int(0.05 * 256 * MIB)  # a step has few large allocations
    trials = answer["trials"]
    proof = next(t for t in reversed(trials) if t["proof"])
    assert proof["batch_size"] == answer["batch_size"]
    assert proof["outcome"] == "fits"
    assert answer["proof"]["kind"] == "fresh_process"
    assert answer["proof"]["validation_steps"] >= 1
    assert answer["proof"]["last_batch_size"] == (4096 % answer["batch_size"] or None)
    size, beyond = answer["batch_size"], answer["proof"]["beyond_batch_size"]
    if not any(size < t["batch_size"] <= (1 + MARGIN) * size for t in trials):
        assert beyond == size + int(MARGIN * size)  # where the proof began
    assert all(peak <= 256 * MIB for peak in proof["step_peak_bytes"])
    assert len(proof["step_peak_bytes"]) >= answer["proof"]["steps"] + 1
    assert sum(t["outcome"] == "out_of_memory" for t in trials) <= 1
    for trial in trials:
        steps = len(trial["step_peak_bytes"])
        if trial["needed_bytes"] and not trial["proof"]:  # near the edge, more steps are replayed
            too_large = trial["needed_bytes"] > 256 * MIB - answer["headroom_bytes"]
            assert steps == 8 or too_large or steps == 4, trial
    assert answer["learning_rate_rule"] == "sqrt"
    assert answer["learning_rate"] == pytest.approx(0.001 * (answer["batch_size"] / 32) ** 0.5)
    assert answer["steps_per_epoch"] == -(-4096 // answer["batch_size"])


def test_a_proof_that_went_through_by_luck_is_told() -> None:
    """One whose steps need more than the budget by replay: here more than one that is too small."""
    options = ProbeOptions.checked(memory_limit="256MiB", device="cpu", proof_steps=2)
    for budget, outcome in ((256, Outcome.FITS), (64, Outcome.TOO_CLOSE)):
        with Crew(
            targets.resolve(f"{EXAMPLES}/cifar10_cnn.py:build_model"),
            devices.choose(options),
            options,
            environment={},
            observer=ignore,
            deadline=time.monotonic() + 500,
        ) as crew:
            trial, _ = crew.prove(64, enough_bytes=budget * MIB, beyond=None)
        assert trial.outcome is outcome, trial.why
        assert trial.proof
    assert "another order" in (trial.why or "")
    assert (trial.needed_bytes or 0) > 64 * MIB


@pytest.mark.parametrize(
    ("example", "rule", "largest"),
    [("imdb_lstm", "sqrt", 16), ("resnet50", "linear", 4), ("transformer", "sqrt", 16)],
)
def test_each_example_is_proven_up_to_a_maximum(example: str, rule: str, largest: int) -> None:
    code, answer = probe(
        f"{EXAMPLES}/{example}.py", "--max", str(largest), "--memory-limit", "1GiB",
        "--proof-steps", "2", "--steps", "2",
    )  # fmt: skip
    assert code == 0
    assert answer["batch_size"] == largest
    assert answer["limited_by"]["kind"] == "maximum"
    assert answer["learning_rate_rule"] == rule
    base = {"imdb_lstm": 64, "resnet50": 16, "transformer": 32}[example]
    assert answer["base_batch_size"] == base  # what the script's own fit trains with
    share = largest / base
    expected = answer["base_learning_rate"] * (share if rule == "linear" else share**0.5)
    assert answer["learning_rate"] == pytest.approx(expected)


def test_a_model_and_data_beyond_the_budget_are_an_outcome_with_a_message() -> None:
    code, answer = probe(f"{EXAMPLES}/cifar10_cnn.py:build_model", "--memory-limit", "64MiB")
    assert code == 3
    assert answer["error"]["kind"] == "nothing_fits"
    assert answer["error"]["budget_bytes"] == 64 * MIB
    assert answer["error"]["needed_bytes"] > 64 * MIB
    assert "Even batch size 1 does not fit" in answer["error"]["message"]
    assert {t["batch_size"] for t in answer["trials"]} == {1, 2}
