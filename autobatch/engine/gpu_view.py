"""What TensorFlow sees of GPUs, told by a short process of its own: `autobatch devices` asks it."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import msgspec
import tensorflow as tf

from autobatch import devices
from autobatch.engine import device


def view() -> dict[str, Any]:
    """Versions, how this TensorFlow was built, and each visible GPU with its allocator's limit."""
    build = tf.sysconfig.get_build_info()
    found: dict[str, Any] = {
        "version": tf.__version__,
        "cuda": str(build.get("cuda_version", "")),
        "cudnn": str(build.get("cudnn_version", "")),
        "built_with_cuda": bool(build.get("is_cuda_build", False)),
        "built_with_rocm": bool(build.get("is_rocm_build", False)),
        "accelerators": device.other_accelerators(),
    }
    physical = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in physical]
    names = [str(each.get("device_name", "")) for each in details]
    if physical:
        found["untested"] = devices.untested_gpu(build, names, platform.system())
    limits: dict[str, int] = {}
    buses: dict[str, str] = {}
    if physical:
        try:
            limits, buses = device.gpu_limits(), device.bus_ids()
        except (RuntimeError, tf.errors.OpError) as error:
            found["error"] = (str(error).strip().splitlines() or [""])[0][:300]
    found["allocator"] = device.allocator() if physical else ""
    found["gpus"] = [
        {
            "name": names[index],
            "compute_capability": ".".join(map(str, each.get("compute_capability", ()))),
            "bus_id": buses.get(f"GPU:{index}", ""),
            "limit_bytes": limits.get(f"GPU:{index}"),
        }
        for index, each in enumerate(details)
    ]
    return found


def main(write_fd: int) -> None:
    """Write the view as JSON, and end without waiting for anything."""
    rest = memoryview(msgspec.json.encode(view()))
    while rest:
        rest = rest[os.write(write_fd, rest) :]
    sys.stderr.flush()
    os._exit(0)
