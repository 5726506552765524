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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from autobatch.engine import dataset_chain
from autobatch.length_buckets import Lengths


@dataclass
class LateSize:
    """The batch size of all datasets of one finder, over all replicas.

    Attributes:
        value: What the next iterator uses; None until it is chosen.
        before: Samples in a batch that is drawn before that.
        buckets: Where samples are in buckets by length, the size of each; `value` is their mean.
    """

    value: int | None = None
    before: int = 32
    buckets: tuple[int, ...] = ()

    def __call__(self) -> np.signedinteger[Any]:
        chosen: np.signedinteger[Any] = np.int64(self.value or self.before)
        return chosen


@dataclass
class LateBuckets:
    """The buckets of all datasets of one finder.

    Attributes:
        boundaries: The first length of each bucket but the first; empty until they are chosen.
        max_length: The greatest length; None until it is known.
        on_too_long: What becomes of longer samples.
        axes: Of the sequence, in each array of a sample; empty until they are known.
    """

    boundaries: tuple[int, ...] = ()
    max_length: int | None = None
    on_too_long: str = "error"
    axes: tuple[int | None, ...] = ()


class LateBatches(tf.data.Dataset):  # type: ignore[misc]
    """Batches of the size that `size` says when an iterator begins.

    Attributes:
        size: Shared by all datasets of one finder.
        samples: In one pass, exactly; None where unknown.
        own_batch_size: The user's own, where the data came in batches.
        sample: Some rows of the data, read when they are first asked for.
        batched: The data came in batches.
        read_lengths: Gives the lengths of all samples, where they can be read; else None.
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
        read_lengths: Callable[[], Lengths | None] = lambda: None,
        count_batches: Callable[[], int | None] | None = None,
    ) -> None:
        self.read_lengths, self._count_batches = read_lengths, count_batches
        self.size, self.samples, self.own_batch_size = size, count, own_batch_size
        self._drops, self._read_sample, self._make = drops, read_sample, make
        self._options = options
        self._sample: Any = None
        self._made: tuple[Any, Any] | None = None  # for the size that was asked for last

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
        wanted = chosen, self.size.buckets
        if self._made is None or self._made[0] != wanted:
            self._made = wanted, self._make(chosen).prefetch(tf.data.AUTOTUNE)
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
            read_lengths=self.read_lengths,
            count_batches=self._count_batches,
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
        if self._count_batches is not None:  # it depends on the samples' lengths
            return self._count_batches()
        if self.samples is None or self.size.value is None:
            return None
        if self._drops:
            return self.samples // self.size.value
        return math.ceil(self.samples / self.size.value)

    def cardinality(self) -> Any:
        count = self.batches()
        unknown = tf.data.UNKNOWN_CARDINALITY
        return tf.constant(unknown if count is None else count, tf.int64)


def find(dataset: Any, size: LateSize) -> tuple[LateBatches | None, bool]:
    """The finder's dataset that `dataset` was made from, and whether it has as many batches."""
    for each in dataset_chain.chain(dataset):
        if isinstance(each, LateBatches) and each.size is size:
            return each, each is dataset
    return None, False
