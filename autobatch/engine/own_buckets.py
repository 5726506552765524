"""A user's own `bucket_by_sequence_length`: read from the dataset that it made, and made anew.

TensorFlow keeps the functions of a grouped dataset, and in what they close over lie the arguments
(private names: where they have moved, nothing is found, and the dataset is left as it is). What
stands behind the bucketing is done again behind the new one, where it is a step that is known.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from autobatch.engine import bucketed, dataset_chain, rebuilt

_OTHERS = (
    "padded_shapes",
    "padding_values",
    "pad_to_bucket_boundary",
    "no_padding",
    "drop_remainder",
)
_TOO_LONG = (
    "It is the longest that autobatch run found when it read the data. Cut or filter longer "
    "samples before bucket_by_sequence_length, or find sizes for them with autobatch buckets and a "
    "greater --max-length, and set those in the script."
)


@dataclass(frozen=True, slots=True)
class OwnBuckets:
    """What a script buckets by.

    Attributes:
        grouped: The dataset that it made.
        samples: The dataset before it.
        length_of: The length of a sample.
        boundaries: The first length of each bucket but the first.
        batch_sizes: One more.
        others: TensorFlow's other arguments.
        behind: What the steps behind it have made, the outermost first.
    """

    grouped: Any
    samples: Any
    length_of: Callable[..., Any]
    boundaries: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    others: dict[str, Any]
    behind: tuple[Any, ...] = ()

    @property
    def is_mapped(self) -> bool:
        """Whether its batches are changed before they are trained on."""
        return any(rebuilt.is_map(each) for each in self.behind)

    def mapped(self, batches: Any) -> Any:
        """What the maps behind it make of batches."""
        for each in reversed(self.behind):
            if rebuilt.is_map(each):
                batches = rebuilt.same_step(each, batches)
        return batches

    def padded_length(self, length: int) -> int:
        """The length to which a sample is padded at most, where none is longer than this one."""
        if not self.others["pad_to_bucket_boundary"]:
            return length
        return next((each - 1 for each in self.boundaries if each > length), length)

    def with_sizes(self, batch_sizes: Sequence[int], max_length: int) -> Any:
        """The same dataset with other batch sizes; a sample that is too long ends the training.

        Args:
            batch_sizes: Of its buckets, up to that of the maximum length. Those above, which hold
                no sample, have the last of them.
            max_length: The greatest length that they were proven for.
        """
        spec = self.samples.element_spec

        def checked(*sample: Any) -> Any:
            whole = tf.nest.pack_sequence_as(spec, tf.nest.flatten(sample))
            length = tf.cast(self.length_of(*sample), tf.int32)
            return bucketed.checked(whole, length, max_length, _TOO_LONG)

        # As TensorFlow's own bucketing does, which calls `length_of` as it is.
        samples = self.samples.map(tf.autograph.experimental.do_not_convert(checked))
        empty = len(self.boundaries) + 1 - len(batch_sizes)
        return self._made(samples, self.boundaries, [*batch_sizes, *[batch_sizes[-1]] * empty])

    def validated(self, batch_sizes: Sequence[int], max_length: int) -> Any:
        """The same dataset with other batch sizes up to a length, and above it with no larger ones.

        A training that validates on longer samples does so as before.

        Args:
            batch_sizes, max_length: As `with_sizes` takes them.
        """
        last = len(batch_sizes) - 1  # the bucket of the maximum length
        above = self.boundaries[last:]
        sizes = self.batch_sizes[last + 1 :]
        if above[:1] != (max_length + 1,):
            above, sizes = (max_length + 1, *above), self.batch_sizes[last:]
        return self._made(
            self.samples,
            (*self.boundaries[:last], *above),
            [*batch_sizes, *(min(each, batch_sizes[-1]) for each in sizes)],
        )

    def _made(self, samples: Any, boundaries: Sequence[int], batch_sizes: Sequence[int]) -> Any:
        made = samples.bucket_by_sequence_length(
            self.length_of, list(boundaries), list(batch_sizes), **self.others
        )
        for each in reversed(self.behind):
            made = rebuilt.same_step(each, made)
        return made


def find(dataset: Any) -> OwnBuckets | None:
    """How a dataset is bucketed; None where it is not, or its buckets cannot have other sizes."""
    own = _in_sight(dataset)
    if own is None or _unknown_step(own) is not None or not _padded_to_its_bucket(own):
        return None
    return own


def obstacle(dataset: Any) -> str:
    """Why the buckets of a dataset cannot have other sizes, in sentences; empty where they can, or
    batches are of one shape whatever their bucket."""
    own = _in_sight(dataset)
    if own is None or not dataset_chain.may_be_unequal(dataset):
        return ""
    step = _unknown_step(own)
    if step is not None:
        return (
            f"{_name(step)} stands behind bucket_by_sequence_length, where only map, prefetch, "
            "shuffle, cache (in memory), repeat and with_options can be done again with other "
            "batch sizes. Put it before bucket_by_sequence_length, or leave it out."
        )
    if not _padded_to_its_bucket(own):
        return (
            "Some of what bucket_by_sequence_length gives is padded to a length of its own "
            "(padded_shapes), not to that of its bucket."
        )
    return ""


def _unknown_step(own: OwnBuckets) -> Any:
    return next((each for each in own.behind if not rebuilt.is_redone(each)), None)


def _name(dataset: Any) -> str:
    """What made a dataset, by the name of its method."""
    kind = type(dataset).__name__.strip("_").removesuffix("Dataset")
    if kind == "Cache":
        return "cache to a file"
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower()


def _padded_to_its_bucket(own: OwnBuckets) -> bool:
    """Whether batches leave open the dimensions that samples do, and there is one."""
    samples, batches = map(_shapes, (own.samples, own.grouped))
    if samples is None or batches is None:
        return True  # where shapes say nothing, neither do we
    before = [[size is None for size in shape] for shape in samples]
    after = [[size is None for size in shape[1:]] for shape in batches]
    return before == after and any(map(any, before))


def _shapes(dataset: Any) -> list[Any] | None:
    """The shapes of what it gives; None where one has none, or is of no known rank."""
    shapes = [getattr(each, "shape", None) for each in tf.nest.flatten(dataset.element_spec)]
    return None if any(each is None or each.rank is None for each in shapes) else shapes


def _in_sight(dataset: Any) -> OwnBuckets | None:
    """How a dataset is bucketed, whatever stands behind; None where it is not, or no longer."""
    if not isinstance(dataset, tf.data.Dataset):
        return None
    made = _from_bucketing(dataset)
    return None if made is None else _read(made[-1], tuple(made[:-1]))


def _from_bucketing(dataset: Any) -> list[Any] | None:
    """The dataset, what it was made of, and so on to the bucketing; None where there is none, or
    another batching stands behind it."""
    if type(dataset).__name__ == "_GroupByWindowDataset":
        return [dataset]
    batched = hasattr(dataset, "_batch_size") or hasattr(dataset, "_batch_sizes")
    if batched or not hasattr(dataset, "_inputs"):
        return None
    for each in dataset._inputs():
        made = _from_bucketing(each)
        if made is not None:
            return [dataset, *made]
    return None


def _read(grouped: Any, behind: tuple[Any, ...]) -> OwnBuckets | None:
    try:
        bucket_of = inspect.getclosurevars(grouped._key_func._func).nonlocals["key_func"]
        told = dict(inspect.getclosurevars(bucket_of).nonlocals)
        batching = inspect.getclosurevars(grouped._reduce_func._func).nonlocals
        window = inspect.getclosurevars(batching["window_size_fn"]).nonlocals
        sizes = tf.get_static_value(window["batch_sizes"])
        return OwnBuckets(
            grouped=grouped,
            samples=grouped._input_dataset,
            length_of=told["element_length_func"],
            boundaries=tuple(int(each) for each in told["bucket_boundaries"]),
            batch_sizes=tuple(int(each) for each in sizes),
            others={name: batching[name] for name in _OTHERS},
            behind=behind,
        )
    except (AttributeError, KeyError, TypeError):
        return None  # group_by_window of the user's own, or TensorFlow's names have moved
