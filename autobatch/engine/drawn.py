"""Batches drawn from an iterator before a step, so that they are still there if the step dies."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


def draw(iterator: Any, count: int) -> list[Any]:
    """The next `count` batches, or as many as there are.

    Raises:
        StopIteration: There are none.
    """
    batches = []
    for _ in range(count):
        try:
            batches.append(next(iterator))
        except StopIteration:
            if not batches:
                raise
            break
    return batches


def iterator_over(batches: Sequence[Any], spec: Any) -> Any:
    """An iterator that gives these, which a traced function takes for the one they came from."""
    each = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    whole = functools.reduce(lambda a, b: a.concatenate(b), map(_of(spec), each))
    return iter(whole)


def _of(spec: Any) -> Any:
    """Has a dataset say of its elements what `spec` says, rather than their very shapes."""

    def typed(dataset: Any) -> Any:
        variant = tf.data.experimental.to_variant(dataset)
        return tf.data.experimental.from_variant(variant, spec)

    return typed


def rows(batch: Any) -> int:
    """Samples in a batch; 0 where it holds none."""
    for leaf in tf.nest.flatten(batch):
        shape = getattr(leaf, "shape", None)
        if shape is not None and shape.rank:
            return int(shape[0] if shape[0] is not None else tf.shape(leaf)[0])
    return 0


def pieces(batch: Any, size: int) -> Iterator[tuple[Any, float]]:
    """The batch in pieces of at most `size` samples, each with its share of them."""
    count = rows(batch)
    if count <= size:
        yield batch, 1.0
        return
    for start in range(0, count, size):
        length = min(size, count - start)
        piece = tf.nest.map_structure(functools.partial(_cut, start, length), batch)
        yield piece, length / count


def _cut(start: int, length: int, leaf: Any) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        others = leaf.shape[1:].as_list()
        return tf.sparse.slice(leaf, [start, *[0] * len(others)], [length, *others])
    shape = getattr(leaf, "shape", None)
    return leaf[start : start + length] if shape is not None and shape.rank else leaf
