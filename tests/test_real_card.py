"""A real card under its real driver, and other frameworks' out-of-memory errors on it.

Skipped where there is none, or where the framework is not installed; none of it needs TensorFlow.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autobatch import nvml
from autobatch.neighbours import Watch
from autobatch.nvml import Gpu, NvmlError

pytestmark = pytest.mark.gpu
FRAMEWORKS = Path(__file__).resolve().parent / "samples" / "frameworks"
MIB = 1 << 20


@pytest.fixture
def card() -> Gpu:
    """The first GPU that the machine's own driver tells of: no stand-in's."""
    try:
        gpus = nvml.read().gpus
    except NvmlError as error:
        pytest.skip(f"there is no driver: {error}")
    if not gpus or not Path("/dev/nvidiactl").exists():
        pytest.skip("there is no real GPU")
    return gpus[0]


def needs(framework: str) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")


Take = Callable[[int], int]


@contextmanager
def neighbour() -> Iterator[tuple[int, Take]]:
    """A process that holds memory of the card: its id, and what has it take so many MiB more."""
    line = [sys.executable, str(FRAMEWORKS / "holds.py")]
    with subprocess.Popen(line, stdin=-1, stdout=-1, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def take(mib: int) -> int:
            child.stdin.write(f"{mib}\n")
            child.stdin.flush()
            return int(child.stdout.readline())

        try:
            yield child.pid, take
        finally:
            child.stdin.close()


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


def test_the_driver_describes_its_card(card: Gpu) -> None:
    assert card.name
    assert card.uuid.startswith("GPU-")
    assert card.bus_id == nvml.canonical_bus_id(card.bus_id)
    assert card.error == ""
    assert not card.lost
    assert card.total_bytes is not None
    assert card.used_bytes is not None
    assert 0 <= card.used_bytes <= card.total_bytes
    major, minor = card.compute_capability.split(".")
    assert int(major) >= 3
    assert int(minor) >= 0


def test_the_driver_counts_what_a_process_takes(card: Gpu) -> None:
    needs("torch")
    with neighbour() as (pid, take):
        take(64)  # brings the CUDA context up
        before = nvml.read().gpus[0].used_bytes
        holdings = nvml.Holdings(pid, (card.bus_id,))
        held_before = holdings.read()[card.bus_id]
        took = take(4096)
        assert took >= 4096 * MIB
        after = nvml.read().gpus[0]
        assert before is not None
        assert after.used_bytes is not None
        assert 4000 * MIB <= after.used_bytes - before <= 4400 * MIB
        held = holdings.read()[card.bus_id]
        assert 4000 * MIB <= held.used_bytes - held_before.used_bytes <= 4400 * MIB
        if any(p.pid == pid for p in after.processes or ()):  # not told in every container
            listed = nvml.memory_of(pid)
            assert listed is None or listed >= 4096 * MIB
            assert held.by_process is None or held.by_process >= 4096 * MIB
    assert until(lambda: (nvml.read().gpus[0].used_bytes or 0) < before)


def test_a_neighbour_that_takes_memory_is_noticed(card: Gpu) -> None:
    needs("torch")
    with neighbour() as (other, takes):
        takes(64)
        worker: list[int] = []
        watch = Watch(ours=lambda: set(worker))
        watch.begin()
        with neighbour() as (mine, take):
            worker.append(mine)
            take(512)
            watch.start([card.bus_id])
            assert watch.changed() is None
            takes(4096)
            listed = any(p.pid == other for p in nvml.read().gpus[0].processes or ())
            if listed:
                assert until(lambda: watch.changed() is not None)
        if not listed:  # then what is in use before and after is compared
            assert until(lambda: watch.changed() is not None)
        print(f"pids listed: {listed}; {watch.changed()}")
        watch.end()


def search(framework: str, how: str, limit_mib: int = 0) -> dict:
    needs(framework)
    line = [sys.executable, str(FRAMEWORKS / "steps.py"), framework, how, str(limit_mib)]
    path = os.pathsep.join([str(FRAMEWORKS.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        line, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("framework", ["torch", "cupy"])
@pytest.mark.parametrize("how", ["plain", "isolated"])
def test_a_frameworks_own_error_is_understood(card: Gpu, framework: str, how: str) -> None:
    found = search(framework, how, 8192)
    outcomes = [outcome for _, outcome, _, _ in found["trials"]]
    assert found["limited_by"] == "memory"
    assert set(outcomes) == {"fits", "out_of_memory"}
    assert found["batch_size"] > 256
    assert found["a_fifth_more"] != "went through"


def test_peaks_spare_the_errors(card: Gpu) -> None:
    found = search("torch", "measured", 8192)
    assert found["limited_by"] == "memory"
    assert {outcome for _, outcome, _, _ in found["trials"]} == {"fits"}
    assert found["trials"][-1][2] <= 8192 * MIB
    assert found["trials"][-1][2] >= 0.9 * 8192 * MIB


def test_the_whole_card(card: Gpu) -> None:
    found = search("torch", "plain")
    assert found["limited_by"] == "memory"
    assert card.total_bytes is not None
    assert found["batch_size"] * 4096 * 4 * 12 > 0.5 * card.total_bytes
