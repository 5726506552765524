"""A model's optimizers, as far as the learning rate depends on them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.records import OptimizerInfo

_NUMBERS = ("momentum", "beta_1", "beta_2", "epsilon")


def describe(model: Any) -> tuple[OptimizerInfo, ...]:
    """The compiled optimizer first, then those that the model holds beside it."""
    return tuple(_describe(name, optimizer) for name, optimizer in held(model))


def applied(model: Any) -> tuple[str, ...]:
    """Names of the optimizers that the training steps so far apply: those have variables by now.

    `compile()` without an optimizer makes one that a training step of the user's may never use.
    """
    return tuple(name for name, optimizer in held(model) if optimizer.built)


def held(model: Any) -> list[tuple[str, Any]]:
    """Name and optimizer: plain attributes first, then those in lists and dictionaries."""
    names = ("optimizer", *sorted(vars(model)))
    values = [(name, getattr(model, name, None)) for name in names]
    for name, value in values[:]:
        if isinstance(value, dict) and not name.startswith("_"):
            values += [(f"{name}[{key!r}]", each) for key, each in value.items()]
        elif isinstance(value, (list, tuple)) and not name.startswith("_"):
            values += [(f"{name}[{place}]", each) for place, each in enumerate(value)]
    found: dict[int, tuple[str, Any]] = {}
    for name, value in values:
        if isinstance(value, keras.optimizers.Optimizer):
            found.setdefault(id(value), (name, value))
    return list(found.values())


def inner(optimizer: Any) -> Any:
    """The optimizer that steps: the one inside of a LossScaleOptimizer, else itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _describe(attribute: str, optimizer: Any) -> OptimizerInfo:
    own = inner(optimizer)
    rate = getattr(own, "_learning_rate", None)
    schedule = None
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        schedule = _serialized(rate)
        value = _as_written(rate(0))
    else:
        # Under a strategy it is a variable of several copies, which is no number by itself.
        value = _as_written(tf.convert_to_tensor(own.learning_rate))
    numbers = {
        name: float(number)
        for name in _NUMBERS
        if isinstance(number := getattr(own, name, None), (int, float))
    }
    return OptimizerInfo(
        attribute=attribute,
        class_name=type(own).__name__,
        learning_rate=value,
        schedule=schedule,
        **numbers,
    )


def _as_written(rate: Any) -> float:
    """The rate that the user wrote: 0.001, where float32 holds 0.0010000000474974513."""
    value = np.asarray(rate)
    return float(str(value)) if value.dtype == np.float32 else float(value)


def _serialized(schedule: Any) -> dict[str, Any]:
    """Keras's form of it; of a schedule that cannot be serialized, its name alone."""
    try:
        form = keras.optimizers.schedules.serialize(schedule)
        return {"class_name": form["class_name"], "config": dict(form["config"])}
    except (NotImplementedError, TypeError, KeyError):
        return {"class_name": type(schedule).__name__, "config": {}}
