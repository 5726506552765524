"""NVML in the place of an allocator that keeps no statistics."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from nvml_stand_in.build import Nvml, gpu

from autobatch.engine.sampled_memory import SampledMemory
from autobatch.nvml import Held, Holdings, NvmlError
from autobatch.units import MIB

BUS = "0000:01:00.0"


class Card:
    """What NVML says of one GPU of 1000 bytes; a test changes it."""

    def __init__(self, used: int, ours: int | None) -> None:
        self.held = Held(total_bytes=1000, used_bytes=used, reserved_bytes=50, by_process=ours)
        self.error: NvmlError | None = None
        self.looks = 0

    def take(self, used: int, ours: int | None) -> None:
        self.held = Held(total_bytes=1000, used_bytes=used, reserved_bytes=50, by_process=ours)

    def read(self) -> dict[str, Held]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return {BUS: self.held}


def wait_for_looks(card: Card, more: int = 3) -> None:
    """Until the thread has looked some times again; pytest's own limit ends it."""
    until = card.looks + more
    while card.looks < until:
        time.sleep(0.001)


def sampled(card: Card) -> SampledMemory:
    return SampledMemory({"GPU:0": BUS}, card.read)


def test_what_others_hold_is_not_in_the_limit() -> None:
    memory = sampled(Card(used=300, ours=100))
    assert memory.certain
    assert memory.limits == {"GPU:0": 1000 - 50 - 200}
    assert memory.info("GPU:0") == {"current": 100, "peak": 100}


def test_a_peak_between_two_questions_is_seen_by_the_thread() -> None:
    card = Card(used=100, ours=100)
    memory = sampled(card)
    card.take(700, 700)
    wait_for_looks(card)
    card.take(400, 400)
    assert memory.info("GPU:0") == {"current": 400, "peak": 700}
    memory.reset("GPU:0")
    assert memory.info("GPU:0") == {"current": 400, "peak": 400}


def test_where_processes_are_hidden_all_that_is_used_counts_as_ours() -> None:
    card = Card(used=300, ours=None)
    memory = sampled(card)
    assert not memory.certain
    assert memory.limits == {"GPU:0": 950}
    card.take(500, None)
    assert memory.info("GPU:0")["current"] == 500


def test_a_look_that_fails_changes_nothing() -> None:
    card = Card(used=100, ours=100)
    memory = sampled(card)
    card.error = NvmlError("gone", code=15)
    assert memory.info("GPU:0") == {"current": 100, "peak": 100}


# -- real pynvml on the stand-in -----------------------------------------------------------------


def read(pid: int, *buses: str) -> str:
    code = f"from autobatch.nvml import Holdings; print(Holdings({pid}, {buses!r}).read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.stdout or done.stderr


def test_holdings_are_read_from_the_driver(nvml: Nvml) -> None:
    mine = f"process pid=77 bytes={3 * MIB} name=/usr/bin/mine"
    other = f"process pid=78 bytes={MIB} name=/usr/bin/other"
    nvml.say(gpu(0, 512), gpu(1, 256, reserved=MIB), mine, other)
    held = Held(total_bytes=256 * MIB, used_bytes=4 * MIB, reserved_bytes=MIB, by_process=3 * MIB)
    assert read(77, "00000000:02:00.0").strip() == str({"00000000:02:00.0": held})
    assert "by_process=None" in read(79, "0000:02:00.0")


def test_a_gpu_that_nvml_does_not_list_is_an_error(nvml: Nvml) -> None:
    nvml.say(gpu(0, 512))
    assert "NVML lists no GPU on PCI bus 0000:07:00.0" in read(77, "0000:07:00.0")
    assert "NVML lists no GPU on PCI bus unknown" in read(77)


def test_without_a_driver_there_are_no_holdings() -> None:
    with pytest.raises(NvmlError):
        Holdings(1, (BUS,))
