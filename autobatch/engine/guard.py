"""Watches a training at a proven size: if memory runs out all the same, says what has changed."""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf

from autobatch import devices
from autobatch.bucket_records import BucketResult
from autobatch.errors import DeviceChangedError, DeviceError
from autobatch.records import ProbeResult
from autobatch.units import format_bytes


class Guard:
    """Stands for a model's `train_function` while `fit` runs. Call `remove` at its end.

    Args:
        model: Its `train_function` is there already.
        result: What its batch size rests on.
    """

    def __init__(self, model: Any, result: ProbeResult | BucketResult) -> None:
        self._model, self._result = model, result
        self._before = _state()
        self._train = model.train_function
        model.train_function = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._train, name)

    def __call__(self, iterator: Any) -> Any:
        """One call of `train_function`.

        Raises:
            DeviceChangedError: Memory ran out.
        """
        try:
            return self._train(iterator)
        except tf.errors.ResourceExhaustedError as error:
            self.remove()
            raise DeviceChangedError(self._told(), details=error.message[:2000]) from error

    def remove(self) -> None:
        """Give the model its own function back."""
        if self._model.train_function is self:
            self._model.train_function = self._train

    def _told(self) -> str:
        result, now = self._result, _state()
        if isinstance(result, BucketResult):
            what = f"the batch sizes {', '.join(map(str, result.batch_sizes))} of its buckets"
            most = max(result.proof.peak_bytes, default=None)
        else:
            what, most = f"batch size {result.batch_size}", result.peak_bytes
        peak = f", with a peak of {format_bytes(most)}" if most else ""
        changes = [
            f"{each} was {format_bytes(before)} when training began and is {format_bytes(after)} "
            "now"
            for each, before, after in zip(_WHAT, self._before, now, strict=True)
            if before is not None and after is not None and before != after
        ]
        return (
            f"The training ran out of memory at {what}, which had passed "
            f"its proof ({result.proof.kind.replace('_', ' ')}) within "
            f"{format_bytes(result.device.budget_bytes)}{peak}. What has changed since: "
            f"{'; '.join(changes) or 'nothing that can be read here'}. Free what others hold, or "
            "keep more of the device free: AutoBatch(headroom='15%')."
        )


_WHAT = ("what this process has in use on the device", "the host's free memory")


def _state() -> tuple[int | None, int | None]:
    in_use = host = None
    device = "GPU:0" if tf.config.get_visible_devices("GPU") else "CPU:0"
    with contextlib.suppress(ValueError):  # the CPU's usual allocator keeps no statistics
        in_use = int(tf.config.experimental.get_memory_info(device)["current"])
    with contextlib.suppress(DeviceError, OSError):
        host = devices.memory_for_this_process()
    return in_use, host
