"""A few samples of a training's data, read so that the data stays where it was.

Iterating a user's dataset may shuffle its next epoch differently, use a generator up, or leave a
cache half written. So nothing that remembers is iterated: arrays are sliced, a `PyDataset` is asked
for its first batch, and of a `tf.data` pipeline only what is pure is run, on the same source,
without its shuffling, caching and prefetching. Where that does not lead to a sample, one is made up
from the shapes and dtypes that the dataset declares.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.errors import UsageError

ROWS = 32
MOST_BYTES = 16 << 20  # of all rows together; at least one is taken

_SOURCES = {"_TensorSliceDataset", "_TensorDataset", "TensorDataset", "_RangeDataset"}
_SOURCES |= {"TFRecordDatasetV2", "TextLineDatasetV2", "FixedLengthRecordDatasetV2"}
_ORDER = {"Shuffle", "Prefetch", "Cache", "Options", "Repeat", "Take", "AssertCardinality"}
_PASSED = {f"_{name}Dataset" for name in _ORDER} | {f"{name}Dataset" for name in _ORDER}
_MAPS = {"_MapDataset", "_ParallelMapDataset"}
_BATCHES = {"_BatchDataset", "_ParallelBatchDataset"}


def of_arrays(arrays: Any) -> Any:
    """The first rows of nested arrays."""
    return _cut(keras.tree.map_structure(np.asarray, keras.tree.map_structure(_first, arrays)))


def _first(leaf: Any) -> Any:
    return leaf[:ROWS]


def of_dataset(dataset: Any, *, batched: bool, padded: bool = False) -> Any:
    """Samples of a `tf.data.Dataset`, as nested numpy arrays of some rows.

    Args:
        dataset: It is not iterated where that could change what it gives next.
        batched: Its elements are batches.
        padded: Samples are of unequal shapes: pad them to the longest of those read.

    Raises:
        UsageError: There is no sample to be had, and a dimension is unknown.
    """
    rebuilt = pure(dataset)
    if rebuilt is not None:
        if not batched:
            rebuilt = rebuilt.padded_batch(ROWS) if padded else rebuilt.batch(ROWS)
        with tf.device("CPU:0"):
            batch = next(iter(rebuilt.take(1)), None)
        if batch is not None and all(isinstance(t, tf.Tensor) for t in tf.nest.flatten(batch)):
            return of_arrays(tf.nest.map_structure(lambda tensor: tensor.numpy(), batch))
    return tf.nest.map_structure(lambda spec: _made_up(spec, batched), dataset.element_spec)


def pure(dataset: Any) -> Any:
    """The same samples, from a dataset that nobody else reads; None where there is no way."""
    kind = type(dataset).__name__
    if kind in _SOURCES:
        return dataset
    if kind == "_ZipDataset":
        inside = [pure(each) for each in dataset._inputs()]
        if any(each is None for each in inside):
            return None
        return tf.data.Dataset.zip(
            tf.nest.pack_sequence_as(dataset._datasets, inside)  # as they were nested
        )
    below = getattr(dataset, "_input_dataset", None)
    if kind not in _PASSED | _MAPS | _BATCHES or (below := pure(below)) is None:
        return None
    if kind in _PASSED:
        return below
    if kind in _BATCHES:
        return below.batch(int(dataset._batch_size))
    function = dataset._map_func.function
    if any(op.op_def.is_stateful for op in function.graph.get_operations()):
        return None  # random numbers, Python code: what it does may be felt outside
    variant = tf.raw_ops.MapDataset(
        input_dataset=below._variant_tensor,
        other_arguments=function.captured_inputs,
        f=function,
        **dataset._flat_structure,
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def _made_up(spec: Any, batched: bool) -> np.ndarray[Any, Any]:
    if not isinstance(spec, tf.TensorSpec):
        raise UsageError(
            f"No sample of the data could be read without changing what it gives next, and a "
            f"{type(spec).__name__} cannot be made up. Give one batch of it: "
            "finder.batch(data, sample=batch)."
        )
    shape = spec.shape[1:] if batched and spec.shape.rank else spec.shape
    if not shape.is_fully_defined():
        raise UsageError(
            f"No sample of the data could be read without changing what it gives next, and its "
            f"shape {tuple(spec.shape)} is open. Give one batch of it, the longest there is: "
            "finder.batch(data, sample=batch)."
        )
    rows = (ROWS, *shape.as_list())
    if spec.dtype.is_floating:
        return np.random.default_rng(0).random(rows).astype(spec.dtype.as_numpy_dtype)
    if spec.dtype == tf.string:
        return np.full(rows, b"a", dtype=object)
    return np.zeros(rows, spec.dtype.as_numpy_dtype)  # a class, or an index, that there is


def _cut(sample: Any) -> Any:
    """As many of the rows as the bytes allow."""
    leaves = keras.tree.flatten(sample)
    rows = min((len(leaf) for leaf in leaves), default=0)
    if rows < 1:
        raise UsageError("The training data has no samples.")
    one = sum(leaf[:1].nbytes for leaf in leaves)
    keep = max(1, min(rows, MOST_BYTES // max(1, one)))
    return keras.tree.map_structure(lambda leaf: leaf[:keep].copy(), sample)
