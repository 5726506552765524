"""The device inside a TensorFlow process: set it up before it is touched, read its allocator."""

from __future__ import annotations

import os
import platform
from typing import Any

import tensorflow as tf

from autobatch.errors import DeviceError, NoGpuError
from autobatch.protocol import DeviceRequest
from autobatch.units import MIB

LIMIT_VARIABLE = "TF_CPU_BFC_MEM_LIMIT_IN_MB"


class DeviceMemory:
    """Reads the allocator of one logical device.

    Attributes:
        name: TensorFlow's name of it, `GPU:0` or `CPU:0`.
        description: What it is, for a person.
        limit_bytes: What the allocator may hand out.
        grows: It takes memory as it needs it, region by region, and not all at the start.
    """

    def __init__(self, name: str, description: str, limit_bytes: int, *, grows: bool) -> None:
        self.name, self.description, self.limit_bytes = name, description, limit_bytes
        self.grows = grows
        self._info = tf.config.experimental.get_memory_info
        self._reset = tf.config.experimental.reset_memory_stats

    def reset_peak(self) -> None:
        """Begin to look for the peak anew."""
        self._reset(self.name)

    def peak_bytes(self) -> int:
        """Most bytes in use since `reset_peak`."""
        return int(self._info(self.name)["peak"])

    def bytes_in_use(self) -> int:
        """Bytes in use now."""
        return int(self._info(self.name)["current"])


def configure(request: DeviceRequest) -> None:
    """Set the device up. Call it before anything touches a device.

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
            "TensorFlow sees no GPU here. If the machine has one, look at the driver and whether "
            "this TensorFlow was built with CUDA (pip install 'keras-autobatch[gpu]'); or probe "
            "on the emulated device with --device cpu."
        )
    if request.index >= len(gpus):
        raise DeviceError(
            f"There is no gpu:{request.index}: TensorFlow sees {len(gpus)} "
            f"(gpu:0 to gpu:{len(gpus) - 1})."
        )
    gpu = gpus[request.index]
    tf.config.set_visible_devices([gpu], "GPU")
    if request.limit_bytes is not None:
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=request.limit_bytes / MIB)
        tf.config.set_logical_device_configuration(gpu, [limit])
    if request.fail_fast:
        _fail_fast()


def _fail_fast() -> None:
    """Have the GPU's allocator raise at once where it would wait 10 s for memory to come back.

    The option has no public door in TensorFlow 2; where the private one has moved, trials wait.
    """
    try:
        from tensorflow.python.eager import context

        config: Any = context.context().config
        config.gpu_options.experimental.disallow_retry_on_allocation_failure = True
        context.context()._config = config
    except (ImportError, AttributeError):
        pass


def open_memory(request: DeviceRequest) -> DeviceMemory:
    """The device's allocator, which this call brings up if nothing has before.

    Raises:
        DeviceError: The allocator keeps no statistics, so that no peak could be read.
    """
    if request.kind == "cpu":
        limit = int(os.environ[LIMIT_VARIABLE]) * MIB
        name, described = "CPU:0", f"CPU of this machine ({platform.machine()})"
        grows = True
    else:
        name = "GPU:0"  # of those visible to this process
        grows = _gpu_grows()
        details = tf.config.experimental.get_device_details(tf.config.get_visible_devices("GPU")[0])
        described = details.get("device_name", "GPU")
        limit = _gpu_limit_bytes()
    try:
        tf.config.experimental.get_memory_info(name)
    except ValueError as error:
        raise DeviceError(
            f"The allocator of {name} gives no memory statistics ({error}); autobatch needs "
            "TensorFlow's own BFC allocator (unset TF_GPU_ALLOCATOR)."
        ) from error
    return DeviceMemory(name, described, limit, grows=grows)


def _gpu_grows() -> bool:
    """Whether the GPU's memory is taken as it is needed, by the environment or the user's code."""
    if "TF_FORCE_GPU_ALLOW_GROWTH" in os.environ:
        return os.environ["TF_FORCE_GPU_ALLOW_GROWTH"].lower() in ("1", "true")
    try:
        gpu = tf.config.get_visible_devices("GPU")[0]
        return bool(tf.config.experimental.get_memory_growth(gpu))
    except ValueError:  # of a GPU with a limit of its own
        return False


def _gpu_limit_bytes() -> int:
    from tensorflow.python.client import device_lib

    tf.config.list_logical_devices("GPU")  # with the settings above, not with device_lib's own
    for device in device_lib.list_local_devices():
        if device.device_type == "GPU":
            return int(device.memory_limit)
    raise DeviceError("TensorFlow lists the GPU but could not bring it up; its log says why.")


def emulated_limit() -> int | None:
    """The limit of the emulated device, where this process was started with one."""
    if os.environ.get("TF_CPU_ALLOCATOR_USE_BFC", "").lower() not in ("1", "true"):
        return None
    limit = os.environ.get(LIMIT_VARIABLE)
    return int(limit) * MIB if limit else None
