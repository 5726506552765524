"""A training's data at any batch size: what `fit` gets in place of what the user gave it.

Four sources, one for each way in which Keras takes data. None of them loads what the user's code
has not loaded, and none ever runs dry: a trial needs as many batches as it has steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine import dataset_chain
from autobatch.errors import ModelError

# Batch dimensions are left open so that one trace serves every size, as `fit` does by itself
# with arrays. Where the user's own batches have a fixed size, the proof has one too.


class Batches(Protocol):
    """Training data that can be had in batches of any size.

    Attributes:
        samples: In one epoch; None where unknown.
        batch_size: The user's own; None where nothing says.
        static: The user's own batches have their size fixed in their shape.
        warnings: Sentences the user should read.
    """

    samples: int | None
    batch_size: int | None
    static: bool
    warnings: tuple[str, ...]

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        """Arguments of `fit` that hold an endless supply of batches of this size."""
        ...

    def validation_arguments(self, batch_size: int) -> dict[str, Any]:
        """The same data as arguments for validation, where the user has none for it."""
        ...


@dataclass
class ArrayBatches:
    """Arrays in memory (numpy, tensors, pandas; nested): Keras itself makes them into batches.

    They are handed to `fit` whole, as the user hands them over, for that puts them into the
    device's memory and so into the budget.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None
    batch_size: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # shuffle, class_weight, validation_split
    static: bool = False
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = {len(leaf) for leaf in keras.tree.flatten(self.x) if hasattr(leaf, "__len__")}
        total = min(rows, default=None)
        split = float(self.extra.get("validation_split") or 0.0)
        self.samples = int(total * (1 - split)) if total is not None else None

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        if self.samples is not None and batch_size > self.samples:
            # `fit` would quietly train on batches of `samples`.
            parts = [p for p in (self.x, self.y, self.sample_weight) if p is not None]
            data = tf.data.Dataset.from_tensor_slices(tuple(parts))
            arguments = {"x": data.repeat().batch(batch_size)}
            if self.extra.get("class_weight") is not None:
                arguments["class_weight"] = self.extra["class_weight"]
            return arguments
        return {
            "x": self.x,
            "y": self.y,
            "sample_weight": self.sample_weight,
            "batch_size": batch_size,
            **self.extra,
        }

    def validation_arguments(self, batch_size: int) -> dict[str, Any]:
        if self.extra.get("validation_split"):
            return {"validation_batch_size": batch_size}

        def cut(leaf: Any) -> Any:
            return leaf[: 2 * batch_size]

        x, y = keras.tree.map_structure(cut, self.x), keras.tree.map_structure(cut, self.y)
        return {"validation_data": (x, y), "validation_batch_size": batch_size}


@dataclass
class DatasetBatches:
    """A `tf.data.Dataset`, of samples or of batches."""

    dataset: Any
    batched: bool
    extra: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    longest: Any = None  # of a dataset bucketed by length: samples of the longest bucket

    def __post_init__(self) -> None:
        self.static = False
        if not self.batched:
            self.samples, self.batch_size = dataset_chain.cardinality(self.dataset), None
            return
        self.static = dataset_chain.static_batch_size(self.dataset) is not None
        self.batch_size = dataset_chain.batch_size(self.dataset)
        self.samples = dataset_chain.samples(self.dataset, self.batch_size)
        if dataset_chain.has_open_dimensions(self.dataset):
            shapes = dataset_chain.longest_batch(self.dataset)
            if shapes.unequal:
                self.longest = shapes.batch
                self.warnings += (
                    "The training data comes in batches of unequal shapes, grouped by length. "
                    f"It was probed at its longest shape, {shapes.described}: shorter batches "
                    "could be larger. Sizes for each length would use the memory better.",
                )

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        fixed = static and self.static
        if self.longest is not None:
            spec = self.dataset.element_spec
            samples = tf.data.Dataset.from_tensor_slices(self.longest)
            data = samples.repeat().batch(batch_size).map(lambda *b: _with_spec(b, spec))
        elif self.batched:
            data = self.dataset.repeat().rebatch(batch_size, drop_remainder=fixed)
        else:
            data = self.dataset.repeat().batch(batch_size, drop_remainder=fixed)
        return {"x": data.prefetch(tf.data.AUTOTUNE), **self.extra}

    def validation_arguments(self, batch_size: int) -> dict[str, Any]:
        return {"validation_data": self.fit_arguments(batch_size)["x"].take(2)}


def _with_spec(batch: tuple[Any, ...], spec: Any) -> Any:
    """The batch with the open dimensions that the user's dataset has."""

    def open_up(tensor: Any, wanted: Any) -> Any:
        return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=wanted.shape)

    element = batch if isinstance(spec, tuple) else batch[0]
    return tf.nest.map_structure(open_up, element, spec)


@dataclass
class IterableBatches:
    """Batches from Python: a `PyDataset`, a generator, or anything that gives batches in turn.

    Its rows are cut into batches of the size asked for. What a generator gave is kept, up to one
    batch of the largest size asked for, and given again when it has no more.
    """

    source: Any
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.static = False
        self._stock: list[Any] = []
        self._origin = self._endless()
        first = next(self._origin)
        self._origin = itertools.chain([first], self._origin)
        self.batch_size: int | None = _rows(first)
        count = getattr(self.source, "num_batches", None)
        if count is None and hasattr(self.source, "__len__"):
            count = len(self.source)
        self.samples = count * _rows(first) if count is not None else None

    def _endless(self) -> Iterator[Any]:
        indexed = hasattr(self.source, "__getitem__") and hasattr(self.source, "__len__")
        while True:
            if indexed:
                epoch: Iterable[Any] = (self.source[i] for i in range(len(self.source)))
            else:
                epoch = self.source
            count = 0
            for batch in epoch:
                count += 1
                yield batch
            if count == 0:
                return  # a generator that has been read to its end

    def _batches(self, batch_size: int) -> Iterator[Any]:
        rows: list[Any] = []
        have = 0
        while True:
            batch = next(self._origin, None)
            if batch is None:
                if not self._stock:
                    raise ModelError("The training data gives no batch at all.")
                self._origin = iter(list(self._stock))
                continue
            batch = keras.tree.map_structure(np.asarray, batch)
            self._keep(batch, batch_size)
            rows.append(batch)
            have += _rows(batch)
            while have >= batch_size:
                whole = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *rows)
                yield keras.tree.map_structure(lambda leaf: leaf[:batch_size], whole)
                rest = keras.tree.map_structure(lambda leaf: leaf[batch_size:], whole)
                have -= batch_size
                rows = [rest] if have else []

    def _keep(self, batch: Any, batch_size: int) -> None:
        if sum(map(_rows, self._stock)) < batch_size:
            self._stock.append(batch)

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        return {"x": self._batches(batch_size)}

    def validation_arguments(self, batch_size: int) -> dict[str, Any]:
        return {"validation_data": self._batches(batch_size), "validation_steps": 2}


def _rows(batch: Any) -> int:
    return len(keras.tree.flatten(batch)[0])


def synthetic_batches(x: Any, y: Any) -> DatasetBatches:
    """An endless dataset out of a few made-up samples."""
    samples = tf.data.Dataset.from_tensor_slices(keras.utils.pack_x_y_sample_weight(x, y))
    batches = DatasetBatches(samples, batched=False)
    batches.samples = None
    return batches
