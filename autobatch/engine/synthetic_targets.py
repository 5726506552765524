"""Targets made up to fit a model's loss; and a loss, where a model has none."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from autobatch.errors import ModelError, UsageError

# Losses by what their targets must be; names as `_loss_name` spells them. All others, custom
# functions among them, get floats in [0, 1).
_CLASS_IDS = {"sparsecategoricalcrossentropy"}
_ONE_HOT = {
    "categoricalcrossentropy",
    "categoricalfocalcrossentropy",
    "categoricalhinge",
    "kldivergence",
}
_BINARY = {"binarycrossentropy", "binaryfocalcrossentropy"}
_MASKS = {"dice", "tversky"}  # one-hot where there are several classes, binary where there is one
_SIGNS = {"hinge", "squaredhinge"}
_POSITIVE = {"poisson", "meansquaredlogarithmicerror", "meanabsolutepercentageerror"}
_LABELS = {"circle"}  # one class id a sample, whatever the output's width


class SymbolicCall(keras.Operation):  # type: ignore[misc]  # keras is untyped
    """Any function as an operation, whose `compute_output_spec` runs it without data."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def takes_targets(model: keras.Model) -> bool:
    """The model's training needs targets: it has a compiled loss, or its own code unpacks them."""
    return getattr(model, "loss", None) is not None or _unpacks_targets(model)


def synthetic_targets(
    model: keras.Model, outputs: Any, samples: int, rng: np.random.Generator
) -> Any:
    """Targets for `outputs`, symbolic tensors whose shapes are known but for the batch."""
    loss = getattr(model, "loss", None)
    if loss is None:
        loss = next(
            (each for each in vars(model).values() if isinstance(each, keras.losses.Loss)),
            likely_loss(model),
        )
    flat = keras.tree.flatten(outputs)
    losses = _losses(loss, outputs, getattr(model, "output_names", None) or [])
    made = [_target(one, each, samples, rng) for one, each in zip(losses, flat, strict=True)]
    return keras.tree.pack_sequence_as(keras.tree.lists_to_tuples(outputs), made)


def has_own(model: keras.Model, method: str) -> bool:
    """The model's class replaces this method of Keras's."""
    return getattr(type(model), method) is not getattr(keras.Model, method)


def likely_loss(model: keras.Model) -> Any:
    """The usual loss for each of the model's last activations; nested as its outputs are."""
    functional = getattr(model, "_functional", None) or model
    outputs = getattr(functional, "_outputs_struct", None)
    if outputs is not None:
        return keras.tree.map_structure(lambda each: _usual_loss(_maker(each)), outputs)
    return _usual_loss(model.layers[-1] if model.layers else None)


def ensure_compiled(
    model: keras.Model, *, optimizer: str | None, loss: str | None
) -> tuple[str, ...]:
    """Compiles a model that isn't, and says in sentences what it assumed; leaves others alone.

    Raises:
        UsageError: Keras knows no such optimizer or loss.
        ModelError: The model's own `compile` needs arguments that only its author can give.
    """
    named = {"optimizer": optimizer, "loss": loss}
    given = [f"--{option} {name}" for option, name in named.items() if name]
    if model.compiled:
        said = f"The model is compiled already: {' and '.join(given)} was not used."
        return (said,) if given else ()
    for option, name in named.items():
        try:
            getattr(keras, "losses" if option == "loss" else "optimizers").get(name or "adam")
        except (ValueError, TypeError) as error:
            if name:
                raise UsageError(
                    f"--{option} must be a name that Keras knows; received {name!r}."
                ) from error
    arguments: dict[str, Any] = {"optimizer": optimizer or "adam"}
    assumed = [] if optimizer else ["the optimizer 'adam'"]
    own = [f"{each}()" for each in ("train_step", "compute_loss") if has_own(model, each)]
    if loss:
        arguments["loss"] = loss
    elif not own:
        arguments["loss"] = likely_loss(model)
        assumed.append(f"the loss {arguments['loss']!r}")
    try:
        inspect.signature(model.compile).bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"The model is not compiled, and {type(model).__name__}.compile() takes other "
            f"arguments than Keras's ({error}). Compile the model where it is built."
        ) from error
    model.compile(**arguments)
    said = f"The model was not compiled: assumed {' and '.join(assumed)}" if assumed else ""
    if own and not loss:
        said = said or f"The model was compiled with {' and '.join(given)}"
        said += f", and no loss, as it has its own {' and '.join(own)}"
    return (f"{said}. Compile it where it is built to measure your own training.",) if said else ()


def _usual_loss(layer: Any) -> str:
    layer = getattr(layer, "layer", layer)  # TimeDistributed and other wrappers
    activation = getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__)
    return {
        "softmax": "sparse_categorical_crossentropy",
        "sigmoid": "binary_crossentropy",
    }.get(activation.lower(), "mean_squared_error")


def _maker(tensor: Any) -> Any:
    """The layer that a symbolic tensor comes from, through nested models."""
    history = getattr(tensor, "_keras_history", None)
    operation = getattr(history, "operation", None)
    inner: Any = getattr(operation, "_functional", None) or operation
    if getattr(inner, "_outputs_struct", None) is not None and history is not None:
        return _maker(keras.tree.flatten(inner._outputs_struct)[history.tensor_index])
    return operation


def _unpacks_targets(model: keras.Model) -> bool:
    """The model's own `train_step(data)` reads `x, y = data`, come what may."""
    if not has_own(model, "train_step"):
        return False
    try:
        code = ast.parse(textwrap.dedent(inspect.getsource(type(model).train_step)))
    except (OSError, TypeError, SyntaxError):
        return False
    function = code.body[0]
    if not isinstance(function, ast.FunctionDef) or len(function.args.args) < 2:
        return False
    data = function.args.args[1].arg
    return any(
        isinstance(line, ast.Assign)
        and isinstance(line.value, ast.Name)
        and line.value.id == data
        and isinstance(line.targets[0], ast.Tuple)
        and len(line.targets[0].elts) == 2
        for line in function.body  # not in an `if`: that asks whether there are any
    )


def _losses(loss: Any, outputs: Any, names: list[str]) -> list[Any]:
    """One loss an output, flat; None where it has none. As Keras reads `compile(loss=...)`."""
    # Keras wraps what it stores, so that `keras.tree` may take a dict of losses for a leaf.
    if not isinstance(loss, Mapping | list | tuple):
        return [loss] * len(keras.tree.flatten(outputs))
    if isinstance(loss, Mapping):
        if isinstance(outputs, Mapping):
            each = {key: _losses(loss.get(key), part, []) for key, part in outputs.items()}
            return [one for key in _order(outputs) for one in each[key]]
        if not keras.tree.is_nested(outputs):
            return [next(iter(loss.values()))]
        return [
            one
            for name, part in zip(names, outputs, strict=True)
            for one in _losses(loss.get(name), part, [])
        ]
    if not keras.tree.is_nested(outputs):  # several losses of the same output
        return [next((one for one in loss if one is not None), None)]
    parts = [outputs[key] for key in _order(outputs)] if isinstance(outputs, Mapping) else outputs
    if len(loss) == len(keras.tree.flatten(outputs)) and not any(
        isinstance(one, Mapping | list | tuple) for one in loss
    ):
        return list(loss)
    return [one for each, part in zip(loss, parts, strict=True) for one in _losses(each, part, [])]


def _order(outputs: Mapping[Any, Any]) -> list[Any]:
    """The keys in the order in which `keras.tree` flattens them."""
    keys = list(outputs)
    order: list[int] = keras.tree.flatten({key: place for place, key in enumerate(keys)})
    return [keys[place] for place in order]


def _loss_name(loss: Any) -> str:
    """Keras's name of a loss, a user's subclass of it included; empty for the user's own."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    loss = getattr(loss, "func", loss)  # functools.partial
    loss = getattr(loss, "fn", loss)  # a function that Keras wrapped
    for each in [loss] if hasattr(loss, "__name__") else type(loss).__mro__:
        if each.__module__.startswith("keras.") and each is not keras.losses.Loss:
            return str(each.__name__).replace("_", "").lower()
    return ""


def _target(loss: Any, output: Any, samples: int, rng: np.random.Generator) -> np.ndarray:
    shape = (samples, *output.shape[1:])
    if loss is None:
        return np.zeros(shape, np.float32)
    name = _loss_name(loss)
    axis = getattr(loss, "axis", None) or getattr(loss, "keywords", {}).get("axis")
    axis = axis if isinstance(axis, int) and name in _CLASS_IDS | _ONE_HOT else -1
    if name in _CLASS_IDS:
        return _class_ids(shape, axis, rng)
    if name in _ONE_HOT or (name in _MASKS and shape[-1] > 1):
        ids = np.expand_dims(_class_ids(shape, axis, rng), axis)
        made = np.zeros(shape, np.float32)
        np.put_along_axis(made, ids.astype(np.int64), 1.0, axis)
        return made
    if name in _BINARY | _MASKS:
        return rng.integers(0, 2, shape, dtype=np.uint8).astype(np.float32)
    if name in _SIGNS:
        return rng.integers(0, 2, shape, dtype=np.uint8).astype(np.float32) * 2 - 1
    if name in _POSITIVE:
        return rng.random(shape, dtype=np.float32) + 1
    if name in _LABELS:
        return rng.integers(0, 2, samples, dtype=np.int32)
    if name == "ctc":  # 0 is the blank; between two labels there is room for one
        return rng.integers(1, max(shape[2], 2), (samples, max(shape[1] // 2, 1)), dtype=np.int32)
    if name or not _refuses(loss, output, output.shape):
        return rng.random(shape, dtype=np.float32)
    for tail in ((), (1,)):  # a custom loss that takes class ids, with or without a last dimension
        if len(shape) > 1 and not _refuses(loss, output, (*output.shape[:-1], *tail)):
            return _class_ids(shape, -1, rng).reshape(*shape[:-1], *tail)
    return rng.random(shape, dtype=np.float32)


def _class_ids(shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> np.ndarray:
    rest = list(shape)
    classes = rest.pop(axis)
    return rng.integers(0, classes, rest, dtype=np.int32)


def _refuses(loss: Any, output: Any, target_shape: tuple[int | None, ...]) -> bool:
    """A custom loss cannot be traced with targets of this shape."""
    target = keras.KerasTensor(target_shape, "float32")
    try:
        SymbolicCall(loss).compute_output_spec(target, output)
    except Exception:  # noqa: BLE001 - the user's code may raise anything
        return True
    return False
