"""What a user trains on -> the same in batches of a size that is chosen later."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch import length_buckets
from autobatch.engine import bucketed, dataset_chain, iterable_batches, samples, sequences
from autobatch.engine.late_batches import LateBatches, LateBuckets, LateSize
from autobatch.engine.regrouped import arrays, rows
from autobatch.errors import UsageError
from autobatch.length_buckets import Lengths


def late_batches(
    data: Any,
    size: LateSize,
    *,
    batched: bool | None = None,
    shuffle: bool = False,
    sample: Any = None,
) -> LateBatches:
    """The data in batches of a size chosen later. See `AutoBatch.batch`."""
    if isinstance(data, tf.data.Dataset):
        if shuffle:
            raise UsageError("shuffle is for arrays; call the dataset's own shuffle() instead.")
        return _of_dataset(data, size, batched, sample)
    if isinstance(data, keras.utils.PyDataset):
        return _of_py_dataset(data, size, sample)
    leaves = keras.tree.flatten(data)
    if leaves and all(hasattr(leaf, "__array__") for leaf in leaves):
        return _of_arrays(data, size, shuffle)
    raise UsageError(
        f"finder.batch takes a tf.data.Dataset, a keras.utils.PyDataset, or arrays, also nested "
        f"as (x, y) or (x, y, sample_weight); received {type(data).__name__}. Wrap a generator "
        "in tf.data.Dataset.from_generator."
    )


def _of_dataset(dataset: Any, size: LateSize, batched: bool | None, sample: Any) -> LateBatches:
    batched = _looks_batched(dataset) if batched is None else batched
    static = batched and dataset_chain.static_batch_size(dataset) is not None

    def make(chosen: Any) -> Any:
        if batched:
            return dataset.rebatch(chosen, drop_remainder=static)
        return dataset.batch(chosen)

    def read() -> Any:
        return samples.of_dataset(dataset, batched=bool(batched))

    count = dataset_chain.exact_samples(dataset) if batched else _known(dataset)
    return LateBatches(
        size,
        make,
        count=count,
        read_sample=read if sample is None else lambda: samples.of_arrays(sample),
        own_batch_size=dataset_chain.declared_batch_size(dataset) if batched else None,
        drops=static,
        options=dataset.options(),
    )


def late_buckets(dataset: Any, size: LateSize, wanted: LateBuckets, *, sample: Any) -> LateBatches:
    """Samples in buckets by length, whose sizes are chosen later. See `AutoBatch.batch`."""
    if not isinstance(dataset, tf.data.Dataset):
        raise UsageError(
            "With bucket_boundaries finder.batch takes a tf.data.Dataset of samples, one an "
            f"element and not padded; received {type(dataset).__name__}."
        )
    bucketed.require_samples(dataset)
    length_of = bucketed.longest_open(dataset.element_spec)

    def make(_: Any) -> Any:
        count = len(wanted.boundaries or (1,)) + 1
        return bucketed.in_buckets(
            dataset,
            None,
            boundaries=wanted.boundaries or (2,),
            batch_sizes=size.buckets or (size.before,) * count,
            max_length=wanted.max_length or np.iinfo(np.int32).max - 1,
            on_too_long=wanted.on_too_long,
            axes=wanted.axes,
        )

    @functools.cache
    def lengths() -> Lengths | None:
        pure = samples.pure(dataset)
        if pure is None:
            return None
        found = sequences.scan(pure, length_of)
        whole = found.complete and _known(dataset) == found.samples  # not cut, nor repeated
        return Lengths(counts=found.counts, complete=whole)

    def batches() -> int | None:
        found = lengths()
        if found is None or not found.complete or not size.buckets:
            return None
        if wanted.on_too_long == "drop" and wanted.max_length is not None:
            found = found.without_longer(wanted.max_length)
        inside = length_buckets.count(found, wanted.boundaries)
        pairs = zip(inside, size.buckets, strict=True)
        return sum(math.ceil(each.samples / chosen) for each, chosen in pairs)

    def read() -> Any:
        return samples.of_dataset(dataset, batched=False, padded=True)

    return LateBatches(
        size,
        make,
        count=None,
        read_sample=read if sample is None else lambda: samples.of_arrays(sample),
        options=dataset.options(),
        read_lengths=lengths,
        count_batches=batches,
    )


def _looks_batched(dataset: Any) -> bool:
    """Whether the elements are batches, as far as the dataset itself tells."""
    if dataset_chain.gives_batches(dataset):
        return True
    if any(type(each).__name__ == "_UnbatchDataset" for each in dataset_chain.chain(dataset)):
        return False
    shapes = [s.shape for s in tf.nest.flatten(dataset.element_spec) if hasattr(s, "shape")]
    return bool(shapes) and all(shape.rank and shape[0] is None for shape in shapes)


def _known(dataset: Any) -> int | None:
    count = int(dataset.cardinality())
    return count if count >= 0 else None


def _of_arrays(data: Any, size: LateSize, shuffle: bool) -> LateBatches:
    lengths = {len(leaf) for leaf in keras.tree.flatten(data)}
    if len(lengths) != 1:
        raise UsageError(f"Arrays must have the same number of rows; received {sorted(lengths)}.")
    count = lengths.pop()

    def tensor(leaf: Any) -> Any:
        array = np.asarray(leaf)
        if array.dtype == np.float64:  # as Keras does with arrays
            array = array.astype(keras.config.floatx())
        return tf.convert_to_tensor(array)

    with tf.device("CPU:0"):  # a GPU's memory is for the training
        tensors = keras.tree.map_structure(tensor, data)
    indices = tf.data.Dataset.range(count)
    if shuffle:
        indices = indices.shuffle(count)

    def gather(chosen: Any) -> Any:
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, chosen), tensors)

    return LateBatches(
        size,
        lambda chosen: indices.batch(chosen).map(gather, num_parallel_calls=tf.data.AUTOTUNE),
        count=count,
        read_sample=lambda: samples.of_arrays(data),
    )


def _of_py_dataset(data: Any, size: LateSize, sample: Any) -> LateBatches:
    length = iterable_batches.length(data)
    if length is None:
        raise UsageError(
            "A PyDataset without a length cannot be cut into other batches, for nothing says "
            "where its epoch ends. Give it num_batches or __len__."
        )
    first, last = (arrays(data[index]) for index in (0, length - 1))
    own = rows(first)

    def read() -> Iterator[Any]:
        for index in range(length):
            yield arrays(data[index])
        data.on_epoch_end()

    batches = tf.data.Dataset.from_generator(
        read, output_signature=keras.tree.map_structure(_spec, first, last)
    )
    return LateBatches(
        size,
        lambda chosen: batches.prefetch(tf.data.AUTOTUNE).rebatch(chosen),
        count=(length - 1) * own + rows(last),
        read_sample=lambda: samples.of_arrays(first if sample is None else sample),
        own_batch_size=own,
    )


def _spec(first: Any, last: Any) -> Any:
    shape = [a if a == b else None for a, b in zip(first.shape[1:], last.shape[1:], strict=True)]
    return tf.TensorSpec([None, *shape], first.dtype)
