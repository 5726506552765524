"""Memory that really runs out, in every place: the diagnosis of real deaths, not of texts."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from autobatch import protocol
from autobatch.conversation import Conversation
from autobatch.devices import DeviceChoice
from autobatch.endings import Ending
from autobatch.events import ignore
from autobatch.launcher import Launcher
from autobatch.records import Outcome
from autobatch.units import MIB

SAMPLE = Path(__file__).resolve().parent / "samples" / "runs_out.py"
LONG = 300.0  # seconds that a busy machine may take
DEVICE = DeviceChoice("cpu", (), 64 * MIB, 64 * MIB)

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits the address space"),
]


def end_of(way: str, **environment: str) -> Ending:
    """How a trial at batch size 64 ends, after one at 2 went well."""
    variables = {**os.environ, **DEVICE.environment(proof=True), "RUNS_OUT": way, **environment}
    with Launcher(lambda *_: None) as launcher:
        worker = launcher.start("search", variables)
        talk = Conversation(launcher, worker, "cpu", ignore, time.monotonic() + 2 * LONG)
        target = protocol.Target(kind="factory", path=str(SAMPLE), name="build_model")
        talk.ask(protocol.Prepare(target=target, device=DEVICE.request(proof=True)))
        talk.prepared(LONG, DEVICE.budget_bytes)
        if way != "optimizer":  # whose memory has nothing to do with the batch size
            small = talk.run(protocol.RunTrial(batch_size=2, steps=2), LONG, passed=0)
            assert small.trial.outcome is Outcome.FITS, small.trial
        size = 1 if way == "optimizer" else 64
        request = protocol.RunTrial(batch_size=size, steps=3, validation=way == "validation")
        return talk.run(request, LONG, passed=2)


# The phase it ends in, a word of the evidence, and whether the worker can go on.
ON_THE_DEVICE = {
    "forward": ("step", "OOM when allocating tensor", True),
    "backward": ("step", "OOM when allocating tensor", True),
    "optimizer": ("tracing", "OOM when allocating tensor", True),
    "validation": ("validation", "OOM when allocating tensor", True),
    "XLA": ("step", "ut of memory", False),
}


@pytest.mark.parametrize("way", ON_THE_DEVICE)
def test_the_devices_memory_runs_out(nothing_left_open: None, way: str) -> None:
    ending = end_of(way)
    phase, said, reusable = ON_THE_DEVICE[way]
    assert ending.trial.outcome is Outcome.OUT_OF_MEMORY, ending.trial
    assert ending.trial.phase == phase
    assert said in (ending.trial.why or "")
    assert ending.reusable == reusable


def test_onednn_dies_where_others_raise(nothing_left_open: None) -> None:
    ending = end_of("oneDNN", TF_ENABLE_ONEDNN_OPTS="1")
    assert ending.trial.outcome is Outcome.OUT_OF_MEMORY, ending.trial
    assert "Killed by SIGSEGV" in (ending.trial.why or "")
    assert not ending.reusable


def test_the_hosts_memory_runs_out(nothing_left_open: None) -> None:
    """numpy cannot allocate, inside of `tf.data`, under a limit of the address space."""
    ending = end_of("tf.data")
    assert ending.trial.outcome is Outcome.HOST_OUT_OF_MEMORY, ending.trial
    assert "MemoryError" in (ending.trial.why or "")
    assert ending.reusable
