"""What a worker's answers and ends become, with a tiny program in TensorFlow's place."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autobatch import conversation, endings, protocol, worker_process
from autobatch.conversation import Conversation, OutOfTime, memory_kept
from autobatch.endings import Ending
from autobatch.errors import DeviceError, ModelError, NoGpuError, NothingFitsError, WorkerError
from autobatch.events import Event, Notice
from autobatch.launcher import Launcher
from autobatch.protocol import DeviceRequest, Failed, Prepare, RunTrial, Target, TrialDone
from autobatch.records import Outcome
from autobatch.units import MIB, format_bytes

HERE = Path(__file__).resolve().parent
BOOT = (
    "import sys; sys.path[:1] = []; sys.path += [{root!r}, " + repr(str(HERE)) + "]; "
    "import worker_sample as w; "
)
LONG = 30.0
PREPARE = Prepare(target=Target(kind="saved"), device=DeviceRequest(kind="cpu"))
TRIAL = RunTrial(batch_size=37, steps=2)
DONE = """channel.send(protocol.TrialDone(
    step_peak_bytes=(7, 9), step_seconds=(0.1, 0.1), other_peak_bytes=1, resident_bytes=1))
"""

Talk = Callable[..., Conversation]


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def talk(
    nothing_left_open: None, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> Iterator[Talk]:
    """Starts a worker that does what it is told, and speaks with it."""
    monkeypatch.setattr(worker_process, "_BOOT", BOOT)
    with Launcher(lambda *_: None) as launcher:

        def start(program: str, *, device: str = "cpu", seconds: float = 60) -> Conversation:
            environment = {**os.environ, "PROGRAM": textwrap.dedent(program)}
            worker = launcher.start("search", environment)
            deadline = time.monotonic() + seconds
            return Conversation(launcher, worker, device, events.append, deadline)

        yield start


def test_a_trial_that_goes_through(talk: Talk) -> None:
    ending = talk("channel.receive()\n" + DONE).run(TRIAL, LONG, passed=0)
    assert ending.trial.outcome is Outcome.FITS
    assert ending.trial.peak_bytes == 9
    assert ending.reusable


@pytest.mark.parametrize(
    ("program", "outcome", "said"),
    [
        ("os._exit(0)", Outcome.CRASHED, "Exit status 0 in phase step"),
        ("os.kill(os.getpid(), 9)", Outcome.CRASHED, "Killed by SIGKILL in phase step"),
        ("os.write(2, b\"terminate called after throwing an instance of 'std::bad_alloc'\\n\")\n"
         "os._exit(134)", Outcome.HOST_OUT_OF_MEMORY, "bad_alloc"),
        ("os.write(write_fd, b'Traceback'); time.sleep(60)", Outcome.CRASHED, "is corrupt"),
        ("os.write(write_fd, b'\\0\\0\\0\\2{]'); time.sleep(60)", Outcome.CRASHED, "read"),
        ("time.sleep(60)", Outcome.TIMED_OUT, "no answer within 5 s; it was in phase step"),
    ],
)  # fmt: skip
def test_every_end_is_a_trial(talk: Talk, program: str, outcome: Outcome, said: str) -> None:
    worker = talk(f"channel.receive()\nsay('step')\n{program}")
    ending = worker.run(TRIAL, 5.0 if outcome is Outcome.TIMED_OUT else LONG, passed=36)
    assert ending.trial.outcome is outcome, ending.trial
    assert said in (ending.trial.why or "")
    assert (ending.trial.phase, ending.trial.batch_size) == ("step", 37)
    assert not ending.reusable
    assert ending.answer is None
    worker.bury()


def test_the_probes_own_time_is_another_matter(talk: Talk) -> None:
    with pytest.raises(OutOfTime):
        talk("time.sleep(60)", seconds=0.5).run(TRIAL, LONG, passed=0)


def test_an_exception_leaves_the_worker_of_use_unless_xla_has_run_out(talk: Talk) -> None:
    program = """
    channel.receive()
    channel.send(protocol.Prepared(model="m", device_name="d", limit_bytes=9, resident_bytes=1,
        jit_compile={jit}))
    channel.receive()
    channel.send(protocol.Failed(exception_types=("ResourceExhaustedError",), phase="step",
        message="OOM when allocating tensor with shape[9] ... by allocator GPU_0_bfc",
        step_peak_bytes=(5, 6)))
    """
    for jit in (False, True):
        worker = talk(program.format(jit=jit))
        worker.ask(PREPARE)
        assert worker.prepared(LONG, None).jit_compile is jit
        ending = worker.run(TRIAL, LONG, passed=0)
        assert ending.trial.outcome is Outcome.OUT_OF_MEMORY
        assert ending.trial.step_peak_bytes == (5, 6)
        assert ending.reusable is not jit


# -- loading -------------------------------------------------------------------------------------


def end(message: str = "", *types: str, **fields: object) -> endings.End:
    failed = Failed(exception_types=types, message=message, ours=bool(fields.pop("ours", False)))
    return endings.End(phase="building", device="cpu", failed=failed if message else None, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "outcome", "error", "said"),
    [
        (end("no gpu", "NoGpuError", "DeviceError", ours=True), Outcome.FAILED, NoGpuError, ""),
        (end("no stats", "DeviceError", ours=True), Outcome.FAILED, DeviceError, "no stats"),
        (end("Unable to allocate 9.00 GiB for an array", "_ArrayMemoryError", "MemoryError"),
         Outcome.HOST_OUT_OF_MEMORY, NothingFitsError, "The host's memory ran out"),
        (end("OOM when allocating tensor by allocator bfc_cpu_allocator_for_gpu",
             "ResourceExhaustedError"),
         Outcome.OUT_OF_MEMORY, NothingFitsError, "exceed the limit of 64 MiB"),
        (end("seven", "KeyError"), Outcome.FAILED, ModelError, "it raised KeyError"),
        (end(exit_status=-11), Outcome.CRASHED, WorkerError, "died while building"),
        (end(silent_seconds=3.0), Outcome.TIMED_OUT, WorkerError, "still building after 3 s"),
    ],
)  # fmt: skip
def test_why_a_worker_could_not_load(
    how: endings.End, outcome: Outcome, error: type[Exception], said: str
) -> None:
    failure = endings.loading_failed(how, 64 * MIB)
    assert failure.outcome is outcome
    assert type(failure.error) is error
    assert said in failure.error.message


def test_a_proof_that_memory_does_not_let_begin_says_which_memory() -> None:
    how = end("Unable to allocate 9.00 GiB for an array", "_ArrayMemoryError", "MemoryError")
    request = protocol.RunTrial(batch_size=8, steps=8, proof=True)
    trial = endings.not_loaded(request, endings.loading_failed(how, 64 * MIB))
    assert trial.outcome is Outcome.HOST_OUT_OF_MEMORY
    assert (trial.proof, trial.phase) == (True, "loading")


# -- does the memory come back? ------------------------------------------------------------------


def nvml(pid: int, looks: int) -> SimpleNamespace:
    """pynvml on a machine whose second GPU lists the process for that many looks."""
    seen = iter(range(looks))

    def processes(gpu: int) -> list[SimpleNamespace]:
        listed = gpu == 1 and next(seen, None) is not None
        return [SimpleNamespace(pid=pid, usedGpuMemory=3 * MIB)] if listed else []

    return SimpleNamespace(
        NVMLError=type("NVMLError", (Exception,), {}),
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=processes,
    )


@pytest.mark.parametrize(
    ("device", "looks", "told"),
    [("gpu", 10_000, True), ("gpu", 4, False), ("gpu", 0, False), ("cpu", 10_000, False)],
)
def test_memory_that_does_not_come_back_is_told(
    talk: Talk,
    monkeypatch: pytest.MonkeyPatch,
    events: list[Event],
    device: str,
    looks: int,
    told: bool,
) -> None:
    worker = talk("say('step'); channel.receive()", device=device)
    pid = None
    while pid is None:
        pid = worker._worker.pid
    monkeypatch.setitem(sys.modules, "pynvml", nvml(pid, looks))
    monkeypatch.setattr(conversation.memory_kept, "__defaults__", (0.3, 0.01))
    worker.bury()
    said = [event.text for event in events if isinstance(event, Notice)]
    assert len(said) == told
    assert all(
        f"still counts {format_bytes(3 * MIB)} for a worker that has ended (process {pid})" in s
        for s in said
    )


def test_some_patience_for_the_driver() -> None:
    counts = iter([5, 4, None])
    assert memory_kept(lambda: next(counts), LONG, 0.001) is None
    assert memory_kept(lambda: 8, 0.01, 0.001) == 8


def test_a_trial_that_used_more_than_the_budget_ran_out_of_memory() -> None:
    done = TrialDone(
        step_peak_bytes=(7, 9), step_seconds=(0.1, 0.1), other_peak_bytes=11, resident_bytes=1
    )
    ending = Ending(done.as_trial(TRIAL), done, reusable=True)
    for enough in (None, 11):
        assert ending.within(enough) is ending
    beyond = ending.within(10)
    assert beyond.trial.outcome is Outcome.OUT_OF_MEMORY
    assert "11 bytes of 10 bytes" in (beyond.trial.why or "")
    assert beyond.done is None
