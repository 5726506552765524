"""Reads from a `tf.data.Dataset` what it does not say aloud: its own batch size and its length.

A dataset knows the one that it was made from (`_input_dataset`, a private name that has been
there since TensorFlow 2.0); where it does not, the first batch is looked at instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

SCAN_SECONDS = 20.0  # at most, to look through a dataset for its longest batch


def _chain(dataset: Any) -> Iterator[Any]:
    while dataset is not None:
        yield dataset
        dataset = getattr(dataset, "_input_dataset", None)


def cardinality(dataset: Any) -> int | None:
    """Elements in one pass; of a dataset that repeats without end, in one round of it."""
    for each in _chain(dataset):
        count = int(each.cardinality())
        if count >= 0:
            return count
        if count == tf.data.UNKNOWN_CARDINALITY:
            return None
    return None


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


def _batching(dataset: Any) -> Any:
    return next((d for d in _chain(dataset) if hasattr(d, "_batch_size")), None)


def batch_size(dataset: Any) -> int | None:
    """Samples in a batch, from the shapes, from the batching itself, or from the first batch."""
    if (size := static_batch_size(dataset)) is not None:
        return size
    batching = _batching(dataset)
    if batching is not None:
        return int(batching._batch_size)
    for element in dataset.take(1):
        return int(tf.shape(tf.nest.flatten(element)[0])[0])
    return None


def samples(dataset: Any, size: int | None) -> int | None:
    """Samples in one epoch of a batched dataset; exact where the batching itself is in sight."""
    batching = _batching(dataset)
    if batching is not None:
        inside = getattr(batching, "_input_dataset", None)
        count = cardinality(inside) if inside is not None else None
        if count is not None:
            return count
    count = cardinality(dataset)
    return count * size if count is not None and size is not None else None


@dataclass(frozen=True, slots=True)
class LongestBatch:
    """The batch with the most numbers a sample, among those looked at."""

    batch: Any
    unequal: bool
    described: str


def longest_batch(dataset: Any) -> LongestBatch:
    """Look through one round of the dataset, for a limited time, for its longest batch."""
    started, longest, best = time.monotonic(), None, -1.0
    seen: set[tuple[tuple[Any, ...], ...]] = set()
    for batch in dataset.take(max(1, cardinality(dataset) or 10_000)):
        leaves = [leaf for leaf in tf.nest.flatten(batch) if isinstance(leaf, tf.Tensor)]
        shapes = tuple(tuple(leaf.shape[1:]) for leaf in leaves)
        seen.add(shapes)
        weight = sum(float(tf.size(leaf)) / max(1, leaf.shape[0]) for leaf in leaves)
        if weight > best:
            longest, best = batch, weight
        if time.monotonic() - started > SCAN_SECONDS:
            break
    last = [tuple(s.shape[1:]) for s in tf.nest.flatten(longest) if isinstance(s, tf.Tensor)]
    described = ", ".join("x".join(map(str, shape)) or "scalar" for shape in last)
    return LongestBatch(longest, len(seen) > 1, described)
