"""Which device, and what may be spent there: with a made-up machine around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from nvml_stand_in.build import Nvml, gpu

from autobatch import devices
from autobatch.devices import DeviceChoice, choose, cpu, gpu_may_be_there, memory_for_this_process
from autobatch.errors import DeviceError, UsageError
from autobatch.options import ProbeOptions
from autobatch.units import GIB, MIB


class Machine:
    """A machine of files in a folder; `free` bytes of memory are available on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cgroup = folder / "cgroup"
        self.membership = folder / "membership"
        self.free = 16 * GIB
        self.cgroup.mkdir()

    def join(self, text: str) -> None:
        """What /proc/self/cgroup says."""
        self.membership.write_text(text)

    def group(self, name: str, **files: object) -> None:
        """A control group; `memory_max` is its file memory.max."""
        folder = self.cgroup / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file.replace("_", ".", 1)).write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)

    def path(name: object) -> Path:
        return made.membership if str(name) == "/proc/self/cgroup" else Path(str(name))

    monkeypatch.setattr(devices, "_CGROUP", made.cgroup)
    monkeypatch.setattr(devices, "Path", path)
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=made.free, total=2 * made.free)
    )
    monkeypatch.delenv("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", raising=False)
    return made


# -- what this process may use -------------------------------------------------------------------


def test_without_control_groups_what_is_free_counts(machine: Machine) -> None:
    assert memory_for_this_process() == 16 * GIB


@pytest.mark.parametrize(
    "text", ["0::/\n", "0::/user/app\n", "", "garbage\n", "1:name=systemd:/\n"]
)
def test_groups_without_limits_change_nothing(machine: Machine, text: str) -> None:
    machine.join(text or "\n")
    machine.group("user/app", memory_max="max", memory_current=5 * GIB)
    if text not in ("", "garbage\n"):
        assert memory_for_this_process() == 16 * GIB


def test_what_the_control_group_leaves_counts(machine: Machine) -> None:
    machine.join("0::/user/app\n")
    machine.group("user/app", memory_max=4 * GIB, memory_current=GIB)
    assert memory_for_this_process() == 3 * GIB


def test_the_tightest_group_up_to_the_root_counts(machine: Machine) -> None:
    machine.join("0::/user/app\n")
    machine.group("", memory_max=15 * GIB, memory_current=0)
    machine.group("user", memory_max=8 * GIB, memory_current=6 * GIB)
    machine.group("user/app", memory_max=4 * GIB, memory_current=GIB)
    assert memory_for_this_process() == 2 * GIB


def test_groups_of_the_first_version_count(machine: Machine) -> None:
    machine.join("12:cpu:/docker/x\n9:memory:/docker/x\n0::/\n")
    machine.group("memory/docker/x", memory_limit_in_bytes=2 * GIB, memory_usage_in_bytes=512 * MIB)
    assert memory_for_this_process() == 1536 * MIB


def test_a_group_that_is_over_its_limit_leaves_nothing(machine: Machine) -> None:
    machine.join("0::/\n")
    machine.group("", memory_max=GIB, memory_current=2 * GIB)
    assert memory_for_this_process() == 0


def test_files_that_cannot_be_read_change_nothing(machine: Machine) -> None:
    machine.join("0::/app\n")
    machine.group("app", memory_max="nonsense", memory_current="1")
    machine.group("", memory_max=GIB)  # and no memory.current
    assert memory_for_this_process() == 16 * GIB


def test_a_group_seen_from_another_namespace_ends(machine: Machine) -> None:
    machine.join("0::/../../other\n")
    assert memory_for_this_process() == 16 * GIB


def test_the_page_cache_is_not_in_anyones_way(machine: Machine) -> None:
    machine.join("0::/app\n")
    machine.group("app", memory_max=8 * GIB, memory_current=int(7.9 * GIB))
    machine.group("app", memory_stat=f"anon {GIB}\nfile {6 * GIB}\ninactive_file {6 * GIB}")
    assert memory_for_this_process() > 5 * GIB


def test_kills_are_read_from_the_nearest_group(machine: Machine) -> None:
    assert devices.host_oom_kills() == 0
    machine.join("0::/user/app\n")
    assert devices.host_oom_kills() == 0
    machine.group("user", memory_events="low 0\noom 9\noom_kill 7")
    assert devices.host_oom_kills() == 7
    machine.group("user/app", memory_events="low 0\nhigh 1\nmax 2\noom 3\noom_kill 2")
    assert devices.host_oom_kills() == 2


def test_a_kernel_that_counts_no_kills_is_unknown(machine: Machine) -> None:
    machine.join("0::/app\n")
    machine.group("app", memory_events="low 0\nhigh 1\nmax 2\noom 3")
    assert devices.host_oom_kills() == 0


def test_this_machine_has_memory() -> None:
    assert MIB < memory_for_this_process() <= psutil.virtual_memory().total


# -- the CPU's budget ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "limit", "budget", "search"),
    [
        (10 * GIB, None, 8 * GIB, 9 * GIB),
        (10 * GIB, 512 * MIB, 512 * MIB, 2 * GIB),  # at least 2 GiB to look around in
        (10 * GIB, GIB, GIB, 4 * GIB),
        (10 * GIB, 6 * GIB, 6 * GIB, 9 * GIB),  # never more than 90 % of what is there
        (10 * GIB, 10 * GIB, 10 * GIB, 10 * GIB),  # and never less than the budget
        (10 * GIB, 512 * MIB + 12345, 512 * MIB, 2 * GIB),  # TensorFlow takes whole MiB
        (GIB, 512 * MIB, 512 * MIB, 921 * MIB),
        (0, None, MIB, MIB),
    ],
)
def test_the_cpus_budget_and_what_search_trials_may_use(
    machine: Machine, free: int, limit: int | None, budget: int, search: int
) -> None:
    machine.free = free
    assert cpu(limit) == DeviceChoice("cpu", (), budget, search)


def test_a_limit_above_what_is_there_is_refused_with_both(machine: Machine) -> None:
    machine.free = 2 * GIB
    with pytest.raises(DeviceError) as caught:
        choose(ProbeOptions(device="cpu", memory_limit="3GiB"))
    assert "3 GiB" in caught.value.message
    assert "2 GiB" in caught.value.message
    assert choose(ProbeOptions(device="cpu", memory_limit="2GiB")).budget_bytes == 2 * GIB


# -- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "indices", "fallback"),
    [
        ("gpu", (), False),
        ("gpu:0", (0,), False),
        ("gpu:3", (3,), False),
        ("gpu:2,gpu:0", (2, 0), False),
        ("auto", (), True),
    ],
)
def test_a_gpu(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    indices: tuple[int, ...],
    fallback: bool,
) -> None:
    monkeypatch.setattr(devices, "gpu_may_be_there", lambda: True)
    chosen = choose(ProbeOptions(device=device, memory_limit="6GiB"))
    assert (chosen.kind, chosen.indices, chosen.fallback) == ("gpu", indices, fallback)
    assert chosen.budget_bytes == 6 * GIB


def test_automatic_without_a_gpu_is_the_cpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "gpu_may_be_there", lambda: False)
    assert choose(ProbeOptions()).kind == "cpu"
    assert not choose(ProbeOptions()).fallback


@pytest.mark.parametrize("device", ["gpu:0,gpu:0", "gpu:0,1", "gpu:0,cpu", "gpu:0,"])
def test_several_devices_are_different_gpus(machine: Machine, device: str) -> None:
    with pytest.raises(UsageError):
        choose(ProbeOptions(device=device))


@pytest.mark.parametrize(
    "device", ["", "tpu", "cuda:0", "GPU", "gpu:", "gpu:-1", "gpu:x", "cpu:0", "auto:1", "gpu:0 "]
)
def test_another_device_is_refused_with_those_there_are(machine: Machine, device: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(ProbeOptions(device=device))
    assert repr(device) in caught.value.message
    assert "gpu:N" in caught.value.message


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("tpu", "TPUs are refused"),
        ("TPU:0", "TPUs are refused"),
        ("xpu:0", "untested"),
        ("cuda:0", "every GPU 'gpu'"),
        ("rocm", "every GPU 'gpu'"),
        ("mps", "every GPU 'gpu'"),
    ],
)
def test_what_it_is_called_elsewhere_is_told(machine: Machine, device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose(ProbeOptions(device=device))


def test_a_bad_limit_is_refused_by_name(machine: Machine) -> None:
    with pytest.raises(UsageError, match="memory_limit"):
        choose(ProbeOptions(device="cpu", memory_limit="much"))


# -- what workers are told -----------------------------------------------------------------------


def test_the_cpus_limit_is_in_the_environment() -> None:
    chosen = DeviceChoice("cpu", (), 512 * MIB, 2 * GIB)
    for proof, limit in ((True, "512"), (False, "2048")):
        assert chosen.environment(proof=proof) == {
            "TF_CPU_ALLOCATOR_USE_BFC": "true",
            "TF_CPU_BFC_MEM_LIMIT_IN_MB": limit,
            "TF_ENABLE_ONEDNN_OPTS": "0",
        }
        request = chosen.request(proof=proof)
        assert (request.kind, request.limit_bytes, request.fail_fast) == ("cpu", None, False)


def test_a_gpus_limit_is_in_the_request() -> None:
    chosen = DeviceChoice("gpu", (2,), 6 * GIB, 7 * GIB)
    assert chosen.environment(proof=True) == chosen.environment(proof=False) == {}
    proof, search = chosen.request(proof=True), chosen.request(proof=False)
    assert (proof.kind, proof.indices, proof.limit_bytes) == ("gpu", (2,), 6 * GIB)
    assert search.budget_bytes == proof.budget_bytes == 6 * GIB
    assert search.limit_bytes == 7 * GIB
    # the proof keeps TensorFlow's own waiting for memory, as training does
    assert search.fail_fast
    assert not proof.fail_fast


# -- is there a GPU? -----------------------------------------------------------------------------


@pytest.fixture
def no_pluggable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", raising=False)


@pytest.mark.usefixtures("no_pluggable")
@pytest.mark.parametrize(
    ("lines", "there"),
    [
        ((), False),
        ((gpu(0, 512), gpu(1, 512)), True),
        ((gpu(0, 512), "fail call=nvmlInitWithFlags code=9"), False),
        ((gpu(0, 512), "fail call=nvmlInitWithFlags code=4"), True),  # no permission: who knows
        ((gpu(0, 512), "fail call=nvmlDeviceGetCount_v2 code=999"), True),
    ],
)
def test_nvml_counts_gpus(nvml: Nvml, lines: tuple[str, ...], there: bool) -> None:
    nvml.say(*lines)
    code = "from autobatch import devices; print(devices.gpu_may_be_there())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (str(there), "")


@pytest.mark.parametrize(
    ("visible", "indices", "names"),
    [
        (None, (0,), ["GPU-emulated-0"]),
        (None, (), ["GPU-emulated-0", "GPU-emulated-1"]),
        ("1,0", (0,), ["GPU-emulated-1"]),
        ("GPU-emulated-1", (), ["GPU-emulated-1"]),
        ("1", (3,), ["gpu:3"]),  # not there: said by TensorFlow, later
    ],
)
def test_gpus_are_named_by_uuid_whatever_hides_and_orders_them(
    nvml: Nvml,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    indices: tuple[int, ...],
    names: list[str],
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml.say(gpu(0, 512), gpu(1, 512))
    code = f"from autobatch import devices; print(list(devices.gpu_identities({indices})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(names), done.stderr


@pytest.mark.parametrize(
    ("build", "names", "system", "kind"),
    [
        ({"is_cuda_build": True, "is_rocm_build": False}, ["NVIDIA A100"], "Linux", ""),
        ({"is_cuda_build": False}, ["Emulated GPU"], "Linux", ""),
        ({"is_rocm_build": True}, ["AMD Instinct MI300X"], "Linux", "AMD's (ROCm)"),
        ({"is_rocm_build": False}, ["METAL"], "Darwin", "Apple's (Metal)"),
    ],
)
def test_gpus_that_nobody_tried_are_known(
    build: dict[str, bool], names: list[str], system: str, kind: str
) -> None:
    assert devices.untested_gpu(build, names, system) == kind


@pytest.mark.usefixtures("no_pluggable")
def test_amds_driver_may_have_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not gpu_may_be_there()
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(devices, "_ROCM", tmp_path / "kfd")
    assert gpu_may_be_there()


@pytest.mark.usefixtures("no_pluggable")
@pytest.mark.parametrize(("file", "there"), [("libmetal_plugin.dylib", True), ("README", False)])
def test_a_plug_in_beside_tensorflow_may_bring_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, there: bool
) -> None:
    for folder in ("tensorflow", "tensorflow-plugins"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tensorflow" / "__init__.py").touch()
    (tmp_path / "tensorflow-plugins" / file).touch()
    code = "from autobatch import devices; print(devices.gpu_may_be_there())"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(there), done.stderr


@pytest.mark.usefixtures("no_pluggable")
def test_a_library_of_devices_may_bring_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", "/lib/libgpu.so")
    assert gpu_may_be_there()
