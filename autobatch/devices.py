"""Which device a probe uses, and what it may spend there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autobatch import nvml, visible_devices
from autobatch.errors import DeviceError, UsageError
from autobatch.options import DEVICES, ProbeOptions
from autobatch.protocol import DeviceRequest
from autobatch.units import GIB, MIB, format_bytes, parse_bytes

DEFAULT_SHARE = 0.8  # of the memory that this process may use, on the CPU
MOST_SHARE = 0.9  # of it, for search trials that look beyond the budget
LOOSENESS = 4  # times the budget: enough for a size twice too large whose memory is quadratic
NO_TENSORFLOW = (
    "TensorFlow is not installed here. Take the build for this machine: "
    "pip install 'keras-autobatch[gpu]' or pip install 'keras-autobatch[cpu]'."
)
_GPU_IS_GPU = " TensorFlow calls every GPU 'gpu', whoever made it."
_OTHERS = {  # what people ask for, too
    "tpu": " TPUs are refused: TensorFlow does not tell how much of their memory is in use.",
    "xpu": " Devices of type XPU are untested, and refused.",
    **dict.fromkeys(("cuda", "rocm", "metal", "mps", "amd", "nvidia"), _GPU_IS_GPU),
}
_ROCM = Path("/dev/kfd")  # the AMD driver's door for computing
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device, and the two limits that workers run under.

    Attributes:
        kind: `cpu` or `gpu`.
        indices: TensorFlow's numbers of the GPUs; none of them for those that a training sees.
        budget_bytes: What the training may use; None for all that the GPU's allocator has.
        search_bytes: What search trials may use; None likewise.
        fallback: There may be no GPU after all; the CPU will do then.
        strategy: `mirrored`, where the probe is to put the model on several GPUs.
    """

    kind: str
    indices: tuple[int, ...] = ()
    budget_bytes: int | None = None
    search_bytes: int | None = None
    fallback: bool = False
    strategy: str | None = None

    @property
    def index(self) -> int:
        """TensorFlow's number of the first GPU."""
        return self.indices[0] if self.indices else 0

    def environment(self, *, proof: bool) -> dict[str, str]:
        """Variables that a worker needs before TensorFlow is imported."""
        if self.kind != "cpu":
            return {}
        limit = self.budget_bytes if proof else self.search_bytes
        assert limit is not None
        return {
            "TF_CPU_ALLOCATOR_USE_BFC": "true",
            "TF_CPU_BFC_MEM_LIMIT_IN_MB": str(limit // MIB),
            "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN answers an OOM with a segmentation fault
        }

    def request(self, *, proof: bool) -> DeviceRequest:
        """The device as a worker is asked for it."""
        limit = self.budget_bytes if proof else self.search_bytes
        gpu = self.kind == "gpu"
        return DeviceRequest(
            kind=self.kind,
            indices=self.indices,
            limit_bytes=limit if gpu else None,
            budget_bytes=self.budget_bytes if gpu else None,
            strategy=self.strategy,
            fail_fast=gpu and not proof,
        )


def choose(options: ProbeOptions) -> DeviceChoice:
    """The device that the options ask for, or the best there is.

    Raises:
        UsageError: There is no such kind of device.
        DeviceError: The limit is more than the machine has.
    """
    asked = options.device
    several = re.fullmatch(r"gpu:[0-9]+(?:,gpu:[0-9]+)*", asked)
    indices = tuple(int(number) for number in re.findall(r"[0-9]+", asked)) if several else ()
    if not (several or asked in ("auto", "cpu", "gpu")) or len(set(indices)) < len(indices):
        kind = re.split(r"[:,]", asked.strip().lower())[0]
        raise UsageError(f"device must be {DEVICES}; received {asked!r}.{_OTHERS.get(kind, '')}")
    limit = parse_bytes(options.memory_limit, "memory_limit") if options.memory_limit else None
    if asked.startswith("gpu") or (asked == "auto" and (options.strategy or gpu_may_be_there())):
        fallback = asked == "auto" and options.strategy is None
        return DeviceChoice("gpu", indices, limit, None, fallback, options.strategy)
    if options.strategy:
        raise UsageError(
            f"strategy {options.strategy!r} spreads a model over GPUs; the device is {asked!r}. "
            "Give --devices gpu:0,gpu:1, or leave the strategy out."
        )
    return cpu(limit)


def cpu(limit_bytes: int | None) -> DeviceChoice:
    """The CPU behind TensorFlow's GPU allocator, with this budget or the default one."""
    available = memory_for_this_process()
    if limit_bytes is not None and limit_bytes > available:
        raise DeviceError(
            f"The memory limit of {format_bytes(limit_bytes)} is more than the "
            f"{format_bytes(available)} that this process may use here. Give a smaller one."
        )
    budget = limit_bytes if limit_bytes is not None else int(DEFAULT_SHARE * available)
    budget = max(MIB, budget // MIB * MIB)
    loose = min(max(LOOSENESS * budget, 2 * GIB), int(MOST_SHARE * available))
    return DeviceChoice("cpu", (), budget, max(budget, loose // MIB * MIB))


def gpu_may_be_there() -> bool:
    """Whether NVML may know a GPU, AMD's driver is there, or TensorFlow loads a library of devices.

    Such a library may be named by a variable, or be installed (`tensorflow-metal`, say).
    """
    if os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH") or _ROCM.exists() or _plugins():
        return True
    try:
        return bool(nvml.read().gpus)
    except nvml.NvmlError as error:  # a driver that does not answer may have one all the same
        return error.code not in nvml.NO_DRIVER


def has_tensorflow() -> bool:
    """Whether it is installed; to import it would take seconds."""
    return importlib.util.find_spec("tensorflow") is not None


def _plugins() -> bool:
    """Whether a library of devices lies where TensorFlow looks for them when it is imported."""
    spec = importlib.util.find_spec("tensorflow")
    folders = spec.submodule_search_locations if spec is not None else None
    beside = [Path(each).parent / "tensorflow-plugins" for each in folders or ()]
    return any(
        each.suffix in (".so", ".dylib") for f in beside if f.is_dir() for each in f.iterdir()
    )


def untested_gpu(build: Mapping[str, Any], names: Sequence[str], system: str) -> str:
    """The sort of GPU, where it is one that nobody tried autobatch on; else empty.

    Args:
        build: TensorFlow's `get_build_info`.
        names: Of the GPUs, as TensorFlow describes them.
        system: The operating system, by `platform.system`.
    """
    if build.get("is_rocm_build"):
        return "AMD's (ROCm)"
    if system == "Darwin" or any("METAL" in name.upper() for name in names):
        return "Apple's (Metal)"
    return ""


def gpu_identity(index: int) -> str:
    """What names TensorFlow's GPU `index` for every process of this machine: its UUID if known."""
    return _identity_among(_seen(), index)


def _seen() -> Sequence[visible_devices.Visible]:
    """The GPUs that this process sees, as NVML knows them; none where it cannot be read."""
    with contextlib.suppress(DeviceError):
        return visible_devices.visible(nvml.read().gpus, os.environ).devices
    return ()


def _identity_among(seen: Sequence[visible_devices.Visible], index: int) -> str:
    if index < len(seen):
        instance = seen[index].instance
        return instance.uuid if instance is not None else seen[index].gpu.uuid
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = [each.strip() for each in visible.split(",")] if visible else []
    entry = entries[index] if index < len(entries) else str(index)
    return f"gpu:{entry}" if entry.isdecimal() else entry  # a UUID, or a part of one


def gpu_identities(indices: tuple[int, ...]) -> tuple[str, ...]:
    """The same for several; where no numbers are given, for all that this process sees."""
    seen = _seen()
    return tuple(_identity_among(seen, each) for each in indices or range(len(seen)) or (0,))


def gpu_memory_of(pid: int) -> int | None:
    """Bytes that the GPUs count for a process; None where none lists it, or cannot be read."""
    with contextlib.suppress(DeviceError):
        return nvml.memory_of(pid)
    return None


def identity(pci_address: str) -> tuple[str, str]:
    """The UUID of the GPU at this address and its driver's version, by NVML; else empty texts."""
    if ":" not in pci_address:
        return "", ""
    try:
        driver = nvml.read()
    except DeviceError:
        return "", ""
    wanted = nvml.canonical_bus_id(pci_address)
    uuids = [gpu.uuid for gpu in driver.gpus if gpu.bus_id == wanted]
    return (uuids[0], driver.version) if uuids else ("", "")


def memory_for_this_process() -> int:
    """Bytes of host memory that may still be taken: what is free, and what control groups leave."""
    import psutil

    free = [int(psutil.virtual_memory().available)]
    for group in _control_groups():
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with contextlib.suppress(OSError, ValueError):
                cap, taken = (int((group / name).read_text()) for name in (limit, used))
                free.append(max(0, cap - taken + _reclaimable(group)))
    return min(free)


def host_oom_kills() -> int:
    """Kills by the kernel's out-of-memory killer in our control group so far; 0 if unknown."""
    for group in _control_groups():
        with contextlib.suppress(OSError, ValueError, KeyError):
            return _counters(group / "memory.events")["oom_kill"]
    return 0


def _reclaimable(group: Path) -> int:
    """Bytes of files' pages that count as used, and that the kernel gives up when asked."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _counters(group / "memory.stat")["inactive_file"]
    return 0


def _counters(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value in lines}


def _control_groups() -> Iterator[Path]:
    """This process's control groups for memory, from its own up to the root."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            root = _CGROUP / "memory" if controllers == "memory" else _CGROUP
            if controllers in ("", "memory"):
                path = root / name.lstrip("/")
                while path != root.parent and path != path.parent:
                    yield path
                    path = path.parent
