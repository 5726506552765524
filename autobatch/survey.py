"""Every GPU of the machine as NVML and TensorFlow see it, and what is wrong where they differ.

TensorFlow is asked in a short process of its own. The two are matched by PCI bus id; an index means
something else to each of them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from autobatch import devices, nvml, visible_devices
from autobatch.nvml import Driver, Gpu, Instance, NvmlError
from autobatch.records import GpuProcess

TIMEOUT = 300.0  # seconds for TensorFlow to be imported and to bring its devices up
_BOOT = (
    "import sys; sys.path[:1] = []; sys.path.append({root!r}); "
    "import autobatch.engine.gpu_view as v; v.main({fd})"
)


class TensorFlowGpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU as TensorFlow describes it; `limit_bytes` is what its allocator could hand out."""

    name: str = ""
    compute_capability: str = ""
    bus_id: str = ""
    limit_bytes: int | None = None


class TensorFlowView(msgspec.Struct, frozen=True, kw_only=True):
    """What TensorFlow says; `error` and the end of its `log` where it could not be asked."""

    version: str = ""
    cuda: str = ""
    cudnn: str = ""
    built_with_cuda: bool = False
    built_with_rocm: bool = False
    accelerators: tuple[str, ...] = ()
    untested: str = ""
    allocator: str = ""
    gpus: tuple[TensorFlowGpu, ...] = ()
    error: str = ""
    log: str = ""


class SurveyedGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, from both sides.

    Attributes:
        device: What `--device` calls it, `gpu:0`; None where TensorFlow does not see it.
        name, uuid, bus_id, compute_capability: Empty where neither side says.
        total_bytes, used_bytes: By NVML; of the MIG instance where TensorFlow sees only that.
        allocatable_bytes: By TensorFlow: what a training that started now could use.
        processes: Who uses it; None where the driver does not list them.
        mig: UUID of the MIG instance that TensorFlow sees.
        problems: What is wrong with it, and what to do.
    """

    device: str | None = None
    name: str = ""
    uuid: str = ""
    bus_id: str = ""
    compute_capability: str = ""
    total_bytes: int | None = None
    used_bytes: int | None = None
    allocatable_bytes: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    mig: str | None = None
    problems: tuple[str, ...] = ()


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What `autobatch devices` says.

    Attributes:
        gpus: TensorFlow's, in its order; then those that only NVML sees.
        problems: Of the machine as a whole, and what to do.
        notes: What is worth knowing, though nothing is wrong.
        driver, driver_cuda: Versions of the driver, and the newest CUDA that it serves.
        tensorflow, tensorflow_cuda: TensorFlow's version, and the CUDA that it was built for.
        allocator: The GPU's, as a training would have it.
        host_bytes: Memory that a probe on the CPU could use.
    """

    schema_version: int = 1
    gpus: tuple[SurveyedGpu, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    driver: str = ""
    driver_cuda: str = ""
    tensorflow: str = ""
    tensorflow_cuda: str = ""
    allocator: str = ""
    host_bytes: int = 0


def survey() -> tuple[Survey, str]:
    """Ask NVML and TensorFlow now; also what TensorFlow logged."""
    try:
        found: Driver | NvmlError = nvml.read()
    except NvmlError as error:
        found = error
    view = ask_tensorflow()
    free = devices.memory_for_this_process()
    return combine(found, view, os.environ, free, platform.release()), view.log


def ask_tensorflow(timeout: float = TIMEOUT) -> TensorFlowView:
    """TensorFlow's view, from a process that ends at once.

    Args:
        timeout: Seconds it may take.
    """
    if not devices.has_tensorflow():
        return TensorFlowView(error=devices.NO_TENSORFLOW)
    root = str(Path(__file__).resolve().parent.parent)
    read_fd, write_fd = os.pipe()
    with tempfile.TemporaryFile() as log, open(read_fd, "rb") as answer:
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(root=root, fd=write_fd)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(write_fd,),
                start_new_session=True,
            )
        finally:
            os.close(write_fd)
        error = ""
        try:
            child.wait(timeout)  # what it writes fits into the pipe
        except subprocess.TimeoutExpired:
            error = f"TensorFlow did not answer within {timeout:g} s."
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
            child.wait()
        said = answer.read()
        log.seek(0)
        text = log.read()[-20_000:].decode("utf-8", "replace")
    if said and not error:
        return msgspec.structs.replace(msgspec.json.decode(said, type=TensorFlowView), log=text)
    last = (text.strip().splitlines() or ["it said nothing"])[-1][:300]
    return TensorFlowView(error=error or f"TensorFlow could not be asked: {last}", log=text)


def combine(
    driver: Driver | NvmlError,
    view: TensorFlowView,
    environment: Mapping[str, str],
    host_bytes: int = 0,
    release: str = "",
) -> Survey:
    """Both sides matched, and what is wrong where they differ. Pure.

    Args:
        driver: What NVML says, or why it does not.
        view: What TensorFlow says.
        environment: Where `CUDA_VISIBLE_DEVICES` may be set.
        host_bytes: Memory that a probe on the CPU could use.
        release: The kernel's, which tells WSL apart.
    """
    known = driver if isinstance(driver, Driver) else Driver()
    seen = visible_devices.visible(known.gpus, environment)
    gpus, matched = [], set()
    for number, each in enumerate(view.gpus):
        gpu = visible_devices.match(known.gpus, each.bus_id) if each.bus_id else None
        instance = None
        if gpu is not None:
            matched.add(gpu.bus_id)
            instance = next((v.instance for v in seen.devices if v.gpu.bus_id == gpu.bus_id), None)
        gpus.append(_surveyed(f"gpu:{number}", each, gpu, instance))
    gpus += [_surveyed(None, None, g, None) for g in known.gpus if g.bus_id not in matched]
    problems, notes = _problems(driver, view, seen, release)
    return Survey(
        gpus=tuple(gpus),
        problems=problems,
        notes=notes,
        driver=known.version,
        driver_cuda=known.cuda,
        tensorflow=view.version,
        tensorflow_cuda=view.cuda,
        allocator=view.allocator,
        host_bytes=host_bytes,
    )


def _surveyed(
    device: str | None, seen: TensorFlowGpu | None, gpu: Gpu | None, instance: Instance | None
) -> SurveyedGpu:
    seen, board = seen or TensorFlowGpu(), gpu or Gpu(index=0, processes=None)
    problems = [board.error] if board.error else []
    if board.ecc_errors:
        problems.append(
            f"Its memory had {board.ecc_errors} error(s) that could not be corrected (ECC): a "
            "training may die of the next. Reset it (nvidia-smi --gpu-reset, as root); where they "
            "come back, have the card replaced."
        )
    if board.prohibited:
        problems.append("Its compute mode is 'prohibited': nvidia-smi -c 0 (as root) allows use.")
    elif board.exclusive and board.processes:
        problems.append(
            "Its compute mode is 'exclusive' and another process has it: wait for that, or allow "
            "several (nvidia-smi -c 0, as root)."
        )
    elif board.exclusive:
        problems.append(
            "Its compute mode is 'exclusive': search and proof run one after the other there, but "
            "nothing else may run beside them."
        )
    return SurveyedGpu(
        device=device,
        name=board.name or seen.name,
        uuid=board.uuid,
        bus_id=board.bus_id or seen.bus_id,
        compute_capability=board.compute_capability or seen.compute_capability,
        total_bytes=instance.total_bytes if instance else board.total_bytes,
        used_bytes=instance.used_bytes if instance else board.used_bytes,
        allocatable_bytes=seen.limit_bytes,
        processes=board.processes if gpu is not None else None,
        mig=instance.uuid if instance else None,
        problems=tuple(problems),
    )


def _problems(
    driver: Driver | NvmlError,
    view: TensorFlowView,
    seen: visible_devices.Visibility,
    release: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong with the machine as a whole, and what is only worth knowing."""
    problems: list[str] = []
    notes: list[str] = []
    boards = driver.gpus if isinstance(driver, Driver) else ()
    if isinstance(driver, NvmlError):
        silent = driver.code in nvml.NO_DRIVER and not view.built_with_cuda
        (notes if silent else problems).append(driver.message)
    if view.error:
        problems.append(view.error)
    if boards and not view.gpus and view.version:
        problems.append(_why_unseen(boards, driver, view, seen))
    elif seen.note:
        notes.append(f"{seen.note}.")
    if view.untested:
        notes.append(
            f"The GPUs are {view.untested}: TensorFlow reads their memory by the same functions, "
            "but autobatch is untested there."
        )
    if view.accelerators:
        kinds = ", ".join(view.accelerators)
        (notes if view.gpus else problems).append(
            f"There are devices of type {kinds}, whose memory autobatch cannot read: it refuses "
            "them."
        )
    if "microsoft" in release.lower():
        notes.append(
            "This is WSL: its driver does not say what each process holds, and moves into the "
            "host's memory what no longer fits, so that steps become slow instead of failing. A "
            "probe says so where it meets that; --prefer throughput keeps clear of it."
        )
    if any(board.instances for board in boards):
        notes.append(
            "A GPU is in MIG mode: CUDA serves one instance to a process. CUDA_VISIBLE_DEVICES="
            "MIG-<uuid> chooses it."
        )
    return tuple(problems), tuple(notes)


def _why_unseen(
    boards: tuple[Gpu, ...],
    driver: Driver | NvmlError,
    view: TensorFlowView,
    seen: visible_devices.Visibility,
) -> str:
    """Why TensorFlow sees none of the GPUs that NVML does."""
    if not view.built_with_cuda and not view.built_with_rocm:
        return (
            f"TensorFlow {view.version} was built without CUDA and cannot use the "
            f"{len(boards)} GPU(s) here. Install the CUDA build in its place: pip uninstall "
            "tensorflow-cpu; pip install 'keras-autobatch[gpu]'."
        )
    if not seen.devices:
        return f"{seen.note}. Unset it, or name GPUs that autobatch devices lists."
    if re.search(r"dlopen some GPU libraries|Could not load dynamic library", view.log):
        return (
            f"TensorFlow {view.version} could not load CUDA's libraries (it was built for CUDA "
            f"{view.cuda}, cuDNN {view.cudnn}). pip install 'tensorflow[and-cuda]' brings them."
        )
    cuda = driver.cuda if isinstance(driver, Driver) else ""
    if _older(cuda, view.cuda):
        return (
            f"The driver serves CUDA up to {cuda}; TensorFlow {view.version} was built for "
            f"{view.cuda}. Update the driver, or install an older TensorFlow."
        )
    return (
        f"TensorFlow {view.version} sees none of the {len(boards)} GPU(s) here, and does not say "
        "why. Its log: autobatch devices --verbose."
    )


def _older(one: str, other: str) -> bool:
    try:
        return int(one.split(".")[0]) < int(other.split(".")[0])
    except ValueError:
        return False
