"""A dataset made anew with another batch size where it batches, all behind that as it was.

`rebatch` cuts finished batches anew. That cannot be where the parts of a batch differ in their
number of rows: datasets zipped that are batched by different sizes (labelled samples beside
unlabelled ones), batches that a `map` has merged (the graphs of a batch as one large graph). There
one would change the batch size in the script, and that is what this does.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from autobatch.engine import dataset_chain

# What the error of `rebatch` says where it cannot be.
PARTS_DIFFER = "must have the same batch size in each component"
_MAPS = ("_MapDataset", "_ParallelMapDataset")
_STEPS = (*_MAPS, "_PrefetchDataset", "_OptionsDataset", "_ShuffleDataset", "_RepeatDataset")


def rebuilt(dataset: Any, size: int, own: int, *, endless: bool = False) -> Any:
    """The dataset with batches of another size; None where something in it is not known here.

    Args:
        dataset: Of batches.
        size: The size wanted.
        own: The size that it has. Parts that have another one keep their proportion to it.
        endless: Give batches without end, all of them whole.
    """
    kind = type(dataset).__name__
    if kind == "_ZipDataset":
        parts = [rebuilt(each, size, own, endless=endless) for each in dataset._inputs()]
        if any(part is None for part in parts):
            return None
        return tf.data.Dataset.zip(tf.nest.pack_sequence_as(dataset._datasets, parts))
    if hasattr(dataset, "_batch_size"):
        return batched_anew(
            dataset, max(1, round(int(dataset._batch_size) * size / own)), endless=endless
        )
    inner = getattr(dataset, "_input_dataset", None)
    if inner is None or (inner := rebuilt(inner, size, own, endless=endless)) is None:
        return None
    return same_step(dataset, inner, endless=endless)


def is_map(dataset: Any) -> bool:
    """Whether it is what a `map` has made of its input."""
    return type(dataset).__name__ in _MAPS


def is_redone(dataset: Any) -> bool:
    """Whether `same_step` knows what made it of its input."""
    kind = type(dataset).__name__
    return kind in _STEPS or (kind == "CacheDataset" and not dataset._filename.numpy())


def same_step(dataset: Any, inner: Any, *, endless: bool = False) -> Any:
    """What made `dataset` of its input, done to another input; None where that is not known.

    Args:
        dataset: What came out of the step.
        inner: The other input.
        endless: Give batches without end.
    """
    kind = type(dataset).__name__
    if kind == "_TakeDataset" and endless:
        return inner
    if not is_redone(dataset):
        return None
    if is_map(dataset):
        settings = {}
        if kind == "_ParallelMapDataset":
            settings["num_parallel_calls"] = tf.get_static_value(dataset._num_parallel_calls)
            settings["deterministic"] = {"true": True, "false": False}.get(dataset._deterministic)
        return inner.map(dataset._map_func._func, **settings)
    if kind == "_PrefetchDataset":
        return inner.prefetch(int(dataset._buffer_size))
    if kind == "_OptionsDataset":
        return inner.with_options(dataset.options())
    if kind == "_ShuffleDataset":
        return inner.shuffle(
            int(dataset._buffer_size),
            # Beside the same global seed this one makes the same pair; (0, 0) means none.
            seed=int(dataset._seed2) if int(dataset._seed) or int(dataset._seed2) else None,
            reshuffle_each_iteration=dataset._reshuffle_each_iteration,
        )
    if kind == "CacheDataset":
        return inner if endless else inner.cache()
    return inner if endless else inner.repeat(int(dataset._count))


def batched_anew(dataset: Any, size: int, *, endless: bool = False) -> Any:
    """What `dataset` batches, in batches of another size; None where it is no batching itself."""
    kind = type(dataset).__name__
    if kind not in ("_BatchDataset", "_ParallelBatchDataset", "_PaddedBatchDataset"):
        return None
    rows = dataset._input_dataset.repeat() if endless else dataset._input_dataset
    drop = bool(tf.get_static_value(dataset._drop_remainder))
    if kind == "_PaddedBatchDataset":
        return rows.padded_batch(
            size, dataset._padded_shapes, dataset._padding_values, drop_remainder=drop
        )
    parallel = {}
    if kind == "_ParallelBatchDataset":
        parallel["num_parallel_calls"] = dataset._num_parallel_calls
    return rows.batch(size, drop_remainder=drop, **parallel)


def zipped_sizes(dataset: Any) -> tuple[int, ...]:
    """The batch sizes of zipped parts, where those differ."""
    for each in dataset_chain.chain(dataset):
        if type(each).__name__ == "_ZipDataset":
            sizes = [dataset_chain.declared_batch_size(part) for part in each._inputs()]
            known = tuple(size for size in sizes if size is not None)
            return known if len(known) == len(sizes) and len(set(known)) > 1 else ()
    return ()


def parts_differ(dataset: Any) -> bool:
    """Whether the parts of a batch have different numbers of rows.

    Its first batch is looked at where a `map` behind the batching may have made it so.
    """
    if zipped_sizes(dataset):
        return True
    for each in dataset_chain.chain(dataset):
        if hasattr(each, "_batch_size"):
            return False
        if is_map(each):
            break
    else:
        return False
    return any(
        len({dataset_chain.rows_of(leaf) for leaf in tf.nest.flatten(batch)}) > 1
        for batch in dataset.take(1)
    )
