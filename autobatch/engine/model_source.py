"""TARGET -> a compiled Keras model and the data it trains on."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import keras

from autobatch.engine import script, synthetic, training
from autobatch.engine.batches import synthetic_batches
from autobatch.engine.device_settings import DeviceSettings
from autobatch.errors import ModelError, UsageError
from autobatch.protocol import Prepare, Target
from autobatch.targets import LiveTraining, PickledModel

FACTORIES = ("build_model", "create_model", "get_model", "make_model")
DATASETS = ("build_dataset", "dataset")
VALIDATION_DATASETS = ("build_validation_dataset", "validation_dataset")
SYNTHETIC_SAMPLES = 64


def load(
    request: Prepare,
    *,
    settings: DeviceSettings,
    on_fit: Callable[[Callable[[], training.Training]], None],
    on_stage: Callable[[str], None],
) -> training.Training:
    """The training that the target stands for.

    Args:
        request: What to load.
        settings: Takes what the user's code sets about devices.
        on_fit: Takes what reads the training of a script that reaches `fit`; does not return.
        on_stage: Told `loading` and `building`.

    Raises:
        ModelError: There is no model, or more than one that could be meant.
        UsageError: The script calls `fit` fewer times than the request counts on.
        Exception: Whatever the user's code raises.
    """
    on_stage("loading")
    target = request.target
    _as_if_run(target)
    if target.kind == "saved":
        return _training(_load_saved(target, request.safe_mode), {}, request)
    if target.kind == "pickle":
        made = _unpickle(target)
        if isinstance(made, LiveTraining):
            return training.from_sample(
                made.model.restore(),
                made.sample,
                samples=made.samples,
                batch_size=made.batch_size,
                lengths=made.lengths,
                keeps=made.keeps,
            )
        return _training(*_made(made), request)
    settings.install()
    if target.kind == "script":
        names, has_loop = script.run(
            target, request.fit_call, on_fit, on_loop=lambda: on_stage("own_loop")
        )
    else:
        names, has_loop = vars(_import(target)), False
    on_stage("building")
    try:
        model = _find_model(names, target)
    except ModelError as error:
        if has_loop:
            raise ModelError(f"{error.message} {script.OWN_LOOP}") from error
        raise
    found = _training(model, names, request)
    found.warnings += (script.OWN_LOOP,) * has_loop
    return found


def _training(model: Any, names: Mapping[str, Any], request: Prepare) -> training.Training:
    warnings = synthetic.ensure_compiled(model, optimizer=request.optimizer, loss=request.loss)
    data = _first(names, DATASETS)
    if data is None:
        x, y = synthetic.synthetic_data(
            model,
            samples=SYNTHETIC_SAMPLES,
            input_shapes={name or None: shape for name, shape in request.input_shapes.items()},
            sequence_length=_made_up_length(request),
        )
        found = training.Training(model, model.fit, synthetic_batches(x, y), {}, made_up=True)
        warnings = (
            *warnings,
            "No data was given (build_dataset or dataset in the model's file), so it was made up "
            "to fit the model's inputs and loss.",
        )
    else:
        found = training.from_data(model, data, _first(names, VALIDATION_DATASETS))
    found.warnings = tuple(warnings)
    return found


def _made_up_length(request: Prepare) -> int | None:
    if request.sequences is None:
        return request.sequence_length
    if request.input_shapes:
        return None  # they say it; trials make it as long as they need
    if request.sequences.max_length is None:
        raise UsageError(
            "How long sequences may be is not known: no data came with the model. Give "
            "max_length (--max-length), or write a build_dataset() next to the model."
        )
    return request.sequences.max_length


def _first(names: Mapping[str, Any], wanted: tuple[str, ...]) -> Any:
    """The first of these names, called where it is a function."""
    for name in wanted:
        if name in names:
            value = names[name]
            return value() if inspect.isroutine(value) else value
    return None


def _as_if_run(target: Target) -> None:
    """`sys.argv` and `sys.path[0]` as Python sets them for the file or module."""
    name = target.path or target.module or ""
    sys.argv = [name, *target.arguments]
    first = str(Path(target.path).parent) if target.path else os.getcwd()
    sys.path.insert(0, first)


def _import(target: Target) -> Any:
    if target.module is not None:
        return importlib.import_module(target.module)
    assert target.path is not None
    stem = Path(target.path).stem
    spec = importlib.util.spec_from_file_location(stem, target.path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{target.path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    spec.loader.exec_module(module)
    return module


def _find_model(names: Mapping[str, Any], target: Target) -> Any:
    where = target.path or target.module
    if target.name is not None:
        if target.name not in names:
            known = [n for n, v in names.items() if inspect.isfunction(v) and n[0] != "_"]
            raise ModelError(
                f"{where} has no {target.name!r}. Its functions: {', '.join(known) or 'none'}."
            )
        found = names[target.name]
        if isinstance(found, keras.Model):
            return found
        return _call_factory(found, target.name)
    factories = [name for name in FACTORIES if callable(names.get(name))]
    if len(factories) == 1:
        return _call_factory(names[factories[0]], factories[0])
    models = {id(v): n for n, v in names.items() if isinstance(v, keras.Model)}
    if not factories and len(models) == 1:
        return names[next(iter(models.values()))]
    candidates = factories or sorted(models.values())
    if candidates:
        raise ModelError(
            f"{where} has more than one model: {', '.join(candidates)}. Say which: "
            f"autobatch probe {where}:{candidates[0]}."
        )
    for name, value in names.items():
        _refuse_legacy(name, value)
    called = (
        f"It ran to its end without model.fit, and has none of {', '.join(FACTORIES)} and "
        "no Keras model of its own."
        if target.kind == "script"
        else f"It has none of {', '.join(FACTORIES)} and no Keras model of its own."
    )
    raise ModelError(
        f"There is no model in {where}. {called} Name a function that returns one: "
        "autobatch probe model.py:build_model."
    )


def _call_factory(factory: Any, name: str) -> Any:
    if not callable(factory):
        raise ModelError(
            f"{name} is of type {type(factory).__name__}; expected a function that returns a "
            "Keras model, or a Keras model."
        )
    try:
        parameters = dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):  # of a callable written in C
        parameters = {}
    required = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise ModelError(
            f"{name} needs arguments ({', '.join(required)}); autobatch calls it with none. Give "
            "them defaults, or probe a function without arguments that calls it."
        )
    model = factory()
    if not isinstance(model, keras.Model):
        _refuse_legacy(name, model)
        raise ModelError(
            f"{name}() returned {type(model).__name__}; expected a Keras model. Have it return "
            "one, or name another function."
        )
    return model


def _refuse_legacy(name: str, value: Any) -> None:
    if any(kind.__module__.split(".")[0] == "tf_keras" for kind in type(value).__mro__):
        raise ModelError(
            f"{name} is a legacy tf_keras (Keras 2) model; autobatch works with Keras 3. Unset "
            "TF_USE_LEGACY_KERAS and import keras instead of tf_keras."
        )


def _unpickle(target: Target) -> Any:
    assert target.pickle is not None
    return cloudpickle.loads(target.pickle)


def _made(made: Any) -> tuple[Any, Mapping[str, Any]]:
    """The model, and the data that lies beside the function that made it."""
    if isinstance(made, PickledModel):
        return made.restore(), {}
    beside = getattr(inspect.unwrap(made), "__globals__", {})
    names = {n: v for n, v in beside.items() if n in DATASETS + VALIDATION_DATASETS}
    return _call_factory(made, getattr(made, "__name__", "the callable")), names


def _load_saved(target: Target, safe_mode: bool) -> Any:
    try:
        return keras.models.load_model(target.path, safe_mode=safe_mode)
    except ValueError as error:
        if safe_mode and "safe_mode" in str(error):
            raise ModelError(
                f"{target.path} holds code (a Lambda layer), which Keras's safe mode refuses to "
                "run. If you trust the file, turn it off with --no-safe-mode."
            ) from error
        raise
