"""A training's data at any batch size: what `fit` gets in place of what the user gave it.

A source for each way in which Keras takes data; that of batches from Python has a module of its
own. None of them loads what the user's code has not loaded, and none ever runs dry: a trial needs
as many batches as it has steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine import dataset_chain
from autobatch.engine.iterable_batches import describe_shapes, unequal_shapes
from autobatch.engine.rebuilt import rebuilt, zipped_sizes
from autobatch.units import format_bytes

# Batch dimensions are left open so that one trace serves every size, as `fit` does by itself
# with arrays. Where the user's own batches have a fixed size, the proof has one too.


RAGGED = (
    "The training data is ragged: its samples have unequal lengths. It was probed on the batch "
    "with the most values a sample among those looked at; one that is longer needs more."
)


class Batches(Protocol):
    """Training data that can be had in batches of any size.

    Attributes:
        samples: In one epoch; None where unknown.
        batch_size: The user's own; None where nothing says.
        static: The user's own batches have their size fixed in their shape.
        held_bytes: Sizes of the tensors that the data set itself keeps there.
        device_bytes: What `fit` puts into the device's memory for as long as it runs.
        warnings: Sentences the user should read.
    """

    samples: int | None
    batch_size: int | None
    static: bool
    device_bytes: int
    held_bytes: tuple[int, ...]
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
        leaves = [each for part in self._parts for each in keras.tree.flatten(part)]
        leaves = [leaf for leaf in leaves if getattr(leaf, "shape", ())]
        self._rows = min((int(leaf.shape[0]) for leaf in leaves), default=None)
        self._split = float(self.extra.get("validation_split") or 0.0)
        self.samples = None if self._rows is None else math.floor(self._rows * (1 - self._split))
        self.device_bytes = sum(map(_bytes_on_device, leaves))
        self.held_bytes: tuple[int, ...] = ()
        wide = sum(int(leaf.nbytes) for leaf in leaves if _is_wide(leaf))
        if wide > dataset_chain.WORTH_A_WORD:
            self.warnings += (
                f"The training data holds {format_bytes(wide)} of float64. Keras casts it to "
                f"float32 and keeps that copy, {format_bytes(wide // 2)}, in the device's memory "
                "as long as fit runs. x.astype('float32') halves it on the host; batches read "
                "one by one (a PyDataset, or tf.data from a generator) keep it off the device.",
            )

    @property
    def _parts(self) -> list[Any]:
        return [part for part in (self.x, self.y, self.sample_weight) if part is not None]

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        if self._is_beyond(batch_size):
            # `fit` would quietly train on batches of `samples`.
            data = tf.data.Dataset.from_tensor_slices(tuple(self._parts))
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
        if self._split and self._rows is not None and not self._is_beyond(batch_size):
            batches = math.ceil((self._rows - (self.samples or 0)) / batch_size)
            return {"validation_batch_size": batch_size, "validation_steps": min(2, batches)}

        def cut(leaf: Any) -> Any:
            return None if leaf is None else leaf[: 2 * batch_size]

        x, y = keras.tree.map_structure(cut, self.x), keras.tree.map_structure(cut, self.y)
        return {"validation_data": (x, y), "validation_batch_size": batch_size}

    def _is_beyond(self, batch_size: int) -> bool:
        return self.samples is not None and batch_size > self.samples


def _is_wide(leaf: Any) -> bool:
    return str(getattr(leaf, "dtype", "")) == "float64" and hasattr(leaf, "nbytes")


def _bytes_on_device(leaf: Any) -> int:
    """What Keras puts there: floats as float32, other numbers as they are, texts not at all."""
    kind = str(getattr(leaf, "dtype", "object"))
    if isinstance(leaf, tf.Tensor):
        kind = leaf.dtype.name if leaf.dtype == tf.float64 else "object"  # it is there already
    try:
        size = 4 if kind == "float64" else np.dtype(kind).itemsize
        return 0 if np.dtype(kind).kind in "OSU" else size * math.prod(map(int, leaf.shape))
    except TypeError:  # a dtype that is not numpy's
        return 0


@dataclass
class DatasetBatches:
    """A `tf.data.Dataset`, of samples or of batches.

    Attributes:
        lengths_vary: Nothing says that all batches have one shape, so it is looked at where the
            dataset's own shapes leave it open.
        parts_differ: The parts of a batch have different numbers of rows.
    """

    dataset: Any
    batched: bool
    extra: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    lengths_vary: bool = True
    longest: Any = None  # batch, where they are of unequal shapes
    parts_differ: bool = False

    def __post_init__(self) -> None:
        self.static, self.device_bytes = False, 0
        held = dataset_chain.held_tensors(self.dataset)
        self.held_bytes = tuple(map(dataset_chain.tensor_bytes, held))
        if wide := dataset_chain.wide_bytes(self.dataset):
            self.warnings += (
                f"The data set holds {format_bytes(wide)} of float64 (from_tensor_slices), and all "
                "of it lies in the device's memory. Cast to float32 before (x.astype('float32')) "
                f"it would take {format_bytes(wide // 2)}; read in batches (a PyDataset, or "
                "Dataset.from_generator) next to nothing.",
            )
        if not self.batched:
            self.samples, self.batch_size = dataset_chain.cardinality(self.dataset), None
            return
        self.static = dataset_chain.static_batch_size(self.dataset) is not None
        self.batch_size = dataset_chain.batch_size(self.dataset)
        self.samples = dataset_chain.samples(self.dataset, self.batch_size)
        if sizes := zipped_sizes(self.dataset):
            self.parts_differ = self.is_rebuildable
            self.warnings += (
                f"The training data puts batches of different sizes together "
                f"({', '.join(map(str, sizes))}). A batch size here is that of the first; the "
                "others keep their proportion to it.",
            ) * self.parts_differ
        if self.lengths_vary and dataset_chain.has_open_dimensions(self.dataset):
            batches = None
            if self.samples and self.batch_size:
                batches = math.ceil(self.samples / self.batch_size)
            once = dataset_chain.one_round(self.dataset)  # further ones hold nothing new, as a rule
            seen = dataset_chain.longest_batch(once, batches)
            if once is self.dataset:
                self.samples = self.samples or seen.samples
            if seen.unequal:
                self.longest = seen.batch
                said = unequal_shapes(describe_shapes(seen.shapes))
                self.warnings += (RAGGED if seen.ragged else said,)

    @property
    def is_rebuildable(self) -> bool:
        """Whether it can be made anew with another batch size where it batches."""
        own = self.batch_size
        return own is not None and rebuilt(self.dataset, own, own, endless=True) is not None

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        fixed = static and self.static
        if self.longest is not None:
            spec = self.dataset.element_spec
            batch = tf.data.Dataset.from_tensors(self.longest)
            data = batch.repeat().rebatch(batch_size).map(lambda *b: _with_spec(b, spec))
        elif self.parts_differ:
            data = rebuilt(self.dataset, batch_size, self.batch_size or 1, endless=True)
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
        if not isinstance(tensor, tf.Tensor):
            return tensor
        return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=wanted.shape)

    element = batch if isinstance(spec, tuple) else batch[0]
    return tf.nest.map_structure(open_up, element, spec)


def synthetic_batches(x: Any, y: Any) -> DatasetBatches:
    """An endless dataset out of a few made-up samples."""
    samples = tf.data.Dataset.from_tensor_slices(keras.utils.pack_x_y_sample_weight(x, y))
    batches = DatasetBatches(samples, batched=False)
    batches.samples = None
    return batches
