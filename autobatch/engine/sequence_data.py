"""The samples of a training one by one, and which of their dimensions is the sequence."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from autobatch.engine import dataset_chain, own_buckets, sequence_axes
from autobatch.engine.batches import ArrayBatches, DatasetBatches
from autobatch.engine.own_buckets import OwnBuckets
from autobatch.errors import ModelError, UsageError

_UNCHANGING = (*dataset_chain.REORDERING, "_RepeatDataset")
_BATCHING = (
    "_BatchDataset",
    "_ParallelBatchDataset",
    "_PaddedBatchDataset",
    "_GroupByWindowDataset",
)


def find_own(batches: Any) -> OwnBuckets | None:
    """The buckets of the user's own that training data comes in; None where it does not."""
    return own_buckets.find(getattr(batches, "dataset", None))


def sizable(training: Any) -> tuple[OwnBuckets | None, str]:
    """The buckets of the user's own that can have other sizes in a training.

    Returns:
        None where there are none, and why in sentences where there are some, but they cannot have
        other sizes, or their sequences cannot be told.
    """
    batches = training.batches
    if not isinstance(batches, DatasetBatches) or not batches.lengths_vary:
        return None, ""
    own = find_own(batches)
    if own is None:
        return None, own_buckets.obstacle(batches.dataset)
    if training.rows is not None:  # they were told
        return own, ""
    try:
        axes_of(training.model, own.samples, own)
    except (UsageError, ModelError) as error:
        if not dataset_chain.may_be_unequal(batches.dataset):
            return None, ""  # one size is right for them
        option = " autobatch buckets has that option."
        return None, error.message + option * ("--sequence-input" in error.message)
    return own, ""


def axes_of(
    model: Any, elements: Any, own: OwnBuckets | None, inputs: tuple[str, ...] = ()
) -> tuple[int | None, ...]:
    """The axis of the sequence in each array of a sample; None in one that has no sequence.

    Args:
        model: The model.
        elements: The samples.
        own: The buckets of the user's own that they come in; None where they do not.
        inputs: As `sequence_axes.find` takes them.

    Raises:
        UsageError: It cannot be told.
        ModelError: The data is ragged or sparse.
    """
    spec = elements.element_spec
    if own is not None and own.is_mapped and not inputs:
        return sequence_axes.of_data(spec)
    axes = sequence_axes.find(model, spec, inputs)
    if own is None or inputs:
        return axes
    # What bucketing pads is what the samples leave open, whatever the model would take.
    pairs = zip(axes, tf.nest.flatten(spec), strict=True)
    padded = [a if a is not None and leaf.shape[a] is None else None for a, leaf in pairs]
    if all(axis is None for axis in padded):
        raise UsageError(
            "The dimension that the model's inputs leave open is none of those that the samples "
            "leave open: which is the sequence cannot be told."
        )
    return tuple(padded)


def elements_of(batches: Any) -> Any:
    """The samples one by one.

    Raises:
        ModelError: They cannot be had so.
    """
    if isinstance(batches, ArrayBatches):
        parts = tuple(batches._parts)
        return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])
    if not isinstance(batches, DatasetBatches):
        raise ModelError(
            "Buckets need samples one by one: give the model's file a build_dataset() that returns "
            "a tf.data.Dataset of them, unpadded (tf.data.Dataset.from_generator, say)."
        )
    return batches.dataset if not batches.batched else unbatched(batches.dataset)


def unbatched(dataset: Any) -> Any:
    """The samples of a dataset of batches: as they were before it, where that is in sight."""
    inner = dataset_chain.beneath(dataset, _UNCHANGING)
    return inner._input_dataset if type(inner).__name__ in _BATCHING else dataset.unbatch()
