"""Which dimension of a model's inputs, and of its data, is the length of a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from autobatch.errors import ModelError, UsageError

Shape = tuple[int | None, ...]  # of a sample


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One array of a sample's inputs.

    Attributes:
        names: What it may be called: the input's name, its key in a dictionary.
        declared: Its shape as the model says it; None where the model does not.
        data: Its shape as the data says it.
    """

    names: tuple[str, ...]
    declared: Shape | None
    data: Shape

    @property
    def described(self) -> str:
        shape = self.data if self.declared is None else self.declared
        return f"{self.names[0]!r} is ({', '.join(['batch', *map(str, shape)])})"


def find(model: Any, spec: Any, inputs: Sequence[str] = ()) -> tuple[int | None, ...]:
    """The axis of the sequence in each array of a sample; None in one that has no sequence.

    The dimension is the sequence that is unknown in the model's input, and varies in the data
    where that says so. Targets and weights have it where the data leaves a dimension open, or
    where the model's output does and the data is as long as its sequences.

    Args:
        model: The model.
        spec: Of one sample, as `tf.data.Dataset.element_spec` gives it.
        inputs: `NAME` or `NAME:AXIS`, the batch counted as axis 0 and the first axis after it
            the default, for inputs whose shapes leave it open.

    Raises:
        UsageError: No dimension is unknown, or more than one, or the named one is fixed.
        ModelError: The data is ragged or sparse.
    """
    x, rest = (spec[0], spec[1:]) if isinstance(spec, tuple) else (spec, ())
    _require_dense(spec)
    leaves = _leaves(model, x)
    named = _named(leaves, inputs)
    axes = [
        named[place] if place in named else _only_open(leaf) for place, leaf in enumerate(leaves)
    ]
    if all(axis is None for axis in axes):
        listed = ", ".join(leaf.described for leaf in leaves)
        raise UsageError(
            f"No dimension of the model's inputs is unknown: {listed}. A model with one length has "
            "one batch size, which autobatch probe finds; for buckets, build it with "
            "keras.Input((None,)) in place of the length."
        )
    sizes = {leaves[i].data[axis] for i, axis in enumerate(axes) if axis is not None}
    return (*axes, *_target_axes(model, tf.nest.flatten(rest), sizes - {None}))


def of_data(spec: Any) -> tuple[int | None, ...]:
    """The axis that each array of a sample leaves open; None in one that leaves none.

    It is the sequence where a model does not get samples as they are, but what a `map` makes of
    their batches.

    Args:
        spec: As `find` takes it.

    Raises:
        UsageError: An array leaves more than one open.
        ModelError: The data is ragged or sparse.
    """
    _require_dense(spec)
    axes: list[int | None] = []
    for each in tf.nest.flatten(spec):
        shape = each.shape.as_list()
        varies = [axis for axis, size in enumerate(shape) if size is None]
        if len(varies) > 1:
            raise UsageError(
                f"More than one dimension of an array of the samples is unknown, {tuple(shape)}: "
                "which is the sequence cannot be told where a map stands behind the batching."
            )
        axes.append(next(iter(varies), None))
    return tuple(axes)


def _require_dense(spec: Any) -> None:
    for each in tf.nest.flatten(spec):
        if not isinstance(each, tf.TensorSpec) or each.shape.rank is None:
            raise ModelError(
                f"Buckets need samples that are dense tensors of a known rank; the data has "
                f"{type(each).__name__}. Give a tf.data.Dataset of unpadded samples "
                "(each tensor.to_tensor() without the batch dimension)."
            )


def _leaves(model: Any, x: Any) -> list[_Leaf]:
    specs = tf.nest.flatten(x)
    tensors = keras.tree.flatten(getattr(model, "inputs", None) or [])
    by_name = {tensor.name: tensor for tensor in tensors}
    keys = sorted(x) if isinstance(x, Mapping) and len(x) == len(specs) else [""] * len(specs)
    found = []
    for place, (each, key) in enumerate(zip(specs, keys, strict=True)):
        tensor = by_name.get(key)
        if tensor is None and len(tensors) == len(specs) and not (key and len(tensors) > 1):
            tensor = tensors[place]
        names = [name for name in (key, getattr(tensor, "name", "")) if name]
        declared = None if tensor is None else tuple(tensor.shape[1:])
        data = tuple(each.shape.as_list())
        if declared is not None and len(declared) != len(data):
            declared = None  # the model's own code reshapes it
        found.append(_Leaf(tuple(names) or (f"input_{place}",), declared, data))
    return found


def _named(leaves: Sequence[_Leaf], inputs: Sequence[str]) -> dict[int, int]:
    """The axes that the user names, by the array's place."""
    axes = {}
    for text in inputs:
        name, _, number = text.partition(":")
        place = next((i for i, leaf in enumerate(leaves) if name in leaf.names), None)
        if place is None:
            listed = ", ".join(repr(leaf.names[0]) for leaf in leaves)
            raise UsageError(
                f"sequence_input (--sequence-input) names {name!r}; the model's inputs are "
                f"{listed}."
            )
        leaf = leaves[place]
        if (number and not number.isdigit()) or not 1 <= int(number or 1) <= len(leaf.data):
            raise UsageError(
                f"sequence_input (--sequence-input) must be NAME or NAME:AXIS with an axis from 1 "
                f"to {len(leaf.data)} (0 is the batch); received {text!r}."
            )
        axis = int(number or 1) - 1
        if leaf.declared is not None and leaf.declared[axis] is not None:
            raise UsageError(
                f"The model's sequence dimension is fixed: {leaf.described}, so all its samples "
                f"have {leaf.declared[axis]} steps. Build it with keras.Input((None,)) in place of "
                "that length, or find its one batch size with autobatch probe."
            )
        axes[place] = axis
    return axes


def _only_open(leaf: _Leaf) -> int | None:
    """The axis that is unknown; None where all are known."""
    varies = {axis for axis, size in enumerate(leaf.data) if size is None}
    unknown = varies
    if leaf.declared is not None:
        unknown = {axis for axis, size in enumerate(leaf.declared) if size is None}
        unknown = (unknown & varies) or unknown
    if len(unknown) > 1:
        raise UsageError(
            f"More than one dimension of an input is unknown: {leaf.described}. Say which is the "
            f"sequence: --sequence-input {leaf.names[0]}:{min(unknown) + 1}."
        )
    return next(iter(unknown), None)


def _target_axes(model: Any, specs: Sequence[Any], sizes: set[Any]) -> list[int | None]:
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    open_axes = {
        axis
        for tensor in outputs
        for axis, size in enumerate(tuple(getattr(tensor, "shape", ()))[1:])
        if size is None
    }
    axes: list[int | None] = []
    for each in specs:
        shape = each.shape.as_list()
        varies = [axis for axis, size in enumerate(shape) if size is None]
        as_long = [axis for axis, size in enumerate(shape) if axis in open_axes and size in sizes]
        axes.append(next(iter(varies or as_long), None))
    return axes
