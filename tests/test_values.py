"""`--format`: the answer as values that other tools read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from autobatch.learning_rate import scale_learning_rate
from autobatch.records import (
    Device,
    LimitedBy,
    LimitKind,
    OptimizerInfo,
    ProbeResult,
    Proof,
    ProofKind,
)
from autobatch.report.values import FORMATS, values

SAMPLES = Path(__file__).resolve().parent / "samples"
# What YAML 1.1, and so PyYAML, takes for a number: a float needs a point.
YAML_NUMBER = re.compile(r"[-+]?(?:[0-9]+|[0-9]+\.[0-9]*(?:e[-+][0-9]+)?)")


def result(rate: float | None = 0.001, *more: str) -> ProbeResult:
    rates = (
        ()
        if rate is None
        else tuple(
            scale_learning_rate(
                OptimizerInfo(attribute=attribute, class_name="SGD", learning_rate=rate),
                base_batch_size=64,
                batch_size=256,
            )
            for attribute in ("optimizer", *more)
        )
    )
    main = rates[0] if rates else None
    return ProbeResult(
        batch_size=256,
        global_batch_size=256,
        learning_rate=main.learning_rate if main else None,
        learning_rate_rule=main.rule if main else None,
        learning_rates=rates,
        base_batch_size=64 if main else None,
        base_learning_rate=rate,
        limited_by=LimitedBy(LimitKind.MEMORY, "full"),
        device=Device(name="CPU", kind="cpu", limit_bytes=1, budget_bytes=1),
        peak_bytes=None,
        headroom_bytes=0,
        proof=Proof(kind=ProofKind.FRESH_PROCESS, steps=8),
        trials=(),
        seconds=1.0,
        versions={},
    )


def test_env_is_what_a_shell_reads():
    shown = values(result(), "env")
    assert shown.splitlines() == [
        "BATCH_SIZE=256",
        "BASE_BATCH_SIZE=64",
        "LEARNING_RATE=0.004",
        "BASE_LEARNING_RATE=0.001",
        "LEARNING_RATE_RULE=linear",
    ]
    ran = subprocess.run(
        ["sh", "-c", 'eval "$1"; echo "$BATCH_SIZE $LEARNING_RATE"', "sh", shown],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "256 0.004\n"


def test_yaml():
    assert values(result(), "yaml").splitlines() == [
        "batch_size: 256",
        "base_batch_size: 64",
        "learning_rate: 0.004",
        "base_learning_rate: 0.001",
        'learning_rate_rule: "linear"',
    ]


@pytest.mark.parametrize("rate", [0.5, 1.0, 1e-5, 3.2e-7, 1e-22, 1e22])
def test_yaml_numbers_are_numbers_and_exact(rate):
    line = values(result(rate), "yaml").splitlines()[3]
    name, number = line.split(": ")
    assert name == "base_learning_rate"
    assert YAML_NUMBER.fullmatch(number), number
    assert float(number) == rate


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
@pytest.mark.parametrize("rate", [0.5, 1.0, 1e-5, 3.2e-7, 1e22])
def test_toml_reads_back(rate):
    import tomllib

    assert tomllib.loads(values(result(rate, "d_optimizer", "all['x']"), "toml")) == {
        "batch_size": 256,
        "base_batch_size": 64,
        "learning_rate": 4 * rate,
        "base_learning_rate": rate,
        "learning_rate_rule": "linear",
        "d_optimizer_learning_rate": 4 * rate,
        "all_x_learning_rate": 4 * rate,
    }


@pytest.mark.parametrize("form", FORMATS)
def test_without_a_rate_there_is_the_size_alone(form):
    assert len(values(result(None), form).splitlines()) == 1
    assert msgspec.json.decode(result(None).to_json())["learning_rate"] is None


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autobatch", "probe", *arguments],
        cwd=SAMPLES,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--format", "ini"], "'ini' is not one of"), (["--format", "env", "--json"], "leave one")],
)
def test_wrong_usage(arguments, words):
    ran = command("tiny.py", *arguments)
    assert ran.returncode == 2
    assert words in " ".join(ran.stderr.split())


@pytest.mark.tensorflow
def test_the_command():
    small = ["--device=cpu", "--memory-limit=128MiB", "--max=16", "--steps=2", "--proof-steps=2"]
    ran = command("tiny.py", *small, "--format", "env", "--quiet")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[:2] == ["BATCH_SIZE=16", "BASE_BATCH_SIZE=32"]
    assert ran.stderr == ""
