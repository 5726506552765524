"""Reads from a `tf.data.Dataset` what it does not say aloud: its own batch size and its length.

A dataset knows the one that it was made from (`_input_dataset`, a private name that has been
there since TensorFlow 2.0); where it does not, the first batch is looked at instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from autobatch.units import MIB

SCAN_SECONDS = 10.0  # at most, to look through a dataset for its longest batch
MOST_BATCHES = 10_000  # to look at where nothing says how many there are
REORDERING = ("_PrefetchDataset", "_OptionsDataset", "_ShuffleDataset")
WORTH_A_WORD = 16 * MIB  # of float64: below, nobody gains by changing it


def chain(dataset: Any) -> Iterator[Any]:
    """The dataset, the one it was made from, and so on."""
    while dataset is not None:
        yield dataset
        dataset = getattr(dataset, "_input_dataset", None)


def gives_batches(dataset: Any) -> bool:
    """Whether the elements have been batched, and not been taken apart again."""
    for each in chain(dataset):
        kind = type(each).__name__
        if kind == "_UnbatchDataset":
            return False
        sized = hasattr(each, "_batch_size") or hasattr(each, "_batch_sizes")
        if sized or kind == "_GroupByWindowDataset":
            return True
    return False


def beneath(dataset: Any, kinds: Container[str]) -> Any:
    """The dataset without its outermost steps of these kinds."""
    while type(dataset).__name__ in kinds:
        dataset = dataset._input_dataset
    return dataset


def cardinality(dataset: Any) -> int | None:
    """Elements in one pass; of a dataset that repeats without end, in one round of it."""
    for each in chain(dataset):
        count = int(each.cardinality())
        if count >= 0:
            return count
        if count == tf.data.UNKNOWN_CARDINALITY:
            return None
    return None


def one_round(dataset: Any) -> Any:
    """What repeats without end, once; any other dataset as it is."""
    inner = beneath(dataset, REORDERING)
    endless = type(inner).__name__ == "_RepeatDataset" and int(inner._count) < 0
    return inner._input_dataset if endless else dataset


def _leaves(dataset: Any) -> list[Any]:
    return [s for s in tf.nest.flatten(dataset.element_spec) if hasattr(s, "shape")]


def static_batch_size(dataset: Any) -> int | None:
    """The batch size that the dataset's shapes fix, as `drop_remainder=True` does."""
    sizes = {s.shape[0] for s in _leaves(dataset) if s.shape.rank}
    size = next(iter(sizes)) if len(sizes) == 1 else None
    return int(size) if size is not None else None


def has_open_dimensions(dataset: Any) -> bool:
    """Whether a dimension behind the batch's is unknown."""
    return any(s.shape.rank is None or None in s.shape[1:].as_list() for s in _leaves(dataset))


def may_be_unequal(dataset: Any) -> bool:
    """Whether its batches may be of unequal shapes, which cannot be put together into others."""
    ragged = any(isinstance(s, tf.RaggedTensorSpec) for s in tf.nest.flatten(dataset.element_spec))
    return not ragged and has_open_dimensions(dataset)


def _batching(dataset: Any) -> Any:
    return next((d for d in chain(dataset) if hasattr(d, "_batch_size")), None)


def declared_batch_size(dataset: Any) -> int | None:
    """Samples in a batch, from the shapes or from the batching itself; None where neither says."""
    batching = _batching(dataset)
    own = None if batching is None else int(batching._batch_size)
    return static_batch_size(dataset) or own


def batch_size(dataset: Any) -> int | None:
    """Samples in a batch, from the shapes, from the batching itself, or from the first batch."""
    size = declared_batch_size(dataset)
    if size is not None:
        return size
    for element in dataset.take(1):
        return int(tf.shape(tf.nest.flatten(element)[0])[0])
    return None


def samples(dataset: Any, size: int | None) -> int | None:
    """Samples in one epoch of a batched dataset; exact where the batching itself is in sight."""
    batching = _batching(dataset)
    inside = getattr(batching, "_input_dataset", None)
    count = cardinality(inside) if inside is not None else None
    batches = _count_of_batches(dataset)
    if batches is None or size is None:
        return count
    if count is not None:
        whole = count // size if static_batch_size(dataset) is not None else math.ceil(count / size)
        if batches == whole:
            return count
    return batches * size  # cut by take, skip or shard, or repeated


def exact_samples(dataset: Any) -> int | None:
    """Samples in one pass of a dataset of batches; None where they are not known exactly."""
    batches, static = int(dataset.cardinality()), static_batch_size(dataset)
    if batches < 0:
        return None
    if static is not None:
        return batches * static
    batching = _batching(dataset)
    inside = getattr(batching, "_input_dataset", None)
    count = int(inside.cardinality()) if inside is not None else -1
    if count >= 0 and batches == math.ceil(count / int(batching._batch_size)):
        return count
    return None  # cut by take, skip or shard, or repeated: the odd batch may be anywhere


def _count_of_batches(dataset: Any) -> int | None:
    """Batches in one pass, or in one round of what repeats without end behind the batching."""
    batching = _batching(dataset)
    for each in chain(dataset):
        count = int(each.cardinality())
        if count >= 0:
            return count
        if count == tf.data.UNKNOWN_CARDINALITY or each is batching:
            return None
    return None


def held_tensors(dataset: Any) -> list[Any]:
    """The tensors that the dataset holds whole, as `from_tensor_slices` does."""
    held: list[Any] = []
    seen: set[int] = set()
    waiting = [dataset]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        held += [t for t in getattr(each, "_tensors", ()) if isinstance(t, tf.Tensor)]
        waiting += each._inputs() if hasattr(each, "_inputs") else []
    return held


def tensor_bytes(tensor: Any) -> int:
    """Bytes of a tensor's numbers."""
    return int(tensor.dtype.size * math.prod(tensor.shape.as_list()))


def wide_bytes(dataset: Any) -> int:
    """Bytes of float64 that the dataset holds whole, where they are worth a word."""
    wide = sum(tensor_bytes(t) for t in held_tensors(dataset) if t.dtype == tf.float64)
    return wide if wide > WORTH_A_WORD else 0


@dataclass(frozen=True, slots=True)
class LongestBatch:
    """The batch with the most numbers a sample, among those looked at.

    Attributes:
        batch: It.
        shapes: Of a sample in it.
        unequal: There were batches of other shapes.
        ragged: They differ inside ragged tensors.
        samples: In all batches; None where not all were looked at.
    """

    batch: Any
    shapes: tuple[tuple[int, ...], ...]
    unequal: bool
    ragged: bool
    samples: int | None


def longest_batch(dataset: Any, batches: int | None) -> LongestBatch:
    """Look through the dataset, for a limited time, for its longest batch.

    Args:
        dataset: Of batches.
        batches: In an epoch; None where unknown.
    """
    started, longest, best = time.monotonic(), None, -1.0
    rows: int | None = 0
    seen: set[tuple[tuple[int, ...], ...]] = set()
    ragged = False
    limit = batches or MOST_BATCHES
    for looked, batch in enumerate(dataset.take(limit + 1)):
        if looked >= limit or time.monotonic() - started > SCAN_SECONDS:
            rows = None
            break
        leaves = tf.nest.flatten(batch)
        ragged |= any(isinstance(leaf, tf.RaggedTensor) for leaf in leaves)
        seen.add(_sample_shapes(batch))
        rows = rows + rows_of(leaves[0]) if rows is not None else None
        weight = sum(_numbers(leaf) / max(1, rows_of(leaf)) for leaf in leaves)
        if weight > best:
            longest, best = batch, weight
    return LongestBatch(longest, _sample_shapes(longest), ragged or len(seen) > 1, ragged, rows)


def rows_of(leaf: Any) -> int:
    """Rows of one part of a batch."""
    if isinstance(leaf, tf.SparseTensor):
        return int(leaf.dense_shape[0])
    return int(leaf.nrows()) if isinstance(leaf, tf.RaggedTensor) else int(tf.shape(leaf)[0])


def _numbers(leaf: Any) -> float:
    if isinstance(leaf, tf.SparseTensor):
        return float(tf.size(leaf.values))
    return float(tf.size(leaf.flat_values if isinstance(leaf, tf.RaggedTensor) else leaf))


def _sample_shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    leaves = [leaf for leaf in tf.nest.flatten(batch) if isinstance(leaf, tf.Tensor)]
    return tuple(tuple(leaf.shape[1:]) for leaf in leaves)
