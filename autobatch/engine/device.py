"""The devices inside a TensorFlow process: set them up before they are touched, read them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from autobatch.errors import DeviceError, NoGpuError
from autobatch.protocol import DeviceRequest
from autobatch.units import MIB

LIMIT_VARIABLE = "TF_CPU_BFC_MEM_LIMIT_IN_MB"
GROWTH_VARIABLE = "TF_FORCE_GPU_ALLOW_GROWTH"  # read when the device comes up
_BUS_ID = re.compile(r"pci bus id: ([0-9a-fA-F:.]+)")


class DeviceMemory:
    """Reads the allocators of the logical devices that a model trains on.

    Several devices are read as one: a replica's batch is the same on each, so the one with the
    least room decides. What a device may use more than the one that may use least is its surplus,
    and a peak there counts by what it exceeds the surplus.

    Attributes:
        name: TensorFlow's name of the device with the least room, such as `GPU:0`.
        description: What they are, for a person.
        limit_bytes: What the allocator may hand out, of the device with the least room.
        grows: It takes memory as it needs it, region by region, and not all at the start.
        bus_ids: PCI bus ids of the GPUs, as far as TensorFlow tells them.
    """

    def __init__(
        self,
        names: Sequence[str],
        limits: Sequence[int],
        description: str,
        *,
        grows: bool,
        budget_bytes: int | None = None,
        bus_ids: tuple[str, ...] = (),
    ) -> None:
        budgets = [min(limit, budget_bytes or limit) for limit in limits]
        least = min(budgets)
        self._surplus = {n: b - least for n, b in zip(names, budgets, strict=True)}
        self.name = names[budgets.index(least)]
        self.limit_bytes = min(
            limit - self._surplus[n] for n, limit in zip(names, limits, strict=True)
        )
        self.description, self.grows, self.bus_ids = description, grows, bus_ids
        self._info = tf.config.experimental.get_memory_info
        self._reset = tf.config.experimental.reset_memory_stats

    def reset_peak(self) -> None:
        """Begin to look for the peak anew."""
        for name in self._surplus:
            self._reset(name)

    def peak_bytes(self) -> int:
        """Most bytes in use since `reset_peak`."""
        return self._most("peak")

    def bytes_in_use(self) -> int:
        """Bytes in use now."""
        return self._most("current")

    def _most(self, kind: str) -> int:
        return max(
            max(0, int(self._info(name)[kind]) - surplus) for name, surplus in self._surplus.items()
        )


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
    try:
        from tensorflow.core.protobuf import config_pb2
        from tensorflow.python.eager import context

        # Its own settings alone: `context().config` holds those of the devices too, and what is
        # assigned is merged with them again.
        config: Any = config_pb2.ConfigProto()
        if context.context()._config is not None:
            config.CopyFrom(context.context()._config)
        config.gpu_options.experimental.disallow_retry_on_allocation_failure = True
        context.context()._config = config
    except (ImportError, AttributeError):
        pass


def open_memory(request: DeviceRequest, strategy: Any = None) -> DeviceMemory:
    """The allocators of the devices, which this call brings up if nothing has before.

    Args:
        request: Which devices.
        strategy: The `tf.distribute` strategy of the model, where it has one.

    Raises:
        DeviceError: An allocator keeps no statistics, so that no peak could be read.
    """
    if request.kind == "cpu":
        limit = int(os.environ[LIMIT_VARIABLE]) * MIB
        described = f"CPU of this machine ({platform.machine()})"
        return DeviceMemory(_readable(["CPU:0"]), [limit], described, grows=True)
    limits = gpu_limits()
    names = [name for name in replica_devices(strategy) if name in limits] or ["GPU:0"]
    if names[0] not in limits:
        raise DeviceError("TensorFlow lists the GPU but could not bring it up; its log says why.")
    found = bus_ids()
    return DeviceMemory(
        _readable(names),
        [limits[name] for name in names],
        _described(names),
        grows=gpu_grows(),
        budget_bytes=request.budget_bytes,
        bus_ids=tuple(found[name] for name in names if name in found),
    )


def replica_devices(strategy: Any) -> list[str]:
    """TensorFlow's short names of the devices that hold a replica each, such as `GPU:1`."""
    if strategy is None:
        return []
    names = [str(name).rpartition("device:")[2] for name in strategy.extended.worker_devices]
    return [name for name in names if name.startswith("GPU:")]


def _readable(names: list[str]) -> list[str]:
    for name in names:
        try:
            tf.config.experimental.get_memory_info(name)
        except ValueError as error:
            raise DeviceError(
                f"The allocator of {name} gives no memory statistics ({error}); autobatch needs "
                "TensorFlow's own BFC allocator (unset TF_GPU_ALLOCATOR)."
            ) from error
    return names


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
    name = os.environ.get("TF_GPU_ALLOCATOR") or "bfc"
    return f"{name}, memory growth" if gpu_grows() else name


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


def emulated_limit() -> int | None:
    """The limit of the emulated device, where this process was started with one."""
    if os.environ.get("TF_CPU_ALLOCATOR_USE_BFC", "").lower() not in ("1", "true"):
        return None
    limit = os.environ.get(LIMIT_VARIABLE)
    return int(limit) * MIB if limit else None
