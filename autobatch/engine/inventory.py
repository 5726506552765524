"""What a training is, before its first step, in plain values."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

from autobatch import devices
from autobatch.bucket_options import ONE_SIZE
from autobatch.engine import device, optimizers, sequence_data
from autobatch.engine.device_memory import DeviceMemory
from autobatch.engine.iterable_batches import UNEQUAL
from autobatch.engine.training import Training
from autobatch.errors import ModelError
from autobatch.protocol import Prepared, Signature


def prepared(
    training: Training,
    memory: DeviceMemory,
    *,
    environment: Mapping[str, str] = MappingProxyType({}),
    prelude_seconds: float = 0.0,
    signature: Signature | None = None,
    user_limit_bytes: int | None = None,
) -> Prepared:
    """The model, its data and its device as a search wants to know them.

    Args:
        training: What trials will run.
        memory: Where.
        environment: Variables that should have been set before TensorFlow was imported.
        prelude_seconds: What loading took.
        signature: Of what was loaded.
        user_limit_bytes: A memory limit that the user's code sets on a GPU.

    Raises:
        ModelError: Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"Keras runs on the {keras.backend.backend()!r} back end here; autobatch measures "
            "TensorFlow's memory. Where the model allows it, --backend tensorflow overrides."
        )
    model, batches = training.model, training.batches
    own, unsized = sequence_data.sizable(training)
    parameters = f", {_count(model)} parameters" if model.built else ""
    return Prepared(
        model=f"{model.name}{parameters}",
        device_name=memory.description,
        limit_bytes=memory.limit_bytes,
        resident_bytes=memory.bytes_in_use() + batches.device_bytes,
        samples=batches.samples,
        script_batch_size=training.script_batch_size,
        fixed_batch_size=training.fixed_batch_size,
        optimizers=optimizers.describe(model),
        jit_compile=bool(getattr(model, "jit_compile", False)),
        environment=dict(environment),
        warnings=(
            *training.warnings,
            *_warnings(training),
            *_of_buckets(training, unsized),
            *_of_the_device(memory),
        ),
        prelude_seconds=round(prelude_seconds, 3),
        signature=signature,
        replicas=training.replicas,
        user_limit_bytes=user_limit_bytes,
        allocator=device.allocator() if memory.name.upper().startswith("GPU") else "",
        bus_ids=memory.bus_ids,
        lengths=None if training.rows is None else training.rows.lengths,
        max_length=None if training.rows is None else training.rows.max_length,
        sequence_axes=() if training.rows is None else training.rows.axes,
        bucket_boundaries=() if own is None else own.boundaries,
        bucket_batch_sizes=() if own is None else own.batch_sizes,
        unsized_buckets=unsized,
        coarse=memory.coarse,
        accelerators=device.other_accelerators(),
    )


def _warnings(training: Training) -> tuple[str, ...]:
    """What is to be said of the data; not that lengths differ, where they are told apart."""
    said = training.batches.warnings
    if training.rows is None:
        return said
    return tuple(each for each in said if not each.startswith(UNEQUAL))


def _of_buckets(training: Training, unsized: str) -> Iterator[str]:
    """What becomes of a script's own buckets that cannot have sizes of their own."""
    if not unsized:
        return
    if training.rows is None:
        yield f"{ONE_SIZE}: {unsized}"
    else:
        yield (
            "The script's own buckets are not taken, and its padded batches may be what lengths "
            f"were read from: {unsized}"
        )


def _of_the_device(memory: DeviceMemory) -> Iterator[str]:
    """What the user should know of the GPU."""
    if memory.name.upper().startswith("CPU"):
        return
    build = tf.sysconfig.get_build_info()
    kind = devices.untested_gpu(build, [memory.description], platform.system())
    if kind:
        yield (
            f"The GPU is {kind}: TensorFlow reads its memory by the same functions, but autobatch "
            "is untested there."
        )
    if memory.coarse:
        yield (
            f"The GPU's allocator ({device.allocator()}) keeps no statistics: NVML was "
            "sampled instead, which is coarser. Short peaks may have been missed, and CUDA's own "
            "memory is in the figures. The proof is as it always is."
        )


def _count(model: Any) -> str:
    parameters = model.count_params()
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.1f} {name}"
    return str(parameters)
