"""Digests of a training: of its model, and of its data's form. It reads, and allocates nothing.

The model's is of what Keras can say of it (`get_config`, `get_compile_config`), of the shapes and
kinds of its variables, and of the bytecode of the user's own classes and functions in it: editing
a layer's `call` is another model, editing a comment is not. What has no bearing on the memory is
left out: learning rates, seeds, and the numbers in automatic names.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf

from autobatch import protocol, signature
from autobatch.engine.batches import ArrayBatches, DatasetBatches
from autobatch.engine.training import Training

_WITHOUT_BEARING = ("learning_rate", "seed", "initial_learning_rate")
_LIBRARIES = ("keras", "tensorflow", "numpy", "autobatch")
_DEEPEST = 40  # of what refers to what in the user's code, and of nested configurations
_MOST_PARTS = 20_000  # of code: other libraries' may be large


def of(training: Training, bus_ids: Sequence[str] = ()) -> protocol.Signature:
    """The signature of a training that is ready to run.

    Args:
        training: It.
        bus_ids: PCI bus ids of the GPUs that it runs on.
    """
    return protocol.Signature(
        model=_digest(model_parts(training.model)),
        data=_digest(data_parts(training)),
        device=_device(bus_ids),
    )


def _digest(parts: Any) -> str:
    return signature.digest_of(msgspec.json.encode(parts, order="sorted"))


# -- the model -------------------------------------------------------------------------------


def model_parts(model: Any) -> dict[str, Any]:
    """What the model's digest is made of: plain values."""
    layers = model._flatten_layers()
    config, compiling = _told(model.get_config), _told(model.get_compile_config)
    names: dict[str, str] = {}
    _number_names([config, compiling], names)
    compiled = getattr(model, "_compile_config", None)
    settings = getattr(compiled, "config", None) or {}
    own = [*layers, getattr(model, "optimizer", None), *_leaves(settings)]
    return {
        "kind": type(model).__name__,
        "config": plain(config, names),
        "compiled": plain(compiling or settings, names),
        "layers": [[type(each).__name__, _policy(each)] for each in layers],
        "variables": [
            [list(each.shape), str(each.dtype), bool(each.trainable)] for each in model.variables
        ],
        "code": [part for each in own for part in code_of(each)],
        "jit": [bool(getattr(model, "jit_compile", False)), str(tf.config.optimizer.get_jit())],
        "eager": [bool(getattr(model, "run_eagerly", False)), tf.config.functions_run_eagerly()],
        "steps_per_execution": int(getattr(model, "steps_per_execution", 1) or 1),
        "threads": [
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ],
    }


def _number_names(value: Any, names: dict[str, str], depth: int = 0) -> None:
    """Have numbers stand for the names of layers, operations and optimizers, in their order."""
    if isinstance(value, Mapping) and depth <= _DEEPEST:
        name = value.get("name")
        if isinstance(name, str):
            names.setdefault(name, f"#{len(names)}")
        value = list(value.values())
    if isinstance(value, (list, tuple)) and depth <= _DEEPEST:
        for each in value:
            _number_names(each, names, depth + 1)


def _told(ask: Callable[[], Any]) -> Any:
    """A configuration; None where the user's class has none to give."""
    with contextlib.suppress(Exception):  # the user's own method may raise anything
        return ask()
    return None


def _leaves(settings: Any) -> list[Any]:
    with contextlib.suppress(Exception):
        return list(keras.tree.flatten(settings))
    return []


def _policy(layer: Any) -> str:
    return str(getattr(getattr(layer, "dtype_policy", None), "name", ""))


def plain(value: Any, names: Mapping[str, str] = {}, depth: int = 0) -> Any:
    """A configuration as plain values that are the same in every process.

    Args:
        value: What `get_config` gave, or a part of it.
        names: What stands for names that Keras numbers as it goes, such as `dense_3`.
        depth: How far down this part is.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value if not isinstance(value, int) or -(1 << 63) <= value < 1 << 63 else str(value)
    if isinstance(value, str):
        return names.get(value, value).encode("utf-8", "backslashreplace").decode()
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        kept = ((plain(str(k)), v) for k, v in value.items() if k not in _WITHOUT_BEARING)
        return {key: plain(each, names, depth + 1) for key, each in kept}
    if isinstance(value, (list, tuple)):
        return [plain(each, names, depth + 1) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(plain(each, names, depth + 1)) for each in value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return ["array", str(value.shape), str(value.dtype)]
    if inspect.isroutine(value) or inspect.isclass(value):
        return [getattr(value, "__qualname__", ""), *code_of(value)]
    return [type(value).__qualname__, *code_of(value)]


# -- the user's own code ---------------------------------------------------------------------


def code_of(thing: Any) -> list[str]:
    """Digests of the bytecode of the user's functions and classes that `thing` is made of.

    What they refer to by name is followed: functions, classes and plain constants of the same
    module or the enclosing function.
    """
    found: list[str] = []
    if thing is not None:
        _follow(thing, found, set(), 0)
    return found


def _follow(thing: Any, found: list[str], seen: set[int], depth: int) -> None:
    if depth > _DEEPEST or len(found) > _MOST_PARTS:
        return
    if thing is None or isinstance(thing, (bool, int, float, str, bytes)):
        found.append(repr(thing))
        return
    thing = inspect.unwrap(thing) if inspect.isroutine(thing) else thing
    thing = getattr(thing, "__func__", thing)
    if id(thing) in seen or isinstance(thing, types.ModuleType):
        return
    if not isinstance(thing, type):
        seen.add(id(thing))
    if isinstance(thing, types.FunctionType):
        if _is_users(thing):
            found.append(_bytecode(thing.__code__, thing.__doc__))
            for each in _referred(thing):
                _follow(each, found, seen, depth + 1)
    elif isinstance(thing, (list, tuple, dict)):
        for each in [*thing, *(thing.values() if isinstance(thing, dict) else ())]:
            _follow(each, found, seen, depth + 1)
    else:
        for kind in thing.__mro__ if isinstance(thing, type) else type(thing).__mro__:
            _follow_class(kind, found, seen, depth)


def _follow_class(kind: type, found: list[str], seen: set[int], depth: int) -> None:
    if not _is_users(kind) or id(kind) in seen:
        return
    seen.add(id(kind))
    for name, member in sorted(vars(kind).items()):
        method = getattr(member, "fget", None) or getattr(member, "__func__", member)
        constant = isinstance(member, (bool, int, float, str)) and not name.startswith("__")
        if constant or isinstance(inspect.unwrap(method), types.FunctionType):
            found.append(name)
            _follow(method, found, seen, depth + 1)


def _is_users(thing: Any) -> bool:
    home = (getattr(thing, "__module__", None) or "builtins").split(".")[0]
    return home == "__main__" or not (home in _LIBRARIES or home in sys.stdlib_module_names)


def _referred(function: types.FunctionType) -> Iterator[Any]:
    """What the function's code may reach: globals it names, what it closed over, its defaults."""
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield function.__globals__[name]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # nothing in it yet
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _names(code: types.CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _bytecode(code: types.CodeType, doc: str | None = None) -> str:
    """Of the instructions, without the lines they stand on or what documents them."""
    constants = list(code.co_consts)
    if constants and constants[0] == doc:  # None where there is no docstring
        constants = constants[1:]
    told = [_bytecode(c) if isinstance(c, types.CodeType) else repr(plain(c)) for c in constants]
    return signature.digest_of(
        code.co_code + repr((told, code.co_names, code.co_varnames)).encode("utf-8", "replace")
    )


# -- the data --------------------------------------------------------------------------------


def data_parts(training: Training) -> dict[str, Any]:
    """What the data's digest is made of: shapes, kinds and numbers, and no contents."""
    batches = training.batches
    return {
        "kind": type(batches).__name__,
        "form": _form(batches),
        "samples": batches.samples,
        "batch_size": batches.batch_size,
        "static": batches.static,
        "device_bytes": batches.device_bytes,
        "held_bytes": list(batches.held_bytes),
        "class_weight": bool(getattr(batches, "extra", {}).get("class_weight"))
        or bool(getattr(batches, "_class_weight", None)),
        "validation": {name: _shapes(each) for name, each in training.validation.items()},
        "script_batch_size": training.script_batch_size,
        "keeps": training.keeps,
    }


def _form(batches: Any) -> Any:
    if isinstance(batches, ArrayBatches):
        return [_shapes(part) for part in (batches.x, batches.y, batches.sample_weight)]
    if isinstance(batches, DatasetBatches):
        longest = None if batches.longest is None else _shapes(batches.longest)
        return [_shapes(batches.dataset), longest]
    longest = getattr(batches, "_longest", None)  # of those that come from Python
    first = next(iter(getattr(batches, "_stock", ())), None)
    return [_shapes(first, rows=False), _shapes(longest, rows=False)]


def _shapes(data: Any, *, rows: bool = True) -> Any:
    """Shapes and kinds of a structure of arrays; of a dataset, its elements'."""
    if isinstance(data, tf.data.Dataset):
        size = int(data.cardinality())
        return [str(each) for each in tf.nest.flatten(data.element_spec)] + [str(size)]
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    described = []
    with contextlib.suppress(Exception):  # of data that is a class of the user's own
        for leaf in keras.tree.flatten(data):
            shape = tuple(getattr(leaf, "shape", ()))
            kind = getattr(leaf, "dtype", None) or np.dtype(type(leaf))
            described.append(f"{shape if rows else shape[1:]} {kind}")
    return [type(data).__name__, *described]


def _device(bus_ids: Sequence[str]) -> str:
    """The GPU's address on the PCI bus; else how many of the CPU's cores may be used."""
    if not tf.config.get_visible_devices("GPU"):
        usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 0))
        return f"{len(usable(0))} cores"
    return bus_ids[0] if bus_ids else ""
