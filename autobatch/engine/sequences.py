"""A training's data at any batch size and any sequence length: its longest rows, cut and repeated.

What a length needs does not depend on the tokens, so a few rows of the user's data stand for all.
They are stretched to the greatest length by going through them again, which makes up no value that
the data does not have, and cut to what a trial asks for. The lengths stay open in the shapes, as
they are in a bucketed dataset, so that one trace serves every bucket.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from autobatch.engine import bucketed, dataset_chain, sequence_data
from autobatch.engine.batches import DatasetBatches
from autobatch.engine.own_buckets import OwnBuckets
from autobatch.errors import ModelError, UsageError
from autobatch.length_buckets import Lengths
from autobatch.protocol import SequenceRequest

ROWS = 8
SCAN_SECONDS = 20.0  # at most, to read the lengths of all samples
_AT_ONCE = 1024  # lengths; one by one they would take Python's time


@dataclass(frozen=True, slots=True)
class SequenceRows:
    """Some rows of a training's data, all of the greatest length.

    Attributes:
        rows: Nested arrays, as a batch of them is.
        axes: The axis of the sequence in each, the batch not counted; None where it has none.
        max_length: The greatest length.
        lengths: Of the whole data set; None where it was made up.
        extra: Arguments of `fit` that go with the data.
        held_bytes: See `Batches`.
        own: The buckets of the user's own that the data comes in; None where it does not.
    """

    rows: Any
    axes: tuple[int | None, ...]
    max_length: int
    lengths: Lengths | None
    extra: dict[str, Any]
    held_bytes: tuple[int, ...]
    own: OwnBuckets | None = None

    def batches(self, shapes: tuple[tuple[int, int], ...]) -> ShapedBatches:
        """Batches of these sizes and lengths, over and over again."""
        return ShapedBatches(self._up_to(max(length for _, length in shapes)), shapes)

    def _up_to(self, length: int) -> SequenceRows:
        """The same rows, stretched to a length at least.

        Another worker may have read other lengths: random data, or less of it in the same time.
        """
        if length <= self.max_length:
            return self
        leaves = [
            leaf if axis is None else _stretched(leaf, axis + 1, length)
            for leaf, axis in zip(tf.nest.flatten(self.rows), self.axes, strict=True)
        ]
        rows = tf.nest.pack_sequence_as(self.rows, leaves)
        return replace(self, rows=rows, max_length=length)


class ShapedBatches:
    """Batches whose sizes and lengths are given one by one. See `Batches`.

    Args:
        source: The rows.
        shapes: Samples (of all replicas) and length of each batch.
    """

    def __init__(self, source: SequenceRows, shapes: tuple[tuple[int, int], ...]) -> None:
        self._source, self._shapes = source, shapes
        self.samples: int | None = None
        self.batch_size: int | None = None
        self.static = True  # a smaller last batch is among the shapes, or is not wanted
        self.device_bytes = 0
        self.held_bytes = source.held_bytes
        self.warnings: tuple[str, ...] = ()

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        return {"x": self._dataset(self._shapes), **self._source.extra}

    def validation_arguments(self, batch_size: int) -> dict[str, Any]:
        longest: dict[int, int] = {}
        for size, length in self._shapes:
            longest[length] = max(size, longest.get(length, 0))
        shapes = tuple((size, length) for length, size in longest.items())
        return {"validation_data": self._dataset(shapes).take(len(shapes))}

    def _dataset(self, shapes: tuple[tuple[int, int], ...]) -> Any:
        made = tf.data.Dataset.from_tensor_slices(np.array(shapes, np.int64)).repeat()
        # Our own code needs no converting, which would read this file again.
        made = made.map(tf.autograph.experimental.do_not_convert(self._batch))
        if self._source.own is not None:
            made = self._source.own.mapped(made)
        return made.prefetch(tf.data.AUTOTUNE)

    def _batch(self, shape: Any) -> Any:
        leaves = tf.nest.flatten(self._source.rows)
        made = [
            _shaped(leaf, axis, shape[0], shape[1])
            for leaf, axis in zip(leaves, self._source.axes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._source.rows, made)


def _shaped(leaf: Any, axis: int | None, size: Any, length: Any) -> Any:
    rows = tf.constant(leaf)
    if axis is not None:
        whole = (slice(None),) * (axis + 1)
        rows = rows[whole + (slice(None, tf.cast(length, tf.int32)),)]  # noqa: RUF005 - a star needs 3.11
    return tf.gather(rows, tf.range(size) % len(leaf))


def read(training: Any, request: SequenceRequest) -> SequenceRows:
    """The rows of a training, and how long its sequences are.

    Args:
        training: What is trained.
        request: How long they are to be.

    Raises:
        UsageError: Which dimension is the sequence cannot be told, or how long it may be.
        ModelError: The data gives no samples.
    """
    batches = training.batches
    own = sequence_data.find_own(batches)
    elements = sequence_data.elements_of(batches) if own is None else own.samples
    axes = sequence_data.axes_of(training.model, elements, own, request.inputs)

    measured = bucketed.longest_of(axes) if own is None else own.length_of

    def length_of(*sample: Any) -> Any:
        return tf.cast(measured(*sample), tf.int64)

    lengths, here = training.lengths, None  # of all samples, and of those at hand
    if lengths is None and not training.made_up:
        lengths = here = scan(elements, length_of)
    longest = lengths.longest if lengths is not None else 0
    if lengths is not None and not lengths.samples:
        raise ModelError("The training data gives no sample at all.")
    max_length = request.max_length or longest
    if own is not None:
        max_length = own.padded_length(max_length)
    if max_length < 1:
        raise UsageError(
            "How long sequences may be is not known: no data came with the model. Give "
            "--max-length (max_length), or write a build_dataset() next to the model."
        )
    return SequenceRows(
        rows=_rows(elements, axes, length_of, max_length, here),
        axes=axes,
        max_length=max_length,
        lengths=lengths,
        extra=dict(getattr(batches, "extra", {})) if isinstance(batches, DatasetBatches) else {},
        held_bytes=batches.held_bytes,
        own=own,
    )


def scan(elements: Any, length_of: Callable[..., Any]) -> Lengths:
    """How long the samples are, as far as a limited time shows."""
    count = dataset_chain.cardinality(elements)
    every = elements.map(length_of)
    if count is not None:
        every = every.take(count)  # one round of what repeats without end
    started, found, complete = time.monotonic(), Counter[int](), True
    for lengths in every.batch(_AT_ONCE):
        found.update(lengths.numpy().tolist())
        if time.monotonic() - started > SCAN_SECONDS:
            complete = False
            break
    return Lengths(counts=tuple(sorted(found.items())), complete=complete)


def _rows(
    elements: Any,
    axes: tuple[int | None, ...],
    length_of: Callable[..., Any],
    max_length: int,
    lengths: Lengths | None,
) -> Any:
    least, have = 1, 0
    for length, count in reversed(lengths.counts if lengths is not None else ()):
        least, have = max(1, length), have + count
        if have >= ROWS:
            break
    spec = elements.element_spec
    chosen = elements.filter(lambda *sample: length_of(*sample) >= least).take(ROWS)
    taken = [tf.nest.flatten(sample) for sample in chosen]
    if not taken:
        raise ModelError("The training data gives no sample with a sequence in it.")
    columns = []
    for place, axis in enumerate(axes):
        leaves = [np.asarray(sample[place]) for sample in taken]
        if axis is not None:
            leaves = [_stretched(leaf, axis, max_length) for leaf in leaves]
        columns.append(np.stack(leaves))
    return tf.nest.pack_sequence_as(spec, columns)


def _stretched(leaf: Any, axis: int, length: int) -> Any:
    """The array with `length` steps along its axis, from the beginning again after its end."""
    if leaf.shape[axis] == 0:
        shape = [*leaf.shape[:axis], length, *leaf.shape[axis + 1 :]]
        return np.zeros(shape, leaf.dtype)
    return np.take(leaf, np.arange(length) % leaf.shape[axis], axis=axis)
