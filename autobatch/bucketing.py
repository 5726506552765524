"""`bucket_by_sequence_length`: data in the buckets that `probe_buckets` found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobatch.bucket_records import BucketResult


def bucket_by_sequence_length(
    dataset: Any,
    result: BucketResult,
    element_length_func: Callable[..., Any] | None = None,
    *,
    on_too_long: str | None = None,
    padded_shapes: Any = None,
    padding_values: Any = None,
    pad_to_bucket_boundary: bool = False,
    no_padding: bool = False,
    drop_remainder: bool = False,
) -> Any:
    """Batch a dataset by length, each bucket at the size that was proven for it.

    It is `tf.data.Dataset.bucket_by_sequence_length` with the result's boundaries and sizes; what
    is longer than was proven never reaches the device unseen.

    Args:
        dataset: A `tf.data.Dataset` of samples, not padded.
        result: What `autobatch.probe_buckets` found.
        element_length_func: The length of a sample, given as TensorFlow gives it. Defaults to
            that of the longest sequence among its inputs and targets: the dimensions that the
            probe found (`result.sequence_axes`) where a sample has as many arrays as the probe's
            had, else those that are open.
        on_too_long: What becomes of samples longer than `result.max_length`: `"error"` raises
            `tf.errors.InvalidArgumentError` when one is read, `"truncate"` cuts its sequences,
            `"drop"` leaves them out. Defaults to the result's.
        padded_shapes, padding_values, no_padding, drop_remainder: As TensorFlow takes them.
        pad_to_bucket_boundary: Pad to the bucket's longest length rather than to the batch's; the
            last bucket's to `result.max_length`.

    Returns:
        A dataset of batches, for `fit`.

    Raises:
        UsageError: An argument makes no sense, the dataset has been batched, or nothing says what
            the length is.

    Example:
        result = autobatch.probe_buckets("model.py", [100, 200, 300, 400])
        model.fit(autobatch.bucket_by_sequence_length(dataset, result))
    """
    from autobatch.engine import bucketed  # late: a program that only reads results needs none

    return bucketed.in_buckets(
        dataset,
        element_length_func,
        boundaries=result.boundaries,
        batch_sizes=result.batch_sizes,
        max_length=result.max_length,
        on_too_long=on_too_long or result.on_too_long,
        axes=result.sequence_axes,
        padded_shapes=padded_shapes,
        padding_values=padding_values,
        pad_to_bucket_boundary=pad_to_bucket_boundary,
        no_padding=no_padding,
        drop_remainder=drop_remainder,
    )
