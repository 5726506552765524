"""A dataset whose batch size is chosen when it is iterated, not when it is made.

`iter()` of it is `iter(dataset.batch(size))`, at no cost, and with the very random numbers that
the user's shuffling would have drawn. Where TensorFlow does not ask Python for an iterator, under
`tf.distribute` for one, it is

    tf.data.Dataset.range(1).flat_map(lambda _: dataset.batch(size()))

What the user's dataset does before (shuffling, caching, prefetching) stays as it is: it is one and
the same dataset in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine import dataset_chain, samples
from autobatch.errors import UsageError


@dataclass
class LateSize:
    """The batch size of all datasets of one finder, over all replicas.

    Attributes:
        value: What the next iterator uses; None until it is chosen.
        before: Samples in a batch that is drawn before that.
    """

    value: int | None = None
    before: int = 32

    def __call__(self) -> np.signedinteger[Any]:
        chosen: np.signedinteger[Any] = np.int64(self.value or self.before)
        return chosen


class LateBatches(tf.data.Dataset):  # type: ignore[misc]
    """Batches of the size that `size` says when an iterator begins.

    Attributes:
        size: Shared by all datasets of one finder.
        samples: In one pass, exactly; None where unknown.
        own_batch_size: The user's own, where the data came in batches.
        sample: Some rows of the data, read when they are first asked for.
        batched: The data came in batches.
    """

    def __init__(
        self,
        size: LateSize,
        make: Callable[[Any], Any],
        *,
        count: int | None,
        read_sample: Callable[[], Any],
        own_batch_size: int | None = None,
        drops: bool = False,
        options: Any = None,
    ) -> None:
        self.size, self.samples, self.own_batch_size = size, count, own_batch_size
        self._drops, self._read_sample, self._make = drops, read_sample, make
        self._options = options
        self._sample: Any = None
        self._made: tuple[int, Any] | None = None  # for the size that was asked for last

        def late(_: Any) -> Any:
            chosen = tf.numpy_function(size, [], tf.int64)
            chosen.set_shape(())
            return make(chosen)

        dataset = tf.data.Dataset.range(1).flat_map(late).prefetch(tf.data.AUTOTUNE)
        if options is not None:
            dataset = dataset.with_options(options)
        self._input_dataset = dataset
        super().__init__(dataset._variant_tensor)

    def _inputs(self) -> list[Any]:
        return [self._input_dataset]

    def __iter__(self) -> Any:
        if not tf.executing_eagerly():
            return super().__iter__()
        chosen = int(self.size())
        if self._made is None or self._made[0] != chosen:
            self._made = chosen, self._make(chosen).prefetch(tf.data.AUTOTUNE)
        return iter(self._made[1])

    def map(self, *args: Any, **kwargs: Any) -> LateBatches:
        """As that of any dataset; Keras puts class weights on by it."""
        return self._then(lambda dataset: dataset.map(*args, **kwargs))

    def prefetch(self, *args: Any, **kwargs: Any) -> LateBatches:
        """As that of any dataset."""
        return self._then(lambda dataset: dataset.prefetch(*args, **kwargs))

    def _then(self, change: Callable[[Any], Any]) -> LateBatches:
        make = self._make
        return LateBatches(
            self.size,
            lambda chosen: change(make(chosen)),
            count=self.samples,
            read_sample=lambda: self.sample,
            own_batch_size=self.own_batch_size,
            drops=self._drops,
            options=self._options,
        )

    @property
    def element_spec(self) -> Any:
        return self._input_dataset.element_spec

    @property
    def sample(self) -> Any:
        if self._sample is None:
            self._sample = self._read_sample()
        return self._sample

    def batches(self) -> int | None:
        """Batches in one pass at the size that was chosen; None where one of both is unknown."""
        if self.samples is None or self.size.value is None:
            return None
        if self._drops:
            return self.samples // self.size.value
        return math.ceil(self.samples / self.size.value)

    def cardinality(self) -> Any:
        count = self.batches()
        unknown = tf.data.UNKNOWN_CARDINALITY
        return tf.constant(unknown if count is None else count, tf.int64)


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


def find(dataset: Any, size: LateSize) -> tuple[LateBatches | None, bool]:
    """The finder's dataset that `dataset` was made from, and whether it has as many batches."""
    for each in dataset_chain.chain(dataset):
        if isinstance(each, LateBatches) and each.size is size:
            return each, each is dataset
    return None, False


def _of_dataset(dataset: Any, size: LateSize, batched: bool | None, sample: Any) -> LateBatches:
    batched = _looks_batched(dataset) if batched is None else batched
    static = batched and dataset_chain.static_batch_size(dataset) is not None

    def make(chosen: Any) -> Any:
        if batched:
            return dataset.rebatch(chosen, drop_remainder=static)
        return dataset.batch(chosen)

    def read() -> Any:
        return samples.of_dataset(dataset, batched=bool(batched))

    count = _exact_count(dataset) if batched else _known(dataset)
    own = (
        (dataset_chain.static_batch_size(dataset) or dataset_chain.batching(dataset)[0])
        if batched
        else None
    )
    return LateBatches(
        size,
        make,
        count=count,
        read_sample=read if sample is None else lambda: samples.of_arrays(sample),
        own_batch_size=own,
        drops=static,
        options=dataset.options(),
    )


def _looks_batched(dataset: Any) -> bool:
    """Whether the elements are batches, as far as the dataset itself tells."""
    for each in dataset_chain.chain(dataset):
        if type(each).__name__ == "_UnbatchDataset":
            return False
        if hasattr(each, "_batch_size") or hasattr(each, "_batch_sizes"):
            return True
    shapes = [s.shape for s in tf.nest.flatten(dataset.element_spec) if hasattr(s, "shape")]
    return bool(shapes) and all(shape.rank and shape[0] is None for shape in shapes)


def _known(dataset: Any) -> int | None:
    count = int(dataset.cardinality())
    return count if count >= 0 else None


def _exact_count(dataset: Any) -> int | None:
    """Samples in one pass of a dataset of batches; None where they cannot be known exactly."""
    batches, static = _known(dataset), dataset_chain.static_batch_size(dataset)
    if batches is None:
        return None
    if static is not None:
        return batches * static
    own, inside = dataset_chain.batching(dataset)
    count = _known(inside) if inside is not None else None
    if own is None or count is None:
        return None
    whole = math.ceil(count / own)
    if batches == whole:
        return count
    return None  # cut by take, skip or shard, or repeated: the odd batch may be anywhere


def _of_arrays(data: Any, size: LateSize, shuffle: bool) -> LateBatches:
    rows = {len(leaf) for leaf in keras.tree.flatten(data)}
    if len(rows) != 1:
        raise UsageError(f"Arrays must have the same number of rows; received {sorted(rows)}.")
    count = rows.pop()

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
    try:
        length = data.num_batches
    except NotImplementedError:
        length = None
    if length is None:
        raise UsageError(
            "A PyDataset without a length cannot be cut into other batches, for nothing says "
            "where its epoch ends. Give it num_batches or __len__."
        )
    first, last = (_arrays(data[index]) for index in (0, length - 1))
    own = _rows(first)

    def read() -> Iterator[Any]:
        for index in range(length):
            yield _arrays(data[index])
        data.on_epoch_end()

    batches = tf.data.Dataset.from_generator(
        read, output_signature=keras.tree.map_structure(_spec, first, last)
    )
    return LateBatches(
        size,
        lambda chosen: batches.prefetch(tf.data.AUTOTUNE).rebatch(chosen),
        count=(length - 1) * own + _rows(last),
        read_sample=lambda: samples.of_arrays(first if sample is None else sample),
        own_batch_size=own,
    )


def _arrays(batch: Any) -> Any:
    return keras.tree.map_structure(np.asarray, tuple(batch) if _is_list(batch) else batch)


def _is_list(batch: Any) -> bool:
    return isinstance(batch, (list, tuple))


def _rows(batch: Any) -> int:
    return len(keras.tree.flatten(batch)[0])


def _spec(first: Any, last: Any) -> Any:
    shape = [a if a == b else None for a, b in zip(first.shape[1:], last.shape[1:], strict=True)]
    return tf.TensorSpec([None, *shape], first.dtype)
