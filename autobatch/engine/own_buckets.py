"""A user's own `bucket_by_sequence_length`, read from the dataset that it made.

TensorFlow keeps the functions of a grouped dataset, and in what they close over lie the arguments
(private names: where they have moved, nothing is found, and the dataset is left as it is).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_PASSED = ("_PrefetchDataset", "_OptionsDataset")
_OTHERS = (
    "padded_shapes",
    "padding_values",
    "pad_to_bucket_boundary",
    "no_padding",
    "drop_remainder",
)


@dataclass(frozen=True, slots=True)
class OwnBuckets:
    """What a script buckets by.

    Attributes:
        samples: The dataset before it.
        length_of: The length of a sample.
        boundaries: The first length of each bucket but the first.
        batch_sizes: One more.
        others: TensorFlow's other arguments.
        prefetched: Buffers of what is read ahead behind it, the outermost first.
        options: The dataset's.
    """

    samples: Any
    length_of: Callable[..., Any]
    boundaries: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    others: dict[str, Any]
    prefetched: tuple[int, ...]
    options: Any

    def with_sizes(self, batch_sizes: Sequence[int]) -> Any:
        """The same dataset with other batch sizes."""
        made = self.samples.bucket_by_sequence_length(
            self.length_of, list(self.boundaries), list(batch_sizes), **self.others
        )
        for buffer in reversed(self.prefetched):
            made = made.prefetch(buffer)
        return made.with_options(self.options)


def find(dataset: Any) -> OwnBuckets | None:
    """How a dataset is bucketed; None where it is not, or it cannot be told."""
    if not isinstance(dataset, tf.data.Dataset):
        return None
    inner, prefetched = dataset, []
    while type(inner).__name__ in _PASSED:
        if type(inner).__name__ == "_PrefetchDataset":
            prefetched.append(int(inner._buffer_size))
        inner = inner._input_dataset
    if type(inner).__name__ != "_GroupByWindowDataset":
        return None
    try:
        bucket_of = inspect.getclosurevars(inner._key_func._func).nonlocals["key_func"]
        told = dict(inspect.getclosurevars(bucket_of).nonlocals)
        batching = inspect.getclosurevars(inner._reduce_func._func).nonlocals
        window = inspect.getclosurevars(batching["window_size_fn"]).nonlocals
        sizes = tf.get_static_value(window["batch_sizes"])
        return OwnBuckets(
            samples=inner._input_dataset,
            length_of=told["element_length_func"],
            boundaries=tuple(int(each) for each in told["bucket_boundaries"]),
            batch_sizes=tuple(int(each) for each in sizes),
            others={name: batching[name] for name in _OTHERS},
            prefetched=tuple(prefetched),
            options=dataset.options(),
        )
    except (AttributeError, KeyError, TypeError):
        return None  # group_by_window of the user's own, or TensorFlow's names have moved
