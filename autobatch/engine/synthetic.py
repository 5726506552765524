"""Data made up to fit a model, for models that come without any.

What a model takes says only its shapes and dtypes; which integers it can look up is hidden in its
layers. So the model is traced once, symbolically: from each table lookup in the graph we walk back
to the inputs that its indices come from, and the table's number of rows bounds their values.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine.synthetic_targets import (
    SymbolicCall,
    ensure_compiled,
    synthetic_targets,
    takes_targets,
)
from autobatch.errors import ModelError, UsageError

__all__ = ["ensure_compiled", "synthetic_data"]

_WORDS = 32  # in a made-up text, where nothing says how many

# Operations that pass indices on unchanged, or as good as.
_TRANSPARENT = re.compile(
    r"Add|AddV2|BiasAdd|BroadcastTo|Cast|ClipByValue|ConcatV2|EnsureShape|ExpandDims|Floor|"
    r"GatherV2|Identity|IdentityN|Maximum|Minimum|Pack|Pad|PadV2|Reshape|ReverseV2|Round|"
    r"SelectV2|Slice|Split|SplitV|Squeeze|StopGradient|StridedSlice|Sub|TensorListFromTensor|"
    r"TensorListGetItem|TensorListStack|Tile|Transpose|Unpack"
)
# Operations that run another function: which attribute names it, and its inputs' offset.
_CALLS = {
    "PartitionedCall": ("f", 0),
    "StatefulPartitionedCall": ("f", 0),
    "While": ("body", 0),
    "StatelessWhile": ("body", 0),
    "If": ("then_branch", 1),
    "StatelessIf": ("then_branch", 1),
}
_EXACT = {"float16": 2048, "bfloat16": 256, "float32": 2**24}  # all of them up to here


@dataclass(frozen=True)
class _Input:
    """One array that the model takes; `shape` is without the batch dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    batch: int | None = None
    guessed: bool = False  # the model doesn't say its dtype


@dataclass(frozen=True)
class _Domain:
    """Which values the model's tables can look up: below `rows`, or one of `vocabulary`."""

    rows: int | None = None
    vocabulary: tuple[Any, ...] = ()

    def __and__(self, other: _Domain) -> _Domain:
        rows = [each.rows for each in (self, other) if each.rows is not None]
        return _Domain(min(rows, default=None), self.vocabulary or other.vocabulary)


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
    flat = _filled(flat, sequence_length, texts=bool(_of_kind(model, "TextVectorization")))
    structure = keras.tree.pack_sequence_as(structure, flat)
    outputs = getattr(_functional(model), "_outputs_struct", None)
    if outputs is not None and _known(outputs) and _plain(model, flat):
        domains = [_Domain()] * len(flat)
    else:
        traced, flat, domains = _traced(model, structure, flat)
        outputs = outputs if traced is None else traced
    words = sequence_length or _words(model)
    arrays = [
        _values(each, domain, samples, words, rng)
        for each, domain in zip(flat, domains, strict=True)
    ]
    x = keras.tree.pack_sequence_as(structure, arrays)
    if not takes_targets(model):
        return x, None
    if outputs is None or not _known(outputs):
        outputs = _called(model, x, flat[0].batch or 1)
    return x, synthetic_targets(model, outputs, samples, rng)


def _functional(model: keras.Model) -> Any:
    return getattr(model, "_functional", None) or model  # a Sequential holds one


def _layers(model: keras.Model) -> list[Any]:
    return list(model._flatten_layers(include_self=False))


def _of_kind(model: keras.Model, *kinds: str) -> list[Any]:
    return [x for x in _layers(model) if {c.__name__ for c in type(x).__mro__} & set(kinds)]


def _known(tensors: Any) -> bool:
    return all(None not in each.shape[1:] for each in keras.tree.flatten(tensors))


# --- shapes


def _declared(
    model: keras.Model, input_shapes: Mapping[str | None, Any], length: int | None
) -> Any:
    """The model's inputs, nested as it takes them; some dimensions may be None."""
    struct = getattr(_functional(model), "_inputs_struct", None)
    if struct is not None:
        tensors = keras.tree.flatten(struct)
        names = [each.name for each in tensors]
        if isinstance(struct, Mapping) and len(struct) == len(tensors):
            names = keras.tree.flatten({key: key for key in struct})
        flat = [
            _Input(name, tuple(each.shape[1:]), each.dtype, each.shape[0])
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
        return _Input(next(iter(input_shapes), None) or "input", built[0][1:], dtype, guessed=True)
    if input_shapes:
        specs = {
            name or "input": _Input(name or "input", (None,) * len(shape), dtype, guessed=True)
            for name, shape in input_shapes.items()
        }
        return specs if len(specs) > 1 else next(iter(specs.values()))
    if tokens and length is not None:
        return _Input("input", (None,), dtype, guessed=True)
    raise ModelError(
        f"Nothing says what {type(model).__name__} takes: it has no Input, and no data came with "
        "it. Give each input's shape without the batch dimension, as in --input-shape 224,224,3 "
        "or, where there are several, --input-shape NAME=224,224,3; or write a build_dataset() "
        "next to the model."
    )


def _resolved(
    inputs: Sequence[_Input], shapes: Mapping[str | None, tuple[int, ...]]
) -> list[_Input]:
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


def _filled(inputs: Sequence[_Input], length: int | None, *, texts: bool) -> list[_Input]:
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


def _shape(each: _Input) -> str:
    return f"({', '.join(['batch', *map(str, each.shape)])})"


# --- what the model does with its inputs


def _plain(model: keras.Model, inputs: Sequence[_Input]) -> bool:
    """Keras's own layers on floats alone: nothing looks a number up, so no trace is needed."""
    return (
        all(each.dtype.startswith(("float", "bfloat")) for each in inputs)
        and all(type(layer).__module__.startswith("keras.") for layer in _layers(model))
        and not _of_kind(model, "Embedding", "CategoryEncoding", "IndexLookup", "Lambda")
        and not any(
            type(operation).__name__ in ("Cast", "OneHot")
            for each in (_functional(model), *_layers(model))
            for operation in getattr(each, "operations", ())
        )
    )


def _traced(
    model: keras.Model, structure: Any, inputs: list[_Input]
) -> tuple[Any, list[_Input], list[_Domain]]:
    """What the model gives, and what its inputs may hold, both seen in a trace without data.

    Where the model cannot be traced (it may run eagerly only), its output is None and every
    integer is held to be an index into its smallest table.
    """
    swap = {"int32": "float32", "float32": "int32"}
    swapped = [replace(x, dtype=swap[x.dtype]) if x.guessed else x for x in inputs]
    for attempt in [inputs] if swapped == inputs else [inputs, swapped]:
        seen: dict[str, Any] = {}

        def run(x: Any, seen: dict[str, Any] = seen) -> Any:
            seen.update(graph=tf.compat.v1.get_default_graph(), x=keras.tree.flatten(x))
            return model(x, training=True)

        tensors = [keras.KerasTensor((x.batch, *x.shape), x.dtype) for x in attempt]
        try:
            outputs = SymbolicCall(run).compute_output_spec(
                keras.tree.pack_sequence_as(structure, tensors)
            )
        except Exception:  # noqa: BLE001, S112 - anything of the user's; training will tell
            continue
        tables = {id(x.lookup_table.resource_handle): x for x in _of_kind(model, "IndexLookup")}
        found = _domains(seen["graph"], tables)
        domains = [found.get(each.name, _Domain()) for each in seen["x"]]
        pairs = zip(attempt, domains, strict=True)
        return (
            outputs,
            [replace(x, dtype="int32") if x.guessed and d.rows else x for x, d in pairs],
            domains,
        )
    rows = [
        getattr(x, "input_dim", None) or getattr(x, "num_tokens", None)
        for x in _of_kind(model, "Embedding", "CategoryEncoding")
    ]
    smallest = _Domain(min((each for each in rows if each), default=None))
    return None, inputs, [smallest if "int" in x.dtype else _Domain() for x in inputs]


def _domains(graph: Any, tables: Mapping[int, Any]) -> dict[str, _Domain]:
    """What each placeholder of a graph may hold, by name, where lookups depend on it."""
    captured = {inner.name: outer for outer, inner in getattr(graph, "captures", ())}
    found: dict[str, _Domain] = {}
    for operation in graph.get_operations():
        for indices, domain in _lookups(graph, operation, captured, tables):
            for name, limit in _sources(indices, domain, captured):
                found[name] = found.get(name, _Domain()) & limit
    return found


def _lookups(
    graph: Any, operation: Any, captured: Mapping[str, Any], tables: Mapping[int, Any]
) -> Iterator[tuple[Any, _Domain]]:
    """The tensors that an operation looks up, each with what it may hold."""
    kind, inputs = operation.type, operation.inputs
    rows = None
    if kind == "GatherV2":
        indices, rows = inputs[1], _size(inputs[0], tf.get_static_value(inputs[2]))
    elif kind == "ResourceGather":  # a variable's shape is known to its handle alone
        handle = getattr(captured.get(inputs[0].name), "_handle_data", None)
        indices, rows = inputs[1], handle.shape_and_type[0].shape.dim[0].size if handle else None
    elif kind == "OneHot":
        indices, rows = inputs[0], _size(operation.outputs[0], operation.get_attr("axis"))
    elif kind == "DenseBincount":  # CategoryEncoding's
        indices, rows = inputs[0], _size(operation.outputs[0], -1)
    elif kind == "UnsortedSegmentSum":
        indices, rows = inputs[1], _size(operation.outputs[0], 0)
    elif kind == "SparseSoftmaxCrossEntropyWithLogits":
        indices, rows = inputs[1], _size(inputs[0], -1)
    elif kind == "LookupTableFindV2":
        layer = tables.get(id(captured.get(inputs[0].name)))
        if layer is not None:
            vocabulary = layer.get_vocabulary(include_special_tokens=False)
            yield inputs[1], _Domain(vocabulary=tuple(vocabulary))
    elif kind in _CALLS:
        attribute, offset = _CALLS[kind]
        function = graph._get_function(operation.get_attr(attribute).name)
        inner = getattr(function, "graph", None)
        if inner is not None:
            found = _domains(inner, tables)
            for outer, placeholder in zip(inputs[offset:], inner.inputs, strict=False):
                if placeholder.name in found:
                    yield outer, found[placeholder.name]
    if rows is not None and rows > 0:
        yield indices, _Domain(int(rows))


def _size(tensor: Any, axis: Any) -> int | None:
    known = axis is not None and tensor.shape.rank is not None
    return tensor.shape[int(axis)] if known else None


def _sources(
    tensor: Any, domain: _Domain, captured: Mapping[str, Any]
) -> Iterator[tuple[str, _Domain]]:
    """The placeholders that a tensor's values come from, and what that leaves them to hold."""
    best: dict[str, float] = {}
    waiting = [(tensor, domain)]
    while waiting:
        tensor, domain = waiting.pop()
        rows = float("inf") if domain.rows is None else domain.rows
        if rows < 1 or (tensor.name in best and best[tensor.name] <= rows):
            continue
        best[tensor.name] = rows
        operation = tensor.op
        if operation.type == "Placeholder":
            yield tensor.name, domain
            continue
        if not _TRANSPARENT.fullmatch(operation.type) and operation.type not in _CALLS:
            continue
        values = list(operation.inputs)
        if operation.type == "GatherV2":
            values = values[:1]
        if operation.type in ("Add", "AddV2", "BiasAdd") and domain.rows is not None:
            # Tables of several columns laid end to end: the ids of each are shifted by a constant.
            # (Keras's own `ids + rows`, for negative ids, leaves nothing, and so is passed over.)
            shifts = [_constant(each, captured) for each in values]
            shift = sum(int(np.max(each)) for each in shifts if each is not None and np.size(each))
            domain = replace(domain, rows=domain.rows - shift)
        waiting += [(each, domain) for each in values]


def _constant(tensor: Any, captured: Mapping[str, Any]) -> Any:
    outer = captured.get(tensor.name)
    if outer is not None and outer.dtype.is_integer and hasattr(outer, "numpy"):
        return outer.numpy()
    return tf.get_static_value(tensor)


def _called(model: keras.Model, x: Any, rows: int) -> Any:
    """The model's outputs as symbolic tensors, from really calling it on its fewest rows."""
    try:
        some = keras.tree.map_structure(lambda each: tf.convert_to_tensor(each[:rows]), x)
        outputs = model(some, training=False)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda each: f"{each.dtype}{each.shape[1:]}", x)
        raise ModelError(
            f"The model could not be called on made-up inputs ({shapes}): "
            f"{type(error).__name__}: {error}. Give the right shapes with --input-shape, or write "
            "a build_dataset() next to the model.",
            traceback=traceback.format_exc(),
        ) from error
    return keras.tree.map_structure(
        lambda each: keras.KerasTensor((None, *each.shape[1:]), each.dtype), outputs
    )


# --- values


def _words(model: keras.Model) -> int:
    texts = _of_kind(model, "TextVectorization")
    return max([x.get_config()["output_sequence_length"] or _WORDS for x in texts], default=1)


def _values(
    each: _Input, domain: _Domain, samples: int, words: int, rng: np.random.Generator
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
