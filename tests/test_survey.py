"""What `autobatch devices` makes of NVML's word and TensorFlow's, and of their silence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest
from nvml_stand_in.build import Nvml, gpu

from autobatch import nvml as driver_room
from autobatch.nvml import Driver, Gpu, Instance, NvmlError
from autobatch.records import GpuProcess
from autobatch.report.devices import devices as render
from autobatch.survey import Survey, TensorFlowGpu, TensorFlowView, ask_tensorflow, combine
from autobatch.units import GIB, MIB

BOARD = Gpu(
    index=0,
    name="NVIDIA A100",
    uuid="GPU-1",
    bus_id="0000:01:00.0",
    compute_capability="8.0",
    total_bytes=40 * GIB,
    used_bytes=GIB,
    processes=(GpuProcess(pid=7, name="other", used_bytes=GIB),),
)
DRIVER = Driver(version="550.54", cuda="12.4", gpus=(BOARD,))
SEEN = TensorFlowGpu(name="NVIDIA A100", bus_id="0000:01:00.0", limit_bytes=38 * GIB)
CUDA = TensorFlowView(version="2.21.0", cuda="12.5.1", cudnn="9", built_with_cuda=True)
NO_DRIVER = NvmlError("NVML could not be read: no driver.", code=12)


def with_gpu(view: TensorFlowView = CUDA) -> TensorFlowView:
    return msgspec.structs.replace(view, gpus=(SEEN,), allocator="bfc")


def test_both_sides_meet_on_the_pci_bus() -> None:
    other = msgspec.structs.replace(BOARD, index=0, uuid="GPU-0", bus_id="0000:00:1e.0")
    board = msgspec.structs.replace(BOARD, index=1)
    found = combine(Driver(gpus=(other, board)), with_gpu(), {})
    assert [(each.device, each.uuid) for each in found.gpus] == [
        ("gpu:0", "GPU-1"),
        (None, "GPU-0"),
    ]
    assert found.gpus[0].allocatable_bytes == 38 * GIB
    assert found.gpus[1].allocatable_bytes is None
    assert found.problems == ()


def test_of_a_gpu_in_mig_mode_the_instance_counts() -> None:
    part = Instance(uuid="MIG-2", total_bytes=5 * GIB, used_bytes=0)
    board = msgspec.structs.replace(BOARD, instances=(Instance(uuid="MIG-1"), part))
    environment = {"CUDA_VISIBLE_DEVICES": "MIG-2"}
    found = combine(Driver(gpus=(board,)), with_gpu(), environment).gpus[0]
    assert (found.mig, found.total_bytes, found.used_bytes) == ("MIG-2", 5 * GIB, 0)


@pytest.mark.parametrize(
    ("view", "environment", "said"),
    [
        (TensorFlowView(version="2.21.0"), {}, "built without CUDA"),
        (CUDA, {"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES is '-1'"),
        (
            msgspec.structs.replace(CUDA, log="Cannot dlopen some GPU libraries. Please make"),
            {},
            "tensorflow[and-cuda]",
        ),
        (msgspec.structs.replace(CUDA, cuda="13.0"), {}, "Update the driver"),
        (CUDA, {}, "--verbose"),
        (TensorFlowView(error="TensorFlow could not be asked: boom"), {}, "boom"),
    ],
)
def test_why_tensorflow_sees_no_gpu(
    view: TensorFlowView, environment: dict[str, str], said: str
) -> None:
    found = combine(DRIVER, view, environment)
    assert [each.device for each in found.gpus] == [None]
    assert len(found.problems) == 1
    assert said in found.problems[0]
    assert "Problem: " in render(found)


def test_without_tensorflow_the_card_is_listed_and_the_advice_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    uuid = "GPU-cadfe1e6-7368-9abe-31f1-1272846657d8"
    board = msgspec.structs.replace(BOARD, uuid=uuid)
    text = render(combine(Driver(gpus=(board,)), ask_tensorflow(), {}), width=60)
    assert text.startswith("unseen by TensorFlow: NVIDIA A100")
    assert f" {uuid}\n" in text  # in one piece
    assert "pip install 'keras-autobatch[gpu]'" in text


def test_without_driver_and_cuda_there_is_one_line_and_no_problem() -> None:
    found = combine(NO_DRIVER, TensorFlowView(version="2.21.0"), {}, GIB)
    text = render(found)
    assert found.problems == ()
    assert "\n" not in text
    assert text.startswith("No GPU here")
    assert "1 GiB" in text


def test_a_cuda_build_without_a_driver_has_a_problem() -> None:
    assert combine(NO_DRIVER, CUDA, {}).problems == (NO_DRIVER.message,)


@pytest.mark.parametrize(
    ("board", "said"),
    [
        (msgspec.structs.replace(BOARD, prohibited=True), "prohibited"),
        (msgspec.structs.replace(BOARD, exclusive=True), "another process has it"),
        (msgspec.structs.replace(BOARD, exclusive=True, processes=()), "one after the other"),
        (msgspec.structs.replace(BOARD, error="GPU is lost. Look at dmesg"), "GPU is lost"),
        (msgspec.structs.replace(BOARD, ecc_errors=2), "2 error(s) that could not be corrected"),
    ],
)
def test_what_is_wrong_with_one_gpu(board: Gpu, said: str) -> None:
    found = combine(Driver(gpus=(board,)), with_gpu(), {})
    assert said in found.gpus[0].problems[0]
    assert said in " ".join(render(found).split())


@pytest.mark.parametrize(
    ("view", "release", "said"),
    [
        (with_gpu(), "6.6.87-microsoft-standard-WSL2", "moves into the host's memory"),
        (msgspec.structs.replace(with_gpu(), untested="AMD's (ROCm)"), "", "untested there"),
        (msgspec.structs.replace(with_gpu(), accelerators=("TPU",)), "", "type TPU"),
    ],
)
def test_what_is_worth_knowing_is_noted(view: TensorFlowView, release: str, said: str) -> None:
    found = combine(DRIVER, view, {}, release=release)
    assert len(found.notes) == 1
    assert said in found.notes[0]
    assert said in render(found)
    assert combine(DRIVER, with_gpu(), {}, release="6.8.0-generic").notes == ()


def test_an_accelerator_without_a_gpu_beside_it_is_a_problem() -> None:
    view = TensorFlowView(version="2.21.0", accelerators=("TPU",))
    assert "refuses" in combine(NO_DRIVER, view, {}).problems[0]


def test_who_uses_it_is_shown_and_what_is_not_known_is_said() -> None:
    assert "process 7 (other): 1 GiB" in render(combine(DRIVER, with_gpu(), {}))
    silent = msgspec.structs.replace(BOARD, processes=None)
    assert "does not say which" in render(combine(Driver(gpus=(silent,)), with_gpu(), {}))
    hidden = msgspec.structs.replace(BOARD, processes=(GpuProcess(pid=7),))
    assert "memory unknown" in render(combine(Driver(gpus=(hidden,)), with_gpu(), {}))


def test_a_process_cannot_steer_the_terminal_by_its_name() -> None:
    evil = msgspec.structs.replace(
        BOARD, processes=(GpuProcess(pid=7, name="\x1b[2Jx\ny", used_bytes=1),)
    )
    text = render(combine(Driver(gpus=(evil,)), with_gpu(), {}))
    assert "\x1b" not in text
    assert "(x y)" in text


# -- NVML's errors, through real pynvml ----------------------------------------------------------


def read(program: str) -> str:
    code = f"from autobatch import nvml\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


TRY = """
try:
    print(nvml.read())
except nvml.NvmlError as error:
    print(error.code, error.message)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (4, "permission"),
        (9, "modprobe nvidia"),
        (18, "library and its kernel module differ"),
        (999, "Unknown Error"),
    ],
)
def test_a_driver_that_does_not_answer_is_told_with_a_remedy(
    nvml: Nvml, code: int, said: str
) -> None:
    nvml.say(gpu(0, 512), f"fail call=nvmlInitWithFlags code={code}")
    assert read(TRY).startswith(f"{code} NVML could not be read")
    assert said in read(TRY)


def test_without_the_library_there_is_no_driver() -> None:
    assert read(TRY).startswith(f"{driver_room.NO_DRIVER[1]} ")


def test_one_gpu_that_is_lost_does_not_hide_the_other(nvml: Nvml) -> None:
    nvml.say(gpu(0, 512, error=15), gpu(1, 768))
    said = read("g = nvml.read().gpus; print([(x.index, x.lost, x.total_bytes) for x in g])")
    assert said.strip() == str([(0, True, None), (1, False, 768 * MIB)])


def test_everything_of_a_gpu_is_read(nvml: Nvml) -> None:
    nvml.say(
        "driver version=570.1 cuda=12080",
        gpu(0, 512, cc="9.0", mode=3, reserved=2 * MIB, ecc=2),
        f"process pid=77 bytes={MIB} name=/usr/bin/x",
        "process pid=78 bytes=- name=/usr/bin/y",
        f"instance uuid=MIG-1 total={8 * MIB} used={MIB}",
    )
    program = "import msgspec; print(msgspec.json.encode(nvml.read()).decode())"
    found = msgspec.json.decode(read(program), type=Driver)
    assert (found.version, found.cuda) == ("570.1", "12.8")
    assert found.gpus == (
        Gpu(
            index=0,
            name="Emulated GPU",
            uuid="GPU-emulated-0",
            bus_id="0000:01:00.0",
            compute_capability="9.0",
            total_bytes=512 * MIB,
            used_bytes=MIB,
            reserved_bytes=2 * MIB,
            processes=(
                GpuProcess(pid=77, name="/usr/bin/x", used_bytes=MIB),
                GpuProcess(pid=78, name="/usr/bin/y"),
            ),
            instances=(Instance(uuid="MIG-1", total_bytes=8 * MIB, used_bytes=MIB),),
            exclusive=True,
            ecc_errors=2,
        ),
    )


# -- the command ---------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autobatch", "devices", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.tensorflow
def test_without_driver_and_gpu_the_command_says_one_line() -> None:
    done = command()
    assert done.returncode == 0
    assert done.stdout.startswith("No GPU here")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.tensorflow
def test_the_command_matches_reordered_gpus_by_their_bus(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu("512,768", 2, EMULATED_GPU_FASTEST_FIRST="1,0", EMULATED_GPU_SYSTEM_MB="32")
    nvml.say(gpu(0, 512), f"process pid=1 bytes={128 * MIB} name=/usr/bin/other", gpu(1, 768))
    done = command("--json")
    found = msgspec.json.decode(done.stdout, type=Survey)
    assert done.returncode == 0
    assert [(g.device, g.uuid, g.allocatable_bytes) for g in found.gpus] == [
        ("gpu:0", "GPU-emulated-1", 736 * MIB),
        ("gpu:1", "GPU-emulated-0", 352 * MIB),
    ]
    assert found.gpus[1].processes == (
        GpuProcess(pid=1, name="/usr/bin/other", used_bytes=128 * MIB),
    )
    assert json.loads(done.stdout)["schema_version"] == 1
