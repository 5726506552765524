"""The GPUs as their driver sees them. The one door to pynvml."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from autobatch.errors import DeviceError
from autobatch.records import GpuProcess

_T = TypeVar("_T")
# NVML's return codes (nvml.h) -> what to do about them.
_ADVICE = {
    4: "This user has no permission: run as one that may use the GPU, or ask the administrator "
    "(/dev/nvidia* and the container's device rules).",
    9: "The driver is not loaded: install it, or load the kernel module (modprobe nvidia).",
    12: "There is no NVIDIA driver here (libnvidia-ml.so.1): install it; in a container, start it "
    "with --gpus all.",
    15: "A GPU fell off the bus: look at dmesg for NVRM: Xid, and restart the machine.",
    16: "A GPU needs a reset: nvidia-smi --gpu-reset, or restart the machine.",
    18: "The driver's library and its kernel module differ, as after an update: restart the "
    "machine, or reload the module.",
}
NO_DRIVER = (9, 12)
_LOST = (15, 16)


class NvmlError(DeviceError):
    """NVML gave an error.

    Attributes:
        code: NVML's return code; 0 where it is none of its own.
    """

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A MIG instance: a part of a GPU with memory of its own."""

    uuid: str
    total_bytes: int | None = None
    used_bytes: int | None = None


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU as NVML describes it.

    Attributes:
        index: NVML's number, in the order of PCI buses.
        name, uuid: The board's.
        bus_id: As CUDA and TensorFlow write it: `0000:01:00.0`.
        compute_capability: Such as `8.0`; empty where unknown.
        total_bytes, used_bytes, reserved_bytes: Of its memory; `used_bytes` is by all processes,
            and the driver keeps `reserved_bytes` for itself. None where NVML does not say.
        processes: Those that compute on it; None where the driver does not list them.
        instances: MIG instances; the GPU's own figures are then none of theirs.
        exclusive: Only one process may use it at a time (exclusive compute mode).
        prohibited: No process may.
        ecc_errors: Errors of its memory since the driver was loaded that could not be corrected;
            0 also where it has no such correction.
        error: Why parts could not be read; empty as a rule.
        lost: It fell off the bus, or needs a reset.
    """

    index: int
    name: str = ""
    uuid: str = ""
    bus_id: str = ""
    compute_capability: str = ""
    total_bytes: int | None = None
    used_bytes: int | None = None
    reserved_bytes: int = 0
    processes: tuple[GpuProcess, ...] | None = ()
    instances: tuple[Instance, ...] = ()
    exclusive: bool = False
    prohibited: bool = False
    ecc_errors: int = 0
    error: str = ""
    lost: bool = False


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """What NVML says of the machine.

    Attributes:
        version: The driver's.
        cuda: The newest CUDA that it serves, such as `12.4`.
        gpus: In NVML's order.
    """

    version: str = ""
    cuda: str = ""
    gpus: tuple[Gpu, ...] = ()


def read() -> Driver:
    """Everything that NVML tells now.

    Raises:
        NvmlError: There is no driver, or it does not answer at all. What only one GPU refuses is
            in that GPU's `error`.
    """
    with _nvml() as nvml:
        cuda = _try(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
        return Driver(
            version=_try(nvml, nvml.nvmlSystemGetDriverVersion) or "",
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            gpus=tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
        )


def memory_of(pid: int) -> int | None:
    """Bytes that all GPUs together count for a process; None where none lists it.

    Raises:
        NvmlError: There is no driver, or it does not answer.
    """
    found: list[int] = []
    with _nvml() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
                if process.pid == pid:
                    found.append(int(process.usedGpuMemory or 0))
    return sum(found) if found else None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What is taken of a GPU: by all, and by one process (None where the driver does not say)."""

    total_bytes: int
    used_bytes: int
    reserved_bytes: int = 0
    by_process: int | None = None


class Holdings:
    """Reads, time after time, what a process holds of some GPUs. NVML stays up meanwhile.

    Args:
        pid: The process.
        bus_ids: Of the GPUs, in CUDA's form.

    Raises:
        NvmlError: There is no driver, or none of these GPUs.
    """

    def __init__(self, pid: int, bus_ids: tuple[str, ...]) -> None:
        self._pid = pid
        with _errors() as nvml:
            nvml.nvmlInit()  # until the process ends
            every = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            by_bus = {_bus_id(nvml, handle): handle for handle in every}
        wanted = [canonical_bus_id(each) for each in bus_ids]
        if not wanted or any(each not in by_bus for each in wanted):
            raise NvmlError(f"NVML lists no GPU on PCI bus {', '.join(bus_ids) or 'unknown'}.")
        self._handles = {each: by_bus[bus] for each, bus in zip(bus_ids, wanted, strict=True)}

    def read(self) -> dict[str, Held]:
        """By bus id, what is held now.

        Raises:
            NvmlError: NVML does not answer.
        """
        with _errors() as nvml:
            return {bus: self._held(nvml, handle) for bus, handle in self._handles.items()}

    def _held(self, nvml: Any, handle: Any) -> Held:
        total, used, reserved = _memory(nvml, handle)
        every = _try(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()
        ours = [p.usedGpuMemory for p in every if p.pid == self._pid]
        return Held(
            total_bytes=total,
            used_bytes=used,
            reserved_bytes=reserved,
            by_process=ours[0] if ours else None,
        )


def canonical_bus_id(bus_id: str) -> str:
    """A PCI bus id in CUDA's form, out of NVML's (eight digits of domain, upper case) or any."""
    domain, _, rest = bus_id.strip().lower().partition(":")
    if rest.count(":") != 1:  # without a domain
        domain, rest = "0", bus_id.strip().lower()
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:
        return bus_id


def _gpu(nvml: Any, index: int) -> Gpu:
    gpu = Gpu(index=index, processes=None)
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        gpu = msgspec.structs.replace(gpu, bus_id=_bus_id(nvml, handle))
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        gpu = msgspec.structs.replace(gpu, name=name, uuid=uuid)
    except nvml.NVMLError as error:
        return msgspec.structs.replace(gpu, error=_said(error), lost=error.value in _LOST)
    errors: list[Any] = []

    def ask(call: Callable[[], _T]) -> _T | None:
        return _try(nvml, call, errors)

    memory = ask(lambda: _memory(nvml, handle))
    capability = ask(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    mode = ask(lambda: nvml.nvmlDeviceGetComputeMode(handle))
    uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return msgspec.structs.replace(
        gpu,
        compute_capability=".".join(map(str, capability)) if capability else "",
        total_bytes=memory[0] if memory else None,
        used_bytes=memory[1] if memory else None,
        reserved_bytes=memory[2] if memory else 0,
        processes=ask(lambda: _processes(nvml, handle)),
        instances=ask(lambda: _instances(nvml, handle)) or (),
        exclusive=mode == nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
        prohibited=mode == nvml.NVML_COMPUTEMODE_PROHIBITED,
        ecc_errors=ask(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, *uncorrected)) or 0,
        error="; ".join(dict.fromkeys(map(_said, errors))),
        lost=any(error.value in _LOST for error in errors),
    )


def _bus_id(nvml: Any, handle: Any) -> str:
    said = nvml.nvmlDeviceGetPciInfo(handle).busId
    return canonical_bus_id(said.decode() if isinstance(said, bytes) else said)


def _memory(nvml: Any, handle: Any) -> tuple[int, int, int]:
    """Total, used by processes, and reserved by the driver."""
    try:
        found = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        return int(found.total), int(found.used), int(found.reserved)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):  # an old driver
        found = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(found.total), int(found.used), 0


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    found = {p.pid: p.usedGpuMemory for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    return tuple(
        GpuProcess(pid=pid, name=_name(nvml, pid), used_bytes=used)
        for pid, used in sorted(found.items())
    )


def _name(nvml: Any, pid: int) -> str:
    name = _try(nvml, lambda: nvml.nvmlSystemGetProcessName(pid))
    return (name.decode("utf-8", "replace") if isinstance(name, bytes) else name) or ""


def _instances(nvml: Any, handle: Any) -> tuple[Instance, ...]:
    if not nvml.nvmlDeviceGetMigMode(handle)[0]:
        return ()
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue
        memory = _try(nvml, lambda part=part: _memory(nvml, part))  # type: ignore[misc]
        found.append(
            Instance(
                uuid=nvml.nvmlDeviceGetUUID(part),
                total_bytes=memory[0] if memory else None,
                used_bytes=memory[1] if memory else None,
            )
        )
    return tuple(found)


def _try(nvml: Any, call: Callable[[], _T], errors: list[Any] | None = None) -> _T | None:
    """What the call says; None where it fails. What is not supported is no error."""
    try:
        return call()
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return None
    except nvml.NVMLError as error:
        if errors is not None:
            errors.append(error)
        return None


def _said(error: Any) -> str:
    advice = _ADVICE.get(error.value, "")
    return f"{str(error).rstrip('.')}. {advice}".rstrip()


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """The NVML library, brought up and let go again; its errors are ours."""
    with _errors() as nvml:
        nvml.nvmlInit()
        try:
            yield nvml
        finally:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


@contextlib.contextmanager
def _errors() -> Iterator[Any]:
    """pynvml; its errors are ours."""
    import pynvml  # late: `import autobatch` stays light

    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise NvmlError(f"NVML could not be read: {_said(error)}", code=error.value) from error
