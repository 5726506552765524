"""A dataset in the buckets that a probe found, through TensorFlow's own transformation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from autobatch.bucket_options import ON_TOO_LONG
from autobatch.errors import UsageError


def in_buckets(
    dataset: Any,
    length_of: Callable[..., Any] | None,
    *,
    boundaries: Sequence[int],
    batch_sizes: Sequence[int],
    max_length: int,
    on_too_long: str,
    pad_to_bucket_boundary: bool = False,
    **others: Any,
) -> Any:
    """See `autobatch.bucketing`, where the arguments are told."""
    if not isinstance(dataset, tf.data.Dataset):
        raise UsageError(
            f"dataset must be a tf.data.Dataset of samples; received {type(dataset).__name__}."
        )
    if on_too_long not in ON_TOO_LONG:
        raise UsageError(f"on_too_long must be {', '.join(ON_TOO_LONG)}; received {on_too_long!r}.")
    length_of = length_of or longest_open(dataset.element_spec)

    def length(*sample: Any) -> Any:
        return tf.cast(length_of(*sample), tf.int32)

    if on_too_long == "drop":
        dataset = dataset.filter(lambda *sample: length(*sample) <= max_length)
    else:
        if on_too_long == "truncate":
            dataset = dataset.map(lambda *s: _cut(_sample(s), max_length))
        dataset = dataset.map(lambda *s: _checked(_sample(s), length(*s), max_length))
    ends, sizes = list(boundaries), list(batch_sizes)
    if pad_to_bucket_boundary:  # of the last bucket, too, which has none of its own
        ends, sizes = [*ends, max_length + 1], [*sizes, 1]
    return dataset.bucket_by_sequence_length(
        element_length_func=length,
        bucket_boundaries=ends,
        bucket_batch_sizes=sizes,
        pad_to_bucket_boundary=pad_to_bucket_boundary,
        **others,
    )


def _sample(arguments: tuple[Any, ...]) -> Any:
    """The sample, as the dataset gives it: tuples come as arguments of their own."""
    return arguments if len(arguments) > 1 else arguments[0]


def _open_axes(spec: Any) -> list[int]:
    shape = spec.shape if isinstance(spec, tf.TensorSpec) else None
    if shape is None or shape.rank is None:
        return []
    return [axis for axis, size in enumerate(shape.as_list()) if size is None]


def longest_open(spec: Any) -> Callable[..., Any]:
    """The length of a sample: of the longest of its inputs' dimensions that are open."""
    inputs = tf.nest.flatten(spec[0] if isinstance(spec, tuple) else spec)
    axes = [_open_axes(each) for each in inputs]
    if not any(axes):
        raise UsageError(
            "Which dimension of the samples is their length cannot be told: the dataset leaves "
            "none of its inputs' dimensions open. Give element_length_func, such as "
            "lambda tokens, label: tf.shape(tokens)[0]."
        )

    def length(*sample: Any) -> Any:
        leaves = tf.nest.flatten(sample[0])
        return tf.reduce_max(
            tf.stack(
                [
                    tf.shape(leaf)[axis]
                    for leaf, open_axes in zip(leaves, axes, strict=True)
                    for axis in open_axes
                ]
            )
        )

    return length


def _cut(sample: Any, most: int) -> Any:
    """The sample with no more than so many steps along its open dimensions."""

    def cut(leaf: Any) -> Any:
        for axis in _open_axes(tf.TensorSpec.from_tensor(leaf)):
            leaf = leaf[(slice(None),) * axis + (slice(most),)]
        return leaf

    return tf.nest.map_structure(cut, sample)


def _checked(sample: Any, length: Any, most: int) -> Any:
    """The sample, or an error where it is too long."""
    said = (
        f"A sample is longer than {most}, the maximum length that the buckets were proven for. "
        "Probe again with a greater max_length, or give on_too_long='truncate' or 'drop'."
    )
    with tf.control_dependencies([tf.debugging.assert_less_equal(length, most, message=said)]):
        return tf.nest.map_structure(tf.identity, sample)
