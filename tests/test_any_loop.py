"""`autobatch.search` and `@autobatch.largest_batch` over functions of the caller's own."""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autobatch
from autobatch.events import TrialEnded
from autobatch.records import LimitKind, Outcome, ProofKind

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _quick_collections():
    """Each trial collects garbage: what the test session holds is not looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class OutOfMemoryError(RuntimeError):
    """As PyTorch's: known by its name."""


def cuda_oom(batch_size: int) -> OutOfMemoryError:
    return OutOfMemoryError(f"CUDA out of memory. Tried to allocate {batch_size}.00 MiB.")


class Loop:
    """A training loop that has memory for `capacity` samples; it remembers its calls.

    Args:
        capacity: Larger sizes run out of memory.
        ends: Or in this: a function of the size that raises what it likes.
        bytes_per_sample: What it says of its peak, on top of `resident`; None for nothing.
    """

    def __init__(self, capacity=10**9, *, ends=None, resident=0, bytes_per_sample=None):
        self.capacity, self.ends = capacity, ends
        self.resident, self.bytes_per_sample = resident, bytes_per_sample
        self.calls: list[int] = []

    def __call__(self, batch_size: int) -> int | None:
        self.calls.append(batch_size)
        if self.ends is not None:
            self.ends(batch_size)
        if batch_size > self.capacity:
            raise cuda_oom(batch_size)
        if self.bytes_per_sample is None:
            return None
        return self.resident + int(batch_size * self.bytes_per_sample)


# -- what holds of every search ------------------------------------------------------------------


@settings(max_examples=100)
@given(
    capacity=st.integers(0, 3000),
    largest=st.integers(1, 3000),
    smallest=st.integers(1, 40),
    multiple=st.sampled_from([1, 1, 8]),
    precision=st.sampled_from([0.0, 0.02, 0.2]),
    start=st.none() | st.integers(1, 3000),
)
def test_the_answer_was_run_last_and_passed(
    capacity, largest, smallest, multiple, precision, start
):
    largest = max(largest, smallest)
    sizes = [s for s in range(smallest, largest + 1) if s % multiple == 0]
    if not sizes or (start is not None and not sizes[0] <= start <= sizes[-1]):
        return
    loop = Loop(capacity)
    truth = max((s for s in sizes if s <= capacity), default=0)
    options = {
        "max_batch_size": largest,
        "min_batch_size": smallest,
        "multiple_of": multiple,
        "precision": precision,
        "start": start,
    }
    if not truth:
        with pytest.raises(autobatch.NothingFitsError) as caught:
            autobatch.search(loop, **options)
        assert f"batch size {sizes[0]} " in caught.value.message
        assert [t.batch_size for t in caught.value.trials] == loop.calls
        return
    result = autobatch.search(loop, **options)
    assert loop.calls[-1] == result.batch_size <= truth
    assert result.batch_size >= (1 - precision) * truth - multiple
    if precision == 0:
        assert result.batch_size == truth
    # each call is told of once, and the last one is the proof
    assert [t.batch_size for t in result.trials] == loop.calls
    assert result.trials[-1].proof
    assert result.trials[-1].outcome is Outcome.FITS
    assert result.proof.kind is ProofKind.CALLER
    at_its_end = result.batch_size == sizes[-1]
    assert result.limited_by.kind is (LimitKind.MAXIMUM if at_its_end else LimitKind.MEMORY)
    # what doubling and bisection cost, a start, and a proof
    assert len(loop.calls) <= (truth // sizes[0]).bit_length() + truth.bit_length() + 3
    assert set(loop.calls) <= set(sizes)


def test_peaks_and_a_limit_spare_most_out_of_memory_errors():
    misses, calls = [], []
    for seed in range(60):
        drawn = random.Random(seed)
        budget, resident = drawn.randint(128, 1024) * MIB, drawn.randint(0, 100 * MIB)
        slope = 10 ** drawn.uniform(-2, 0.9) * MIB
        loop = Loop(int((budget - resident) / slope), resident=resident, bytes_per_sample=slope)
        result = autobatch.search(loop, max_batch_size=10**6, memory_limit=budget)
        held = (budget - result.headroom_bytes - resident) / slope
        assert 0.9 * held - 1 <= result.batch_size <= held, (held, result.trials)
        assert result.peak_bytes == resident + int(result.batch_size * slope)
        assert result.budget_bytes == budget
        assert result.limited_by.kind is LimitKind.MEMORY
        assert loop.calls[-1] == result.batch_size
        misses.append(sum(t.outcome is not Outcome.FITS for t in result.trials))
        blind = Loop(loop.capacity)
        autobatch.search(blind, max_batch_size=10**6)
        calls.append((len(loop.calls), len(blind.calls)))
    assert sum(count == 0 for count in misses) >= 0.75 * len(misses)
    assert sum(told for told, _ in calls) <= 0.8 * sum(untold for _, untold in calls)


def test_a_limit_below_what_the_device_has_is_kept_too():
    loop = Loop(bytes_per_sample=MIB)  # runs at any size
    result = autobatch.search(loop, max_batch_size=10**6, memory_limit=100 * MIB, headroom="10%")
    assert 85 <= result.batch_size <= 90
    assert result.limited_by.kind is LimitKind.MEMORY
    with pytest.raises(autobatch.NothingFitsError) as caught:
        autobatch.search(Loop(bytes_per_sample=200 * MIB), max_batch_size=9, memory_limit="100MiB")
    assert caught.value.needed_bytes == 200 * MIB
    assert caught.value.budget_bytes == 100 * MIB


def test_a_proof_that_peaks_above_the_limit_is_none():
    """The limit is only ours, so a second run that exceeds it goes through all the same."""
    calls: list[int] = []

    def second_is_larger(batch_size: int) -> int:
        calls.append(batch_size)
        if batch_size > 40:
            raise cuda_oom(batch_size)
        return (120 if calls.count(40) > 1 and batch_size == 40 else 60) * MIB

    result = autobatch.search(
        second_is_larger, max_batch_size=64, memory_limit="100MiB", precision=0.0
    )
    assert 36 <= result.batch_size < 40
    failed = [t for t in result.trials if t.proof and t.outcome is not Outcome.FITS]
    assert [t.batch_size for t in failed] == [40]
    assert failed[0].why == "it peaked at 120 MiB of 100 MiB"


def test_a_function_that_keeps_its_memory_is_told_so():
    calls: list[int] = []

    def leaks(batch_size: int) -> None:
        calls.append(batch_size)
        if batch_size > 40 or len(calls) > 8:
            raise cuda_oom(batch_size)

    with pytest.raises(autobatch.NothingFitsError, match="Something of each call stays"):
        autobatch.search(leaks, max_batch_size=64, precision=0.0)


# -- errors --------------------------------------------------------------------------------------


OOM = {
    "torch": cuda_oom(1),
    "torch's CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 26843545600 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "JAX": type("XlaRuntimeError", (RuntimeError,), {})(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7406166528 bytes."
    ),
    "CuPy": type("OutOfMemoryError", (MemoryError,), {})(
        "Out of memory allocating 805,306,368 bytes (allocated so far: 536,870,912 bytes)."
    ),
    "TensorFlow": type("ResourceExhaustedError", (Exception,), {})(
        "OOM when allocating tensor with shape[64,256,256,64] and type float on "
        "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:Conv2D]"
    ),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("name", OOM)
def test_every_frameworks_out_of_memory_is_one(name):
    def ends(batch_size: int) -> None:
        if batch_size > 100:
            raise OOM[name]

    result = autobatch.search(Loop(ends=ends), max_batch_size=1000, precision=0.0)
    assert result.batch_size == 100
    assert result.limited_by.kind in (LimitKind.MEMORY, LimitKind.HOST_MEMORY)
    assert result.limited_by.evidence.startswith("batch size 101: ")


def test_no_framework_is_imported():
    program = (
        "import autobatch, sys\n"
        "def step(n):\n"
        "    if n > 9: raise MemoryError\n"
        "assert autobatch.search(step, max_batch_size=99).batch_size == 9\n"
        "print([m for m in ('torch', 'jax', 'cupy', 'tensorflow', 'keras') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert ran.stdout == "[]\n"


def test_a_callers_own_error_comes_through_as_it_is():
    bug = ValueError("shapes (2, 3) and (4, 5) do not match: out of memory slots")

    def ends(_: int) -> None:
        raise bug

    loop = Loop(ends=ends)
    with pytest.raises(ValueError, match="do not match") as caught:
        autobatch.search(loop, max_batch_size=100)
    assert caught.value is bug
    assert len(loop.calls) == 1
    assert any("ends" in str(entry) for entry in caught.traceback)  # its frames are there


def test_a_callers_own_error_above_what_worked_bounds_the_answer():
    def ends(batch_size: int) -> None:
        if batch_size > 60:
            raise IndexError(f"the data has 60 rows, not {batch_size}")

    result = autobatch.search(Loop(ends=ends), max_batch_size=1000, precision=0.0)
    assert result.batch_size == 60
    assert result.limited_by.kind is LimitKind.MODEL_ERROR
    assert "the data has 60 rows, not 61" in result.limited_by.evidence


def test_ctrl_c_ends_it_with_what_was_tried():
    def ends(batch_size: int) -> None:
        if batch_size > 4:
            raise KeyboardInterrupt

    with pytest.raises(autobatch.ProbeInterrupted) as caught:
        autobatch.search(Loop(ends=ends), max_batch_size=1000)
    assert [t.batch_size for t in caught.value.trials] == [2, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be a whole number from 1 on; received 0"),
        ({"max_batch_size": True}, "received True"),
        ({"max_batch_size": 9, "min_batch_size": 10}, "above the largest"),
        ({"max_batch_size": 9, "start": 10}, "start must be one of the sizes from 1 to 9"),
        ({"max_batch_size": 9, "precision": 1}, "precision must be a share"),
        ({"max_batch_size": 9, "timeout": 0}, "timeout must be a positive number"),
        ({"max_batch_size": 9, "headroom": "5%"}, "headroom is a part of memory_limit"),
        ({"max_batch_size": 9, "memory_limit": "much"}, "memory_limit must be a positive size"),
        ({"max_batch_size": 9, "steps": 3}, "Unknown option 'steps'"),
        ({"max_batch_size": 9, "memory_limit": "1GiB"}, "only where try_batch returns its peak"),
    ],
)
def test_what_makes_no_sense_is_said(options, words):
    with pytest.raises(autobatch.UsageError) as caught:
        autobatch.search(Loop(), **options)
    assert words in caught.value.message


@pytest.mark.parametrize("value", ["4GiB", 0.5, -1, True, [1]])
def test_a_return_value_that_is_no_peak_is_refused(value):
    with pytest.raises(autobatch.UsageError, match="try_batch must return the most bytes"):
        autobatch.search(lambda _: value, max_batch_size=9)


def test_something_that_cannot_be_called():
    with pytest.raises(autobatch.UsageError, match="try_batch must be a function"):
        autobatch.search("train.py", max_batch_size=9)  # type: ignore[arg-type]


# -- around the trials ---------------------------------------------------------------------------


class Tensor:
    """Something whose death can be seen; refers to itself, as a tape does."""

    def __init__(self) -> None:
        self.itself = self


def test_what_a_call_held_is_gone_before_the_next_one():
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def step(batch_size: int) -> None:
        assert not alive, f"{len(alive)} tensors of the call before are still there"
        activations = Tensor()
        alive.add(activations)

        def backward() -> None:
            gradients = Tensor()
            alive.add(gradients)
            if batch_size > 20:
                try:
                    raise cuda_oom(batch_size)
                except OutOfMemoryError as error:
                    raise RuntimeError("the step failed") from error

        backward()

    assert autobatch.search(step, max_batch_size=64, precision=0.0).batch_size == 20
    assert not alive


def test_torchs_cache_is_emptied_only_where_torch_is(monkeypatch):
    emptied = []

    class Cuda:
        empty_cache = staticmethod(lambda: emptied.append(1))

    class Torch:
        cuda = Cuda

    monkeypatch.setitem(sys.modules, "torch", Torch)
    autobatch.search(Loop(5), max_batch_size=8)
    assert emptied


def test_who_watches_is_told():
    events = []
    autobatch.search(Loop(50), max_batch_size=64, observer=events.append)
    ended = [e.trial.batch_size for e in events if isinstance(e, TrialEnded)]
    assert ended[:3] == [2, 4, 8]


def test_half_the_time_is_enough():
    loop = Loop(ends=lambda _: time.sleep(0.05))
    result = autobatch.search(loop, max_batch_size=1 << 40, total_timeout=0.5)
    assert result.limited_by.kind is LimitKind.TIMEOUT
    assert result.batch_size == loop.calls[-1]


def test_the_result_as_json():
    import json

    body = json.loads(autobatch.search(Loop(50), max_batch_size=64).to_json())
    assert body["batch_size"] == 50
    assert body["proof"]["kind"] == "caller"
    assert body["limited_by"]["kind"] == "memory"
    assert [t["batch_size"] for t in body["trials"]][:2] == [2, 4]


# -- in a worker ---------------------------------------------------------------------------------


def isolated_step(batch_size: int) -> int:
    """Runs in a worker; dies in the ways that no process survives."""
    if batch_size > 40:
        os.kill(os.getpid(), signal.SIGSEGV)
    return os.getpid()


def test_a_crash_is_survived(nothing_left_open):
    result = autobatch.search(isolated_step, max_batch_size=64, isolated=True, precision=0.0)
    assert result.batch_size == 40
    assert result.limited_by.kind is LimitKind.CRASH
    assert "SIGSEGV" in result.limited_by.evidence
    pids = [t.peak_bytes for t in result.trials if t.peak_bytes]
    assert os.getpid() not in pids
    assert pids[0] == pids[1], "a worker is kept as long as all goes well"
    assert pids.count(pids[-1]) == 1, "the proof ran in a process of its own"
    assert result.trials[-1].proof


def test_a_hang_is_survived(nothing_left_open):
    def step(batch_size: int) -> None:
        print("out of memory is what this prints, and it is nothing", flush=True)
        if batch_size > 3:
            time.sleep(600)

    result = autobatch.search(step, max_batch_size=4, isolated=True, precision=0.0, timeout=4)
    assert result.batch_size == 3
    assert result.limited_by.kind is LimitKind.TIMEOUT


def test_out_of_memory_in_a_worker(nothing_left_open):
    def step(batch_size: int) -> None:
        if batch_size > 5:
            raise MemoryError

    result = autobatch.search(step, max_batch_size=64, isolated=True)
    assert result.batch_size == 5
    assert result.limited_by.kind is LimitKind.HOST_MEMORY


def test_an_error_of_its_own_in_a_worker(nothing_left_open):
    def step(batch_size: int) -> None:
        raise LookupError("no such layer")

    with pytest.raises(autobatch.ModelError, match="it raised LookupError: no such layer") as error:
        autobatch.search(step, max_batch_size=64, isolated=True)
    assert 'raise LookupError("no such layer")' in error.value.details


def test_a_peak_that_is_none_in_a_worker(nothing_left_open):
    with pytest.raises(autobatch.UsageError, match="try_batch must return the most bytes"):
        autobatch.search(lambda _: "lots", max_batch_size=64, isolated=True)


def test_what_cannot_be_sent(nothing_left_open):
    lock = threading.Lock()

    def step(batch_size: int) -> None:
        lock.acquire()

    with pytest.raises(autobatch.UsageError, match="cannot be sent to a worker process"):
        autobatch.search(step, max_batch_size=64, isolated=True)


class Poisoned:
    """Kills the process that reads it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_worker_that_dies_while_it_loads(nothing_left_open):
    poison = Poisoned()

    def step(batch_size: int) -> None:
        print(poison)

    with pytest.raises(autobatch.WorkerError, match="died while loading the function"):
        autobatch.search(step, max_batch_size=64, isolated=True)


def test_dying_at_every_size(nothing_left_open):
    with pytest.raises(autobatch.WorkerError, match="run at no size: at 1 it died") as error:
        autobatch.search(lambda _: os._exit(3), max_batch_size=64, isolated=True)
    assert [t.outcome for t in error.value.trials] == [Outcome.CRASHED] * 2


# -- the decorator -------------------------------------------------------------------------------


def test_the_largest_size_is_put_first_and_the_value_handed_through():
    calls = []

    @autobatch.largest_batch(max_batch_size=256, precision=0.0)
    def train(batch_size: int, epochs: int, *, rate: float = 0.1) -> dict[str, float]:
        """Trains."""
        calls.append(batch_size)
        if batch_size > 100:
            raise cuda_oom(batch_size)
        return {"batch_size": batch_size, "epochs": epochs, "rate": rate}

    assert train.result is None
    assert train(3, rate=0.5) == {"batch_size": 100, "epochs": 3, "rate": 0.5}
    assert calls[-1] == 100
    assert train.result is not None
    assert train.result.batch_size == 100
    assert train.__doc__ == "Trains."
    assert train.__name__ == "train"


def test_a_start_that_fits_and_is_the_largest_costs_one_call():
    calls = []

    @autobatch.largest_batch(start=128)
    def train(batch_size: int) -> str:
        calls.append(batch_size)
        return "trained"

    assert train() == "trained"
    assert calls == [128]
    assert train.result.limited_by.kind is LimitKind.MAXIMUM


def test_a_start_that_does_not_fit_is_found_from_below():
    loop = Loop(37)
    train = autobatch.largest_batch(start=64, max_batch_size=4096, precision=0.0)(loop)
    train()
    assert loop.calls[0] == 64
    assert loop.calls[1] == 2
    assert train.result.batch_size == loop.calls[-1] == 37
    assert train.result.limited_by.evidence.startswith("batch size 38: ")
    assert max(loop.calls) == 64


def test_a_few_steps_in_place_of_a_training():
    trainings, trials = [], []

    def steps(batch_size: int, epochs: int) -> int:
        trials.append(batch_size)
        if batch_size > 100:
            raise cuda_oom(batch_size)
        return batch_size * MIB

    @autobatch.largest_batch(max_batch_size=512, try_batch=steps, precision=0.0)
    def train(batch_size: int, epochs: int) -> int:
        trainings.append((batch_size, epochs))
        return batch_size

    assert train(7) == 100
    assert trainings == [(100, 7)]
    assert max(trials) > 100


def test_a_training_that_runs_out_where_its_steps_did_not_goes_on_smaller():
    trainings = []

    @autobatch.largest_batch(max_batch_size=128, try_batch=lambda _: None, precision=0.0)
    def train(batch_size: int) -> int:
        trainings.append(batch_size)
        if batch_size > 120:
            raise cuda_oom(batch_size)
        return batch_size

    value = train()
    assert trainings[0] == 128
    assert value == trainings[-1] == train.result.batch_size <= 120


def test_a_training_that_runs_out_steps_down_little_by_little():
    """Though the search has spent all the trials that it may take before."""
    loop = Loop(1000)
    trainings = []

    @autobatch.largest_batch(max_batch_size=4096, try_batch=loop)
    def train(batch_size: int) -> int:
        trainings.append(batch_size)
        if batch_size > 900:
            raise cuda_oom(batch_size)
        return batch_size

    value = train()
    assert 780 <= value <= 900
    assert value == train.result.batch_size
    assert len(trainings) <= 4
    assert train.result.limited_by.evidence.startswith(f"batch size {min(trainings[:-1])}: ")


def test_a_trainings_own_error_is_raised_and_not_retried():
    trainings = []

    @autobatch.largest_batch(max_batch_size=128, try_batch=lambda _: None)
    def train(batch_size: int) -> None:
        trainings.append(batch_size)
        raise OSError("the checkpoint cannot be written")

    with pytest.raises(OSError, match="checkpoint"):
        train()
    assert trainings == [128]


def test_isolated_steps_and_a_training_here(nothing_left_open):
    @autobatch.largest_batch(
        max_batch_size=64, try_batch=isolated_step, isolated=True, precision=0.0
    )
    def train(batch_size: int) -> tuple[int, int]:
        return batch_size, os.getpid()

    assert train() == (40, os.getpid())
    assert train.result.limited_by.kind is LimitKind.CRASH


def test_what_makes_no_sense_to_the_decorator_is_said():
    with pytest.raises(autobatch.UsageError, match="needs max_batch_size or start"):
        autobatch.largest_batch()
    with pytest.raises(autobatch.UsageError, match="need try_batch"):
        autobatch.largest_batch(max_batch_size=4, isolated=True)
    with pytest.raises(autobatch.UsageError, match="decorates a function"):
        autobatch.largest_batch(max_batch_size=4)(3)  # type: ignore[arg-type]
    train = autobatch.largest_batch(max_batch_size=4)(lambda batch_size: None)
    with pytest.raises(autobatch.UsageError, match="Leave the batch size out of the call"):
        train(4)


def test_the_readmes_snippets(capsys):
    section = (ROOT / "README.md").read_text().split("## Any training loop")[1].split("\n## ")[0]
    first, second = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    loop = Loop(100)
    names = {
        "make_batch": lambda batch_size: batch_size,
        "train_step": loop,
        "train_for": lambda epochs, batch_size: loop(batch_size) or epochs,
    }
    exec(first, names)
    exec(second, names)
    assert 98 <= names["result"].batch_size <= 100
    assert names["history"] == 3
    told = capsys.readouterr().out.split()
    assert told == [
        str(names["result"].batch_size),
        "memory",
        str(names["train"].result.batch_size),
    ]


# -- TensorFlow ----------------------------------------------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.parametrize("way", ["", "--isolated"])
def test_the_example_runs(way):
    """A GradientTape loop on the emulated device, measured: no size runs out of memory."""
    ran = subprocess.run(
        [sys.executable, "scripts/examples/custom_loop.py", *way.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "limited by memory" in ran.stdout, ran.stdout
    assert "out_of_memory" not in ran.stdout
    assert "trained at" in ran.stdout
