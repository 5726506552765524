"""Which device a probe uses, and what it may spend there. The one door to pynvml."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autobatch.errors import DeviceError, UsageError
from autobatch.options import DEVICES, ProbeOptions
from autobatch.protocol import DeviceRequest
from autobatch.units import GIB, MIB, format_bytes, parse_bytes

DEFAULT_SHARE = 0.8  # of the memory that this process may use, on the CPU
MOST_SHARE = 0.9  # of it, for search trials that look beyond the budget
LOOSENESS = 4  # times the budget: enough for a size twice too large whose memory is quadratic
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device, and the two limits that workers run under.

    Attributes:
        kind: `cpu` or `gpu`.
        index: TensorFlow's number of the GPU.
        budget_bytes: What the training may use; None for all that the GPU's allocator has.
        search_bytes: What search trials may use; None likewise.
        fallback: There may be no GPU after all; the CPU will do then.
    """

    kind: str
    index: int = 0
    budget_bytes: int | None = None
    search_bytes: int | None = None
    fallback: bool = False

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
            index=self.index,
            limit_bytes=limit if gpu else None,
            fail_fast=gpu and not proof,
        )


def choose(options: ProbeOptions) -> DeviceChoice:
    """The device that the options ask for, or the best there is.

    Raises:
        UsageError: There is no such kind of device.
        DeviceError: The limit is more than the machine has.
    """
    asked = re.fullmatch(r"(auto|cpu|gpu)(?::([0-9]+))?", options.device)
    if asked is None or (asked[2] and asked[1] != "gpu"):
        raise UsageError(f"device must be {DEVICES}; received {options.device!r}.")
    limit = parse_bytes(options.memory_limit, "memory_limit") if options.memory_limit else None
    if asked[1] == "gpu" or (asked[1] == "auto" and gpu_may_be_there()):
        fallback = asked[1] == "auto"
        return DeviceChoice("gpu", int(asked[2] or 0), limit, None, fallback)
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
    return DeviceChoice("cpu", 0, budget, max(budget, loose // MIB * MIB))


def gpu_may_be_there() -> bool:
    """Whether NVML counts a GPU, or a library of devices is to be loaded into TensorFlow."""
    if os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH"):
        return True
    try:
        with _nvml() as nvml:
            return int(nvml.nvmlDeviceGetCount()) > 0
    except DeviceError:
        return False


def gpu_identity(index: int) -> str:
    """What names TensorFlow's GPU `index` for every process of this machine: its UUID if known."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = [each.strip() for each in visible.split(",")] if visible else []
    entry = entries[index] if index < len(entries) else str(index)
    if not entry.isdecimal():
        return entry  # a UUID, or a part of one
    with contextlib.suppress(DeviceError), _nvml() as nvml:
        return str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(int(entry))))
    return f"gpu:{entry}"


def gpu_memory_of(pid: int) -> int | None:
    """Bytes that the GPUs count for a process; None where none lists it, or cannot be read."""
    found: list[int] = []
    with contextlib.suppress(DeviceError), _nvml() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
                if process.pid == pid:
                    found.append(int(process.usedGpuMemory or 0))
    return sum(found) if found else None


def identity(pci_address: str) -> tuple[str, str]:
    """The UUID of the GPU at this address and its driver's version, by NVML; else empty texts."""
    if ":" not in pci_address:
        return "", ""
    try:
        with _nvml() as nvml:
            handle = nvml.nvmlDeviceGetHandleByPciBusId(pci_address.encode())
            told = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlSystemGetDriverVersion()
    except DeviceError:
        return "", ""
    uuid, driver = (text.decode() if isinstance(text, bytes) else str(text) for text in told)
    return uuid, driver


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """The NVML library, brought up and let go again; its errors are ours."""
    import pynvml  # late: `import autobatch` stays light

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DeviceError(f"NVML could not be read: {error}.") from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise DeviceError(f"NVML could not be read: {error}.") from error
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


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
