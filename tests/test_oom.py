"""The diagnosis against a table of real wordings, and against any text there is."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oom_cases import BENIGN, EXHAUSTED, MEMORY, OTHER, TIGHT, VALUE
from oom_unseen_cases import DEVICE_UNSEEN, HOST_UNSEEN, OTHER_UNSEEN

from autobatch.oom import Diagnosis, Evidence, diagnose
from autobatch.records import Outcome

ENDS = {Outcome.OUT_OF_MEMORY, Outcome.HOST_OUT_OF_MEMORY, Outcome.CRASHED, Outcome.FAILED}


def check(diagnosis: Diagnosis) -> None:
    assert diagnosis.outcome in ENDS
    assert diagnosis.certainty in ("certain", "likely", "unknown")
    assert len(diagnosis.why) <= 300
    for text in (diagnosis.why, diagnosis.operation or "", diagnosis.allocator or ""):
        assert all(char.isprintable() for char in text)
    assert diagnosis.allocation_bytes is None or diagnosis.allocation_bytes >= 0


@pytest.mark.parametrize("name", [*MEMORY, *OTHER])
def test_the_table(name):
    outcome, evidence = {**MEMORY, **OTHER}[name]
    diagnosis = diagnose(evidence)
    check(diagnosis)
    assert diagnosis.outcome is outcome, diagnosis


OUTCOMES = {
    DEVICE_UNSEEN: {Outcome.OUT_OF_MEMORY},
    HOST_UNSEEN: {Outcome.HOST_OUT_OF_MEMORY},
    OTHER_UNSEEN: {Outcome.FAILED, Outcome.CRASHED},
}


@pytest.mark.parametrize(
    ("outcomes", "evidence"),
    [(outcomes, each) for cases, outcomes in OUTCOMES.items() for each in cases],
)
@pytest.mark.parametrize("smaller", [False, True])
def test_what_the_rules_were_not_made_from(outcomes, evidence, smaller):
    """A smaller size that ran, as there nearly always is, makes memory of nothing that is none."""
    diagnosis = diagnose(replace(evidence, smaller_size_passed=smaller))
    check(diagnosis)
    assert diagnosis.outcome in outcomes, diagnosis


def test_the_table_is_large_and_has_both_sides():
    assert not set(MEMORY) & set(OTHER)
    assert len(MEMORY) + len(OTHER) >= 100
    assert len(OTHER) * 3 >= len(MEMORY) + len(OTHER)


@pytest.mark.parametrize("name", MEMORY)
def test_memory_stays_memory_behind_a_benign_warning(name):
    outcome, evidence = MEMORY[name]
    fields = {field: getattr(evidence, field) for field in Evidence.__slots__}
    assert diagnose(Evidence(**{**fields, "log": BENIGN + evidence.log})).outcome is outcome


@pytest.mark.parametrize("name", [name for name in MEMORY if MEMORY[name][1].exception_types])
def test_memory_stays_memory_as_the_context_of_a_users_error(name):
    outcome, evidence = MEMORY[name]
    fields = {field: getattr(evidence, field) for field in Evidence.__slots__}
    wrapped = {
        "exception_types": VALUE,
        "message": "the step went wrong",
        "causes": ((evidence.exception_types, evidence.message), *evidence.causes),
    }
    assert diagnose(Evidence(**{**fields, **wrapped})).outcome is outcome


@pytest.mark.parametrize(
    ("name", "nbytes", "operation", "allocator"),
    [
        ("bfc", 25088 * 4096 * 4, None, "GPU_0_bfc"),
        ("eager", 60000 * 16 * 28 * 28 * 4, "FusedBatchNorm", "GPU_0_bfc"),
        ("two roots", 16 * 112 * 112 * 147 * 4, "resnet/conv1", "GPU_0_bfc"),
        ("graph on the emulated device", 64**2 * 256**2 * 4, "Conv2D", "bfc_cpu_allocator_for_gpu"),
        ("data beyond the device", 400_000_000, None, "bfc_cpu_allocator_for_gpu"),
        ("convolution algorithm, log", 1_610_612_736, "conv1/Conv2D", "GPU_0_bfc"),
        ("no shape", None, "Mul", None),
        ("XLA", 6_291_456, None, None),
        ("JAX", 3_206_250_496, None, None),
        ("growth ends in death", 2_282_521_344, None, None),
        ("pinned host memory", 34_359_738_368, None, None),
        ("MIOpen", 655_360_000, None, None),
        ("numpy", int(1.61 * 2**30), None, None),
        ("torch", int(1.70 * 2**30), None, None),
        ("CuPy", 805_306_368, None, None),
        ("TPU reserve", int(10.51 * 2**30), None, None),
        ("torch on the host", 116_813_856_768, None, None),
    ],
)
def test_particulars(name, nbytes, operation, allocator):
    diagnosis = diagnose(MEMORY[name][1])
    assert diagnosis.allocation_bytes == nbytes
    assert diagnosis.operation == operation
    assert diagnosis.allocator == allocator


@pytest.mark.parametrize(
    ("side", "name", "certainty", "words"),
    [
        (MEMORY, "bfc", "certain", "OOM when allocating tensor"),
        (MEMORY, "bad_alloc", "certain", "Killed by SIGABRT"),
        (MEMORY, "kernel", "certain", "Killed by SIGKILL"),
        (MEMORY, "kernel through a shell", "certain", "Exit status 137 (SIGKILL)"),
        (MEMORY, "convolution algorithm, smaller ran", "likely", "smaller batch sizes ran"),
        (MEMORY, "dst tensor", "likely", "Dst tensor is not initialized"),
        (OTHER, "cuDNN's version", "likely", "7.5.0 but source"),
        (OTHER, "convolution algorithm, nothing known", "unknown", "or something else"),
        (MEMORY, "data beyond the device", "certain", "Killed by SIGSEGV in phase building: W0000"),
        (OTHER, "segfault", "unknown", "Killed by SIGSEGV"),
        (OTHER, "exit 3", "unknown", "Exit status 3: bye"),
        (OTHER, "a signal nobody knows", "unknown", "Exit status -250"),
        (OTHER, "memory cells", "certain", "ValueError: expected 4 memory cells"),
        (OTHER, "disk", "certain", "No space left on device"),
    ],
)
def test_how_sure_and_why(side, name, certainty, words):
    diagnosis = diagnose(side[name][1])
    assert diagnosis.certainty == certainty
    assert words in diagnosis.why
    probably = "probably lack of the device's memory: " if certainty == "likely" else ""
    assert diagnosis.told == (probably if side is MEMORY else "") + diagnosis.why


def test_a_real_failure_next_to_a_benign_one_counts():
    assert diagnose(Evidence(exit_status=-6, log=TIGHT + BENIGN)).outcome is Outcome.OUT_OF_MEMORY
    assert diagnose(Evidence(exit_status=-6, log=BENIGN + TIGHT)).outcome is Outcome.OUT_OF_MEMORY


def test_colours_and_carriage_returns_hide_nothing():
    log = "1/9 [=>....]\r2/9 [==>...]\r\x1b[31mE cuda.cc:1] CUDA_ERROR_\x1b[0mOUT_OF_MEMORY\x00\n"
    diagnosis = diagnose(Evidence(exit_status=1, log=log))
    assert diagnosis.outcome is Outcome.OUT_OF_MEMORY
    check(diagnosis)


def test_a_message_in_one_line_is_read_whole():
    message = "x" * 5000 + MEMORY["bfc"][1].message + "y" * 5000
    assert diagnose(Evidence(exception_types=EXHAUSTED, message=message)).operation is None
    assert diagnose(Evidence(exception_types=EXHAUSTED, message=message)).certainty == "certain"


WORDS = st.sampled_from(
    [BENIGN, TIGHT, "out of memory", "shape[", "Allocator (", "\x1b[", "[[node ", "\ud800", "\0"]
)
TEXT = st.one_of(
    st.text(st.characters(codec=None), max_size=400),
    st.lists(st.one_of(WORDS, st.text(max_size=20)), max_size=20).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(
    types=st.lists(st.one_of(st.sampled_from([*EXHAUSTED, "ValueError"]), TEXT), max_size=3),
    message=TEXT,
    causes=st.lists(st.tuples(st.just(()), TEXT), max_size=2),
    log=TEXT,
    status=st.one_of(st.none(), st.integers(-300, 300), st.integers()),
    device=st.sampled_from(["gpu", "cpu"]),
    free=st.one_of(st.none(), st.integers()),
    limit=st.one_of(st.none(), st.integers()),
    kills=st.integers(0, 2),
)
@example([], "", [], "", 10**30, "gpu", None, None, 0)
@example([], "OOM when allocating tensor with shape[9,,] and type x", [], "", 1, "cpu", 0, 0, 0)
def test_any_text_is_taken(types, message, causes, log, status, device, free, limit, kills):
    check(
        diagnose(
            Evidence(
                exception_types=tuple(types),
                message=message,
                causes=tuple(causes),
                log=log,
                exit_status=status,
                device=device,
                device_free_bytes=free,
                device_limit_bytes=limit,
                host_oom_kills=kills,
            )
        )
    )


@settings(max_examples=15, deadline=None)
@given(piece=st.text(st.characters(codec=None), min_size=1, max_size=60), ends=st.booleans())
@example("out of memory ", False)
@example("ran out of memory trying to allocate ", False)
@example("Allocator (", False)
@example("\x1b[", False)
@example("\x1b[0", True)
@example("failed to allocate CUDA_ERROR ", True)
@example("shape[1,", False)
@example("shared memory no space ", False)
@example("OOM when allocating tensor with shape[1,2] and type float ", True)
@example("Traceback (most recent call last):\nE: ", True)
def test_a_megabyte_is_taken_quickly(piece, ends):
    count = 2**20 // len(piece) + 1
    text = "".join(f"{piece}{i}\n" for i in range(2**18 // len(piece))) if ends else piece * count
    started = time.process_time()
    check(diagnose(Evidence(exit_status=-6, log=text)))
    check(diagnose(Evidence(exception_types=EXHAUSTED, message=text, causes=(((), text),))))
    assert time.process_time() - started < 30
