"""The devices inside a TensorFlow process: set them up before they are touched, find out what they
are."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from autobatch.engine.device_memory import AllocatorsOwn, DeviceMemory
from autobatch.engine.sampled_memory import SampledMemory
from autobatch.errors import DeviceError, NoGpuError
from autobatch.nvml import NvmlError
from autobatch.protocol import DeviceRequest
from autobatch.units import MIB

LIMIT_VARIABLE = "TF_CPU_BFC_MEM_LIMIT_IN_MB"
GROWTH_VARIABLE = "TF_FORCE_GPU_ALLOW_GROWTH"  # read when the device comes up
ALLOCATOR_VARIABLE = "TF_GPU_ALLOCATOR"
_BUS_ID = re.compile(r"pci bus id: ([0-9a-fA-F:.]+)")


def configure(request: DeviceRequest) -> None:
    """Set the devices up. Call it before anything touches a device.

    Raises:
        NoGpuError: TensorFlow sees no GPU.
        DeviceError: There is no such GPU, or it cannot be set up any more.
    """
    if request.kind == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise NoGpuError(
            "TensorFlow sees no GPU here. If the machine has one, autobatch devices says what is "
            "wrong (driver, CUDA libraries, a TensorFlow built without CUDA); or probe on the "
            "emulated device with --device cpu."
        )
    for index in request.indices:
        if index >= len(gpus):
            raise DeviceError(
                f"There is no gpu:{index}: TensorFlow sees {len(gpus)} "
                f"(gpu:0 to gpu:{len(gpus) - 1})."
            )
    if request.indices:
        gpus = [gpus[index] for index in request.indices]
        tf.config.set_visible_devices(gpus, "GPU")
    if request.limit_bytes is not None:
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=request.limit_bytes / MIB)
        for gpu in gpus:
            tf.config.set_logical_device_configuration(gpu, [limit])
    if request.fail_fast:
        _fail_fast()


def _fail_fast() -> None:
    """Have the GPU's allocator raise at once where it would wait 10 s for memory to come back.

    The option has no public door in TensorFlow 2; where the private one has moved, trials wait.
    """
    with contextlib.suppress(ImportError, AttributeError), gpu_options() as options:
        options.experimental.disallow_retry_on_allocation_failure = True


@contextlib.contextmanager
def gpu_options() -> Iterator[Any]:
    """The GPU options that TensorFlow's context will bring its devices up with, to be changed.

    Raises:
        ImportError, AttributeError: They are not where they were: the names are private.
    """
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.eager import context

    # Its own settings alone: `context().config` holds those of the devices too, and what is
    # assigned is merged with them again.
    config: Any = config_pb2.ConfigProto()
    if context.context()._config is not None:
        config.CopyFrom(context.context()._config)
    yield config.gpu_options
    context.context()._config = config


def open_memory(request: DeviceRequest, strategy: Any = None) -> DeviceMemory:
    """The allocators of the devices, which this call brings up if nothing has before.

    Args:
        request: Which devices.
        strategy: The `tf.distribute` strategy of the model, where it has one.

    Raises:
        DeviceError: An allocator keeps no statistics, and NVML cannot be read in its place.
    """
    if request.kind == "cpu":
        limit = int(os.environ[LIMIT_VARIABLE]) * MIB
        described = f"CPU of this machine ({platform.machine()})"
        return DeviceMemory(["CPU:0"], [limit], described, grows=True)
    limits = gpu_limits()
    names = [name for name in replica_devices(strategy) if name in limits] or ["GPU:0"]
    if names[0] not in limits:
        raise DeviceError("TensorFlow lists the GPU but could not bring it up; its log says why.")
    found = bus_ids()
    sampled = None if _tells_its_peak(names) else _sampled(names, found)
    return DeviceMemory(
        names,
        [(sampled.limits if sampled else limits)[name] for name in names],
        _described(names),
        grows=gpu_grows(),
        budget_bytes=request.budget_bytes,
        bus_ids=tuple(found[name] for name in names if name in found),
        statistics=sampled,
    )


def replica_devices(strategy: Any) -> list[str]:
    """TensorFlow's short names of the devices that hold a replica each, such as `GPU:1`."""
    if strategy is None:
        return []
    names = [str(name).rpartition("device:")[2] for name in strategy.extended.worker_devices]
    return [name for name in names if name.startswith("GPU:")]


def _tells_its_peak(names: list[str]) -> bool:
    try:
        for name in names:
            AllocatorsOwn.info(name)
    except ValueError:
        return False
    return True


def _sampled(names: list[str], buses: dict[str, str]) -> SampledMemory:
    """NVML in the place of allocators that keep no statistics."""
    held = []  # so that the driver lists this process at the first look
    for name in names:
        with tf.device(name):
            held.append(tf.zeros(2 * MIB, tf.uint8) + 1)
    try:
        return SampledMemory({name: buses.get(name, "") for name in names})
    except NvmlError as error:
        raise DeviceError(
            f"The allocator of {names[0]} keeps no memory statistics, and NVML cannot be sampled "
            f"in its place: {error.message} autobatch reads TensorFlow's own allocator, BFC, "
            f"without it: unset {ALLOCATOR_VARIABLE}."
        ) from error


def _described(names: list[str]) -> str:
    described = []
    for gpu in tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        described.append(str(details.get("device_name", "GPU")))
    if len(names) == 1:
        return described[0] if described else "GPU"
    return f"{len(names)} GPUs ({', '.join(dict.fromkeys(described))})"


def gpu_grows() -> bool:
    """Whether the GPU's memory is taken as it is needed, by the environment or the user's code."""
    if GROWTH_VARIABLE in os.environ:
        return os.environ[GROWTH_VARIABLE].lower() in ("1", "true")
    try:
        gpu = tf.config.get_visible_devices("GPU")[0]
        return bool(tf.config.experimental.get_memory_growth(gpu))
    except (IndexError, ValueError):  # of a GPU with a limit of its own
        return False


def allocator() -> str:
    """The GPU's allocator as training has it, in a few words."""
    name = os.environ.get(ALLOCATOR_VARIABLE) or "bfc"
    return f"{name}, memory growth" if gpu_grows() else name


def is_bfc() -> bool:
    """Whether TensorFlow's own allocator serves the GPU: it alone keeps a limit, and fragments."""
    return not os.environ.get(ALLOCATOR_VARIABLE, "").startswith("cuda_malloc")


def gpu_limits() -> dict[str, int]:
    """What each logical GPU's allocator may hand out: TensorFlow's own figure, by short name.

    `device_lib` would create the devices anew, and count as gone what this process holds already.
    """
    tf.config.list_logical_devices("GPU")  # brings them up
    try:
        from tensorflow.python import pywrap_tfe
        from tensorflow.python.client import pywrap_tf_session
        from tensorflow.python.eager import context

        devices = pywrap_tfe.TFE_ContextListDevices(context.context()._handle)
        limits = {}
        for place in range(pywrap_tfe.TF_DeviceListCount(devices)):
            name = pywrap_tfe.TF_DeviceListName(devices, place).rpartition("device:")[2]
            if name.startswith("GPU:"):
                limits[name] = int(pywrap_tf_session.TF_DeviceListMemoryBytes(devices, place))
        return limits
    except (ImportError, AttributeError):  # private names, though old ones
        return {
            device.name.rpartition("device:")[2]: int(device.memory_limit)
            for device in _local_devices()
        }


def bus_ids() -> dict[str, str]:
    """PCI bus ids of the logical GPUs by short name, as far as TensorFlow tells them."""
    found = {}
    for device in _local_devices():
        said = _BUS_ID.search(device.physical_device_desc)
        if said:
            found[device.name.rpartition("device:")[2]] = said[1]
    return found


def _local_devices() -> list[Any]:
    """The GPUs' descriptions, with the settings of this process."""
    from tensorflow.python.client import device_lib
    from tensorflow.python.eager import context

    try:
        config = context.context().config
    except AttributeError:
        config = None
    every = device_lib.list_local_devices(session_config=config)
    return [device for device in every if device.device_type == "GPU"]


def other_accelerators() -> tuple[str, ...]:
    """Kinds of devices here that are neither CPUs nor GPUs, such as `TPU`."""
    kinds = {device.device_type for device in tf.config.list_physical_devices()}
    return tuple(sorted(kind for kind in kinds if kind.rpartition("_")[2] not in ("CPU", "GPU")))


def emulated_limit() -> int | None:
    """The limit of the emulated device, where this process was started with one."""
    if os.environ.get("TF_CPU_ALLOCATOR_USE_BFC", "").lower() not in ("1", "true"):
        return None
    limit = os.environ.get(LIMIT_VARIABLE)
    return int(limit) * MIB if limit else None
