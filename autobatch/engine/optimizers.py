"""A model's optimizers, as far as the learning rate depends on them."""

from __future__ import annotations

from typing import Any

import keras

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


def _describe(attribute: str, optimizer: Any) -> OptimizerInfo:
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    rate = getattr(inner, "_learning_rate", None)
    schedule = None
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        schedule = _serialized(rate)
        value = float(rate(0))
    else:
        value = float(keras.ops.convert_to_numpy(inner.learning_rate))  # one replica's of several
    numbers = {
        name: float(number)
        for name in _NUMBERS
        if isinstance(number := getattr(inner, name, None), (int, float))
    }
    return OptimizerInfo(
        attribute=attribute,
        class_name=type(inner).__name__,
        learning_rate=value,
        schedule=schedule,
        **numbers,
    )


def _serialized(schedule: Any) -> dict[str, Any]:
    """Keras's form of it; of a schedule that cannot be serialized, its name alone."""
    try:
        form = keras.optimizers.schedules.serialize(schedule)
        return {"class_name": form["class_name"], "config": dict(form["config"])}
    except (NotImplementedError, TypeError, KeyError):
        return {"class_name": type(schedule).__name__, "config": {}}
