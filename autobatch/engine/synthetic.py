"""Data made up to fit a model, for models that come without any.

What a model takes says only its shapes and dtypes; which integers it can look up is hidden in its
layers, where `synthetic_trace` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine.synthetic_targets import ensure_compiled, synthetic_targets, takes_targets
from autobatch.engine.synthetic_trace import (
    Domain,
    Input,
    called,
    functional,
    is_known,
    is_plain,
    of_kind,
    traced_inputs,
)
from autobatch.errors import ModelError, UsageError

__all__ = ["ensure_compiled", "synthetic_data"]

_WORDS = 32  # in a made-up text, where nothing says how many

_EXACT = {"float16": 2048, "bfloat16": 256, "float32": 2**24}  # all of them up to here


def synthetic_data(
    model: keras.Model,
    *,
    samples: int,
    input_shapes: Mapping[str | None, tuple[int, ...]] = MappingProxyType({}),
    sequence_length: int | None = None,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Inputs and targets, made up to fit the model: numpy arrays of `samples` rows each.

    They are nested as the model's inputs and outputs are, with tuples for lists (tf.data would
    stack a list). Targets are None where the model has no compiled loss, but its own; unless its
    `train_step(data)` reads `x, y = data`.

    Args:
        model: It is left as it was, except that an unbuilt one is built.
        samples: Rows of each array.
        input_shapes: Shapes without the batch dimension, by the input's name; the name None
            stands for the only input.
        sequence_length: Fills the first dimension after the batch wherever that is the only
            unknown one of an input. It is also the number of words in a text of no fixed length.
        seed: Of the random numbers.

    Raises:
        ModelError: A dimension is unknown, or the model cannot be called.
        UsageError: An argument contradicts the model.
    """
    for name, number in (("samples", samples), ("sequence_length", sequence_length)):
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1; received {number}.")
    rng = np.random.default_rng(seed)
    structure = _declared(model, input_shapes, sequence_length)
    flat = _resolved(keras.tree.flatten(structure), input_shapes)
    flat = _filled(flat, sequence_length, texts=bool(of_kind(model, "TextVectorization")))
    structure = keras.tree.pack_sequence_as(structure, flat)
    outputs = getattr(functional(model), "_outputs_struct", None)
    if outputs is not None and is_known(outputs) and is_plain(model, flat):
        domains = [Domain()] * len(flat)
    else:
        traced, flat, domains = traced_inputs(model, structure, flat)
        outputs = outputs if traced is None else traced
    words = sequence_length or _words(model)
    arrays = [
        _values(each, domain, samples, words, rng)
        for each, domain in zip(flat, domains, strict=True)
    ]
    x = keras.tree.pack_sequence_as(structure, arrays)
    if not takes_targets(model):
        return x, None
    if outputs is None or not is_known(outputs):
        outputs = called(model, x, flat[0].batch or 1)
    return x, synthetic_targets(model, outputs, samples, rng)


# --- shapes


def _declared(
    model: keras.Model, input_shapes: Mapping[str | None, Any], length: int | None
) -> Any:
    """The model's inputs, nested as it takes them; some dimensions may be None."""
    struct = getattr(functional(model), "_inputs_struct", None)
    if struct is not None:
        tensors = keras.tree.flatten(struct)
        names = [each.name for each in tensors]
        if isinstance(struct, Mapping) and len(struct) == len(tensors):
            names = keras.tree.flatten({key: key for key in struct})
        flat = [
            Input(name, tuple(each.shape[1:]), each.dtype, each.shape[0])
            for name, each in zip(names, tensors, strict=True)
        ]
        return keras.tree.pack_sequence_as(keras.tree.lists_to_tuples(struct), flat)
    first = model.layers[0] if model.layers else None
    tokens = isinstance(first, keras.layers.Embedding)
    dtype = "int32" if tokens else "float32"
    built = list((getattr(model, "_build_shapes_dict", None) or {}).values())
    if (
        len(built) == 1
        and isinstance(built[0], tuple)
        and all(each is None or isinstance(each, int) for each in built[0])
    ):
        return Input(next(iter(input_shapes), None) or "input", built[0][1:], dtype, guessed=True)
    if input_shapes:
        specs = {
            name or "input": Input(name or "input", (None,) * len(shape), dtype, guessed=True)
            for name, shape in input_shapes.items()
        }
        return specs if len(specs) > 1 else next(iter(specs.values()))
    if tokens and length is not None:
        return Input("input", (None,), dtype, guessed=True)
    raise ModelError(
        f"Nothing says what {type(model).__name__} takes: it has no Input, and no data came with "
        "it. Give each input's shape without the batch dimension, as in --input-shape 224,224,3 "
        "or, where there are several, --input-shape NAME=224,224,3; or write a build_dataset() "
        "next to the model."
    )


def _resolved(inputs: Sequence[Input], shapes: Mapping[str | None, tuple[int, ...]]) -> list[Input]:
    """The inputs with the shapes that the user gave them."""
    names = [each.name for each in inputs]
    listed = ", ".join(map(repr, names))
    if None in shapes and len(inputs) > 1:
        raise UsageError(
            f"--input-shape without a name serves a model with one input; this one has "
            f"{len(inputs)}: {listed}. Give it as --input-shape {names[0]}=..."
        )
    unknown = [name for name in shapes if name is not None and name not in names]
    if unknown:
        raise UsageError(
            f"--input-shape names {unknown[0]!r}, but the model's inputs are: {listed}."
        )
    resolved = []
    for each in inputs:
        given = shapes.get(each.name, shapes.get(None))
        if given is not None:
            fits = len(given) == len(each.shape) and all(
                theirs is None or theirs == ours
                for theirs, ours in zip(each.shape, given, strict=True)
            )
            if not fits or any(size < 1 for size in given):
                raise UsageError(
                    f"--input-shape {each.name}={','.join(map(str, given))} contradicts the model: "
                    f"its input {each.name!r} has the shape {_shape(each)}. Give the dimensions "
                    "after the batch, each at least 1."
                )
            each = replace(each, shape=tuple(given))
        resolved.append(each)
    return resolved


def _filled(inputs: Sequence[Input], length: int | None, *, texts: bool) -> list[Input]:
    """The inputs with `length` in place of the one unknown dimension, if it is the first."""
    lacking = [each for each in inputs if None in each.shape]
    if (
        length is not None
        and not lacking
        and not texts
        and not any(each.guessed for each in inputs)
    ):
        raise UsageError(
            f"--sequence-length {length} has nothing to fill: all dimensions of the model's inputs "
            f"are known, {', '.join(f'{each.name!r} is {_shape(each)}' for each in inputs)}."
        )
    filled = []
    for each in inputs:
        first = bool(each.shape) and each.shape[0] is None and None not in each.shape[1:]
        if first and length is not None:
            each = replace(each, shape=(length, *each.shape[1:]))
        if None in each.shape:
            example = ",".join(str(size or (128 if first else 224)) for size in each.shape)
            raise ModelError(
                f"No data came with the model, and its input {each.name!r} of shape "
                f"{_shape(each)} has dimensions that cannot be made up. Give them with "
                f"--input-shape {each.name}={example}"
                + (" or --sequence-length 128" if first else "")
                + " (in your own numbers), or write a build_dataset() next to the model."
            )
        filled.append(each)
    return filled


def _shape(each: Input) -> str:
    return f"({', '.join(['batch', *map(str, each.shape)])})"


# --- values


def _words(model: keras.Model) -> int:
    texts = of_kind(model, "TextVectorization")
    return max([x.get_config()["output_sequence_length"] or _WORDS for x in texts], default=1)


def _values(
    each: Input, domain: Domain, samples: int, words: int, rng: np.random.Generator
) -> np.ndarray:
    shape = (samples, *(size for size in each.shape if size is not None))
    if domain.vocabulary:
        kind = object if each.dtype == "string" else each.dtype
        return np.array(domain.vocabulary, kind)[rng.integers(0, len(domain.vocabulary), shape)]
    if each.dtype == "string":
        texts = [" ".join(f"word{n}" for n in rng.integers(0, 1000, words)) for _ in range(64)]
        return np.array(texts, object)[rng.integers(0, len(texts), shape)]
    dtype = np.dtype(tf.as_dtype(each.dtype).as_numpy_dtype)
    whole: Any = dtype if dtype.kind in "iub" else np.dtype(np.int32)
    if domain.rows is not None and dtype.kind != "b":
        most = np.iinfo(dtype).max if dtype.kind in "iu" else _EXACT.get(each.dtype, 2**31 - 1)
        below = min(domain.rows, most)
        # No zeros: they stand for padding, and the longest sequence is what must fit.
        return rng.integers(min(1, below - 1), below, shape, whole).astype(dtype, copy=False)
    if dtype.kind == "u":
        return rng.integers(0, 256, shape, whole)  # a pixel
    if dtype.kind in "ib":  # a mask, or which of two
        made: np.ndarray = rng.integers(0, 2, shape, whole)
        if made.ndim > 1:
            made[:, 0] = 1  # a mask that hides a whole sample gives NaN
        return made
    real: Any = dtype if each.dtype in ("float32", "float64") else np.float32
    return rng.random(shape, real).astype(dtype, copy=False)
