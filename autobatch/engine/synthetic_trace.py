"""What a model does with its inputs: which integers it looks up, and what it gives.

The model is traced once, symbolically. From each table lookup in the graph we walk back to the
inputs that its indices come from, and the table's number of rows bounds their values.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine.synthetic_targets import SymbolicCall
from autobatch.errors import ModelError

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


@dataclass(frozen=True)
class Input:
    """One array that the model takes; `shape` is without the batch dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    batch: int | None = None
    guessed: bool = False  # the model doesn't say its dtype


@dataclass(frozen=True)
class Domain:
    """Which values the model's tables can look up: below `rows`, or one of `vocabulary`."""

    rows: int | None = None
    vocabulary: tuple[Any, ...] = ()

    def __and__(self, other: Domain) -> Domain:
        rows = [each.rows for each in (self, other) if each.rows is not None]
        return Domain(min(rows, default=None), self.vocabulary or other.vocabulary)


def functional(model: keras.Model) -> Any:
    """The model's graph of layers where it has one, else the model."""
    return getattr(model, "_functional", None) or model  # a Sequential holds one


def layers_of(model: keras.Model) -> list[Any]:
    """All layers, nested ones included."""
    return list(model._flatten_layers(include_self=False))


def of_kind(model: keras.Model, *kinds: str) -> list[Any]:
    """The layers of these classes, or of subclasses."""
    return [x for x in layers_of(model) if {c.__name__ for c in type(x).__mro__} & set(kinds)]


def is_known(tensors: Any) -> bool:
    """Whether all dimensions but the batch's are known."""
    return all(None not in each.shape[1:] for each in keras.tree.flatten(tensors))


def is_plain(model: keras.Model, inputs: Sequence[Input]) -> bool:
    """Keras's own layers on floats alone: nothing looks a number up, so no trace is needed."""
    return (
        all(each.dtype.startswith(("float", "bfloat")) for each in inputs)
        and all(type(layer).__module__.startswith("keras.") for layer in layers_of(model))
        and not of_kind(model, "Embedding", "CategoryEncoding", "IndexLookup", "Lambda")
        and not any(
            type(operation).__name__ in ("Cast", "OneHot")
            for each in (functional(model), *layers_of(model))
            for operation in getattr(each, "operations", ())
        )
    )


def traced_inputs(
    model: keras.Model, structure: Any, inputs: list[Input]
) -> tuple[Any, list[Input], list[Domain]]:
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
        tables = {id(x.lookup_table.resource_handle): x for x in of_kind(model, "IndexLookup")}
        found = _domains(seen["graph"], tables)
        domains = [found.get(each.name, Domain()) for each in seen["x"]]
        pairs = zip(attempt, domains, strict=True)
        return (
            outputs,
            [replace(x, dtype="int32") if x.guessed and d.rows else x for x, d in pairs],
            domains,
        )
    rows = [
        getattr(x, "input_dim", None) or getattr(x, "num_tokens", None)
        for x in of_kind(model, "Embedding", "CategoryEncoding")
    ]
    smallest = Domain(min((each for each in rows if each), default=None))
    return None, inputs, [smallest if "int" in x.dtype else Domain() for x in inputs]


def _domains(graph: Any, tables: Mapping[int, Any]) -> dict[str, Domain]:
    """What each placeholder of a graph may hold, by name, where lookups depend on it."""
    captured = {inner.name: outer for outer, inner in getattr(graph, "captures", ())}
    found: dict[str, Domain] = {}
    for operation in graph.get_operations():
        for indices, domain in _lookups(graph, operation, captured, tables):
            for name, limit in _sources(indices, domain, captured):
                found[name] = found.get(name, Domain()) & limit
    return found


def _lookups(
    graph: Any, operation: Any, captured: Mapping[str, Any], tables: Mapping[int, Any]
) -> Iterator[tuple[Any, Domain]]:
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
            yield inputs[1], Domain(vocabulary=tuple(vocabulary))
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
        yield indices, Domain(int(rows))


def _size(tensor: Any, axis: Any) -> int | None:
    known = axis is not None and tensor.shape.rank is not None
    return tensor.shape[int(axis)] if known else None


def _sources(
    tensor: Any, domain: Domain, captured: Mapping[str, Any]
) -> Iterator[tuple[str, Domain]]:
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


def called(model: keras.Model, x: Any, rows: int) -> Any:
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
