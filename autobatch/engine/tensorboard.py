"""Writes a result where a TensorBoard callback writes: as text and as scalars."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from autobatch.bucket_records import BucketResult
from autobatch.records import ProbeResult

RUN = "autobatch"  # the folder beside `train` and `validation`
_SCALARS = (
    "batch_size",
    "global_batch_size",
    "mean_batch_size",  # of buckets
    "learning_rate",
    "peak_bytes",
)
_TEXT, _SCALAR = 2, 1  # classes of data in a summary's metadata


def log(callbacks: Iterable[Any], result: ProbeResult | BucketResult) -> None:
    """Write the result into the folder of each TensorBoard callback among these.

    By TensorFlow's own writer: that package need not be installed where the training runs.
    """
    for each in callbacks:
        if isinstance(each, keras.callbacks.TensorBoard):
            writer = tf.summary.create_file_writer(os.path.join(str(each.log_dir), RUN))
            with writer.as_default():
                _write("result", "text", _TEXT, f"```\n{result.to_json(indent=2)}\n```")
                for name in _SCALARS:
                    value = getattr(result, name, None)
                    if value is not None:
                        _write(name, "scalars", _SCALAR, float(value))
            writer.close()


def _write(name: str, plugin: str, kind: int, value: str | float) -> None:
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data={"plugin_name": plugin}, data_class=kind, display_name=name
    )
    tf.summary.write(f"{RUN}/{name}", tf.constant(value), step=0, metadata=metadata)
