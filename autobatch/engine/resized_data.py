"""The arguments of a call of `fit`, changed so that it trains with another batch size."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from autobatch import length_buckets
from autobatch.engine import dataset_chain, iterable_batches, own_buckets
from autobatch.engine.rebuilt import batched_anew, parts_differ, rebuilt
from autobatch.engine.regrouped import RegroupedDataset, regrouped
from autobatch.engine.training import are_arrays
from autobatch.run_plan import Found

_BEHIND_BATCHING = ("_PrefetchDataset", "_OptionsDataset")  # taken off, and put on again
_NOT_BUCKETED = "its data is not bucketed by bucket_by_sequence_length, as the probed data is"


class Unchanged(Exception):  # noqa: N818 - an answer, not an error
    """The data cannot be had in batches of another size; the text says why."""


def resized(call: dict[str, Any], size: int, base: int, *, lengths_vary: bool) -> dict[str, Any]:
    """The same call of `fit` with batches of another size, validation included.

    Args:
        call: Arguments by name, defaults included.
        size: The batch size wanted.
        base: What the call trains with, where its data does not say it aloud.
        lengths_vary: The model takes samples of unequal shapes.

    Raises:
        Unchanged: Its training data cannot be had so.
    """
    changed = dict(call)
    x = call["x"]
    if are_arrays(x):
        own = call["batch_size"] or base
        changed["batch_size"] = size
    else:
        changed["x"], own = _data(x, size, base, lengths_vary)
    changed["steps_per_epoch"] = _steps(call["steps_per_epoch"], own, size)
    validation = call["validation_data"]
    if validation is not None and not isinstance(validation, (tuple, list)):
        try:
            data, own = _data(validation, size, base, lengths_vary)
        except Unchanged:
            return changed  # it is validated as before, which was proven too
        if own < size:
            changed["validation_data"] = data
            changed["validation_steps"] = _steps(call["validation_steps"], own, size)
    return changed


def in_buckets(call: dict[str, Any], found: Found) -> dict[str, Any]:
    """The same call of `fit` with other batch sizes in its buckets, those of validation included.

    A sample longer than was proven ends the training with an error; in validation, its batch is no
    larger than it was.

    Args:
        call: Arguments by name, defaults included.
        found: The buckets, the sizes wanted, and samples a step on average then and now.

    Raises:
        Unchanged: Its training data cannot be had so.
    """
    own, most = own_buckets.find(call["x"]), found.max_length
    if own is None:
        raise Unchanged(own_buckets.obstacle(call["x"]).rstrip(".") or _NOT_BUCKETED)
    if (
        length_buckets.reached(own.boundaries, most) != found.bucket_boundaries
        or own.padded_length(most) != most
    ):
        raise Unchanged("its dataset is bucketed by other lengths than those that were probed")
    sizes, size, base = found.bucket_batch_sizes, found.batch_size, found.base_batch_size
    changed = dict(call, x=own.with_sizes(sizes, most))
    changed["steps_per_epoch"] = _steps(call["steps_per_epoch"], base, size)
    validation = own_buckets.find(call["validation_data"])
    if validation is not None and validation.boundaries == own.boundaries:
        changed["validation_data"] = validation.validated(sizes, most)
        changed["validation_steps"] = _steps(call["validation_steps"], base, size)
    return changed


def _steps(steps: int | None, own: int, size: int) -> int | None:
    """As many steps as see the same number of samples."""
    return None if steps is None else max(1, math.ceil(steps * own / size))


def _data(data: Any, size: int, base: int, lengths_vary: bool) -> tuple[Any, int]:
    """The data at another batch size, and its own."""
    if isinstance(data, tf.data.Dataset):
        own = dataset_chain.declared_batch_size(data) or base
        return rebatched(data, size, own, lengths_vary=lengths_vary), own
    if isinstance(data, keras.utils.PyDataset):
        if iterable_batches.length(data) is None:
            raise Unchanged("a PyDataset without a length makes its own batches")
        return RegroupedDataset(data, base, size), base
    if type(data).__module__.split(".")[0] in ("torch", "grain"):
        raise Unchanged(f"a {type(data).__name__} makes its own batches")
    if hasattr(data, "__next__"):
        return regrouped(data, size), base
    raise Unchanged(f"data of type {type(data).__name__} makes its own batches")


def rebatched(dataset: Any, size: int, own: int, *, lengths_vary: bool = False) -> Any:
    """The dataset in batches of another size: batched anew where its batching is in sight.

    Raises:
        Unchanged: Its batches are of unequal shapes, and cannot be put together.
    """
    if parts_differ(dataset):
        made = rebuilt(dataset, size, own)
        if made is None:
            raise Unchanged("the parts of its batches have different numbers of rows")
        return made
    inner, prefetch = dataset, []
    while type(inner).__name__ in _BEHIND_BATCHING:
        if type(inner).__name__ == "_PrefetchDataset":
            prefetch.append(int(inner._buffer_size))
        inner = inner._input_dataset
    made = batched_anew(inner, size)
    if made is None:
        if lengths_vary and dataset_chain.may_be_unequal(dataset):
            raise Unchanged("its batches may be of unequal shapes, padded or grouped by length")
        fixed = dataset_chain.static_batch_size(dataset) is not None
        made, prefetch = dataset.rebatch(size, drop_remainder=fixed), [tf.data.AUTOTUNE]
        count = dataset_chain.exact_samples(dataset)
        if count is not None:  # `rebatch` does not know, and Keras would warn
            batches = count // size if fixed else math.ceil(count / size)
            made = made.apply(tf.data.experimental.assert_cardinality(batches))
    for buffer in reversed(prefetch):
        made = made.prefetch(buffer)
    return made.with_options(dataset.options())
