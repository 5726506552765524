"""One training as the user wrote it: a model, its data, and what goes with them into `fit`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine import dataset_chain
from autobatch.engine.batches import ArrayBatches, Batches, DatasetBatches
from autobatch.engine.iterable_batches import IterableBatches
from autobatch.engine.rebuilt import rebuilt
from autobatch.engine.sequences import SequenceRows
from autobatch.errors import ModelError
from autobatch.length_buckets import Lengths

VALIDATION_STEPS = 2  # a whole batch and, where the data has one, the smaller one after it
_ARRAY_ARGUMENTS = ("shuffle", "class_weight", "validation_split")


@dataclass
class Training:
    """What a trial runs.

    Attributes:
        model: A compiled Keras model.
        fit: Its `fit`, as Keras defines it.
        batches: Its training data.
        validation: The user's own arguments for validation; empty where there are none.
        script_batch_size: What the user's script trains with; None where nothing says.
        warnings: Sentences the user should read.
        keeps: What a step begins with is kept until it has ended, as `recover=True` does.
        borrows: Validate on training data, where the user validates nothing.
        made_up: The data is ours, made up to fit the model or some rows for all: nothing of it
            tells how long the user's sequences are.
        lengths: Of the data's sequences, where they are known beforehand.
        rows: The data at any sequence length; None where lengths are not told apart.
    """

    model: Any
    fit: Callable[..., Any]
    batches: Batches
    validation: dict[str, Any]
    script_batch_size: int | None = None
    warnings: tuple[str, ...] = ()
    keeps: bool = False
    borrows: bool = field(init=False)
    made_up: bool = False
    lengths: Lengths | None = None
    rows: SequenceRows | None = None

    def __post_init__(self) -> None:
        # A model with a training step of its own alone may have nothing that could be validated.
        own_train, own_test = (
            getattr(type(self.model), name) is not getattr(keras.Model, name)
            for name in ("train_step", "test_step")
        )
        self.borrows = own_test or not own_train

    @property
    def replicas(self) -> int:
        """Copies of the model that train at once, each on its share of a batch."""
        strategy = strategy_of(self.model)
        return 1 if strategy is None else int(strategy.num_replicas_in_sync)

    @property
    def fixed_batch_size(self) -> int | None:
        """A batch size that is baked into the model's inputs."""
        inputs = keras.tree.flatten(getattr(self.model, "inputs", None) or [])
        sizes = {tensor.shape[0] for tensor in inputs}
        return next(iter(sizes)) if len(sizes) == 1 else None

    def of_shapes(self, shapes: tuple[tuple[int, int], ...]) -> Training:
        """The same training on batches of these sizes (of one replica) and sequence lengths.

        It validates on such batches too, whatever the user validates on: that will be put into
        the buckets that are found.
        """
        assert self.rows is not None
        shaped = copy.copy(self)  # shares what `borrows` was found to be
        whole = tuple((size * self.replicas, length) for size, length in shapes)
        shaped.batches = self.rows.batches(whole)
        shaped.borrows, shaped.validation = self.borrows or bool(self.validation), {}
        return shaped

    @property
    def rebuilds(self) -> bool:
        """The data's batches cannot be cut anew: the whole dataset is made anew."""
        return isinstance(self.batches, DatasetBatches) and self.batches.parts_differ

    def rebuild(self) -> bool:
        """Make the whole dataset anew from now on; False where that cannot be, or is done."""
        data = self.batches
        can = isinstance(data, DatasetBatches) and not data.parts_differ and data.is_rebuildable
        if isinstance(data, DatasetBatches) and can:
            data.parts_differ = True
        return can

    def forget_traces(self) -> None:
        """Have the model trace its steps anew: TensorFlow keeps one that failed half-way."""
        self.model.train_function = self.model.test_function = None

    def validation_arguments(self, batch_size: int) -> dict[str, Any]:
        """Arguments that have `fit` validate for a step or two, as the user's training would.

        Validation data that comes in larger batches keeps their size; in smaller ones, it is taken
        at this size, the more demanding one. Arrays are cut as Keras cuts them.
        Where the user validates nothing, the training data serves, if the model can be validated.
        """
        data = self.validation.get("validation_data")
        if data is None:
            splits = bool(self.validation.get("validation_split"))
            lends = splits or self.borrows
            return self.batches.validation_arguments(batch_size) if lends else {}
        if isinstance(data, tf.data.Dataset):
            own = dataset_chain.declared_batch_size(data)
            if own is not None and own < batch_size and not dataset_chain.has_open_dimensions(data):
                # What `autobatch run` validates with.
                if self.rebuilds:
                    data = rebuilt(data, batch_size, own) or data
                else:
                    data = data.rebatch(batch_size)
            return {"validation_data": data.take(VALIDATION_STEPS)}
        if not isinstance(data, (tuple, list)):
            return {"validation_data": data, "validation_steps": VALIDATION_STEPS}
        size = self.validation.get("validation_batch_size") or batch_size
        rows = len(keras.tree.flatten(data[0])[0])
        return {
            "validation_data": data,
            "validation_batch_size": size,
            "validation_steps": min(VALIDATION_STEPS, math.ceil(rows / size)),
        }


def strategy_of(model: Any) -> Any:
    """The `tf.distribute` strategy that the model was built under; None for the default one."""
    strategy = getattr(model, "distribute_strategy", None)
    spread = strategy is not None and strategy.num_replicas_in_sync > 1
    return strategy if spread else None


def from_fit_call(model: Any, fit: Callable[..., Any], call: Mapping[str, Any]) -> Training:
    """The training that a script asked for.

    Args:
        model: The model whose `fit` was called.
        fit: That `fit`, bound to it.
        call: Its arguments by name, defaults included.

    Raises:
        ModelError: The data is of a kind that cannot be cut into other batches.
    """
    x, asked = call["x"], call["batch_size"]
    extra = {"class_weight": call["class_weight"]}
    batches: Batches
    if isinstance(x, tf.data.Dataset):
        batches = DatasetBatches(x, batched=True, extra=extra, lengths_vary=is_open(model))
    elif are_arrays(x):
        steps = call["steps_per_epoch"]
        batches = ArrayBatches(
            x,
            call["y"],
            call["sample_weight"],
            extra={name: call[name] for name in _ARRAY_ARGUMENTS},
        )
        if asked is None and steps and batches.samples:
            asked = math.ceil(batches.samples / steps)  # as Keras's array adapter does
        batches.batch_size = asked or 32
    elif hasattr(x, "__iter__") or hasattr(x, "__getitem__"):
        batches = IterableBatches(
            x, call["class_weight"], lengths_vary=is_open(model), input_ranks=_input_ranks(model)
        )
    else:
        raise ModelError(
            f"fit was given training data of type {type(x).__name__}, which autobatch cannot cut "
            "into other batches. It takes arrays, tf.data, PyDataset, generators and other "
            "iterables of batches."
        )
    steps = call["steps_per_epoch"]
    if isinstance(batches, (DatasetBatches, IterableBatches)) and steps and batches.batch_size:
        # An endless dataset has no length; what the script calls an epoch stands for it.
        batches.samples = batches.samples or steps * batches.batch_size
    given = ("validation_data", "validation_steps", "validation_batch_size")
    validation = {name: call[name] for name in given if call[name] is not None}
    if call["validation_split"]:
        validation["validation_split"] = call["validation_split"]
    return Training(model, fit, batches, validation, batches.batch_size)


def from_data(model: Any, data: Any, validation: Any = None) -> Training:
    """The training of a model that a factory made, on the data that its file gives.

    Args:
        model: A compiled model.
        data: Arrays, `(x, y)`, `(x, y, sample_weight)`, a `tf.data.Dataset` of samples or of
            batches, a `PyDataset` or a generator of batches; or `(training, validation)` datasets.
        validation: The same, for validation; None for none.
    """
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    if pair and all(isinstance(each, tf.data.Dataset) for each in data):
        data, validation = data
    batches = _batches(model, data)
    arguments = {}
    if validation is not None:
        if isinstance(validation, tf.data.Dataset) and not _is_batched(model, validation):
            size = batches.batch_size or 32
            validation = validation.batch(size)
        arguments = {"validation_data": validation}
    return Training(model, model.fit, batches, arguments, batches.batch_size)


def from_sample(
    model: Any,
    sample: Any,
    *,
    samples: int | None,
    batch_size: int | None,
    lengths: Lengths | None = None,
    keeps: bool = False,
) -> Training:
    """The training of a live model whose data stays where it is: a few rows stand for all.

    Args:
        model: A compiled model.
        sample: Some rows of its data, as nested arrays; they come again and again.
        samples: Rows in an epoch; None where unknown.
        batch_size: The user's own; None where there is none.
        lengths: Of the data's sequences; None where unknown.
        keeps: As `Training.keeps`.
    """
    rows = tf.data.Dataset.from_tensor_slices(sample)
    batches = DatasetBatches(rows, batched=False)
    batches.samples, batches.batch_size = samples, batch_size
    return Training(
        model,
        model.fit,
        batches,
        {},
        batch_size,
        keeps=keeps,
        made_up=True,
        lengths=lengths,
    )


def _batches(model: Any, data: Any) -> Batches:
    if isinstance(data, tf.data.Dataset):
        return DatasetBatches(data, batched=_is_batched(model, data), lengths_vary=is_open(model))
    if isinstance(data, tuple) and len(data) in (2, 3) and are_arrays(data[0]):
        return ArrayBatches(*data)
    if are_arrays(data):
        return ArrayBatches(data)
    if hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
        ranks = _input_ranks(model)
        return IterableBatches(data, lengths_vary=is_open(model), input_ranks=ranks)
    raise ModelError(
        f"build_dataset must give arrays, a tf.data.Dataset, a PyDataset or an iterable of "
        f"batches; received {type(data).__name__}."
    )


def is_open(model: Any) -> bool:
    """Whether the model takes samples of unequal shapes, as far as one can know."""
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    return not inputs or any(None in tensor.shape[1:] for tensor in inputs)


def _input_ranks(model: Any) -> tuple[int, ...]:
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    return tuple(len(tensor.shape) for tensor in inputs)


def are_arrays(data: Any) -> bool:
    """Whether every leaf is an array, as Keras's own adapter for arrays asks."""
    leaves = keras.tree.flatten(data)
    kinds = (np.ndarray, tf.Tensor, tf.Variable, tf.RaggedTensor, tf.SparseTensor)
    return bool(leaves) and all(
        isinstance(leaf, kinds) or hasattr(leaf, "__array__") or hasattr(leaf, "tocoo")
        for leaf in leaves
    )


def _is_batched(model: Any, dataset: Any) -> bool:
    """Whether the dataset's elements are batches: by the rank of the model's inputs if known, else
    by the batching itself, or by all arrays, targets too, being of unknown length."""
    spec = dataset.element_spec
    x = spec[0] if isinstance(spec, tuple) else spec
    leaves = [leaf for leaf in tf.nest.flatten(x) if leaf.shape.rank is not None]
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if inputs and len(inputs) == len(leaves):
        ranks = sorted(len(tensor.shape) for tensor in inputs)
        return sorted(leaf.shape.rank for leaf in leaves) == ranks
    shapes = [each.shape for each in tf.nest.flatten(spec) if each.shape.rank is not None]
    open_ = bool(shapes) and all(shape.rank and shape[0] is None for shape in shapes)
    return dataset_chain.gives_batches(dataset) or open_
