"""A dataset in the buckets that a probe found, through TensorFlow's own transformation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from autobatch.bucket_options import ON_TOO_LONG
from autobatch.engine import dataset_chain
from autobatch.errors import UsageError

Axes = Sequence[int | None]  # of the sequence, in each array of a sample; None where it has none
_PROBE_AGAIN = "Probe again with a greater max_length, or give on_too_long='truncate' or 'drop'."


def in_buckets(
    dataset: Any,
    length_of: Callable[..., Any] | None,
    *,
    boundaries: Sequence[int],
    batch_sizes: Sequence[int],
    max_length: int,
    on_too_long: str,
    axes: Axes = (),
    pad_to_bucket_boundary: bool = False,
    **others: Any,
) -> Any:
    """See `autobatch.bucketing`, where the arguments are told; `axes` are the result's."""
    if not isinstance(dataset, tf.data.Dataset):
        raise UsageError(
            f"dataset must be a tf.data.Dataset of samples; received {type(dataset).__name__}."
        )
    if on_too_long not in ON_TOO_LONG:
        raise UsageError(f"on_too_long must be {', '.join(ON_TOO_LONG)}; received {on_too_long!r}.")
    require_samples(dataset)
    spec = dataset.element_spec
    if len(axes) != len(tf.nest.flatten(spec)):
        axes = ()  # of other samples
    length_of = length_of or (longest_of(axes) if axes else longest_open(spec))

    def length(*sample: Any) -> Any:
        return tf.cast(length_of(*sample), tf.int32)

    if on_too_long == "drop":
        dataset = dataset.filter(lambda *sample: length(*sample) <= max_length)
    elif on_too_long == "truncate":
        dataset = dataset.map(lambda *s: _cut(_sample(s, spec), max_length, axes))
    else:
        dataset = dataset.map(
            lambda *s: checked(_sample(s, spec), length(*s), max_length, _PROBE_AGAIN)
        )
    ends, sizes = list(boundaries), list(batch_sizes)
    if pad_to_bucket_boundary:  # of the last bucket, too, which has none of its own
        ends, sizes = [*ends, max_length + 1], [*sizes, 1]
    return dataset.bucket_by_sequence_length(
        # A user's function may read the length that a sample had before it was cut.
        element_length_func=lambda *sample: tf.minimum(length(*sample), max_length),
        bucket_boundaries=ends,
        bucket_batch_sizes=sizes,
        pad_to_bucket_boundary=pad_to_bucket_boundary,
        **others,
    )


def require_samples(dataset: Any) -> None:
    """Refuse a dataset of batches.

    Raises:
        UsageError: It is one.
    """
    if dataset_chain.gives_batches(dataset):
        raise UsageError(
            "Buckets take samples, one an element and not padded; this dataset has been batched. "
            "Leave batch() and padded_batch() out."
        )


def _sample(arguments: tuple[Any, ...], spec: Any) -> Any:
    """The sample, as the dataset gives it: a tuple's parts come as arguments of their own."""
    return arguments if type(spec) is tuple else arguments[0]


def _open_axes(spec: Any) -> list[int]:
    shape = spec.shape if isinstance(spec, tf.TensorSpec) else None
    if shape is None or shape.rank is None:
        return []
    return [axis for axis, size in enumerate(shape.as_list()) if size is None]


def longest_of(axes: Axes) -> Callable[..., Any]:
    """The length of a sample: of its longest sequence, where it has several."""
    return _longest(_places(axes))


def _places(axes: Axes) -> list[list[int]]:
    """The same as a list for each array."""
    return [[] if axis is None else [axis] for axis in axes]


def longest_open(spec: Any) -> Callable[..., Any]:
    """The length of a sample: of the longest of its dimensions that are open, those of its targets
    included, as a probe stretches these, too."""
    inputs = tf.nest.flatten(spec[0] if isinstance(spec, tuple) else spec)
    if not any(_open_axes(each) for each in inputs):
        raise UsageError(
            "Which dimension of the samples is their length cannot be told: the dataset leaves "
            "none of its inputs' dimensions open. Give element_length_func, such as "
            "lambda tokens, label: tf.shape(tokens)[0]."
        )
    return _longest([_open_axes(each) for each in tf.nest.flatten(spec)])


def _longest(axes: Sequence[Sequence[int]]) -> Callable[..., Any]:
    """The greatest of some dimensions of each array of a sample."""

    def length(*sample: Any) -> Any:
        sizes = [
            tf.shape(leaf)[axis]
            for leaf, own in zip(tf.nest.flatten(sample), axes, strict=True)
            for axis in own
        ]
        return tf.reduce_max(tf.stack(sizes))

    return length


def _cut(sample: Any, most: int, axes: Axes) -> Any:
    """The sample with no more than so many steps along its sequences; without `axes`, along all
    dimensions that are open."""

    def cut(leaf: Any, places: Sequence[int]) -> Any:
        for axis in places:
            leaf = leaf[(slice(None),) * axis + (slice(most),)]
        return leaf

    leaves = tf.nest.flatten(sample)
    places = _places(axes) or [_open_axes(tf.TensorSpec.from_tensor(leaf)) for leaf in leaves]
    made = [cut(leaf, own) for leaf, own in zip(leaves, places, strict=True)]
    return tf.nest.pack_sequence_as(sample, made)


def checked(sample: Any, length: Any, most: int, remedy: str) -> Any:
    """The sample, or an error where it is too long, which ends with what is to be done."""
    said = (
        f"A sample is longer than {most}, the maximum length that the buckets were proven for. "
        f"{remedy}"
    )
    with tf.control_dependencies([tf.debugging.assert_less_equal(length, most, message=said)]):
        return tf.nest.map_structure(tf.identity, sample)
