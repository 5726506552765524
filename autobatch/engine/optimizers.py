"""A model's optimizers, as far as the learning rate depends on them."""

from __future__ import annotations

from typing import Any

import keras

from autobatch.records import OptimizerInfo

_NUMBERS = ("momentum", "beta_1", "beta_2", "epsilon")


def describe(model: Any) -> tuple[OptimizerInfo, ...]:
    """The compiled optimizer first, then those that the model holds beside it."""
    found: dict[int, tuple[str, Any]] = {}
    for attribute in ("optimizer", *sorted(vars(model))):
        value = getattr(model, attribute, None)
        if isinstance(value, keras.optimizers.Optimizer) and attribute[0] != "_":
            found.setdefault(id(value), (attribute, value))
    return tuple(_describe(attribute, optimizer) for attribute, optimizer in found.values())


def _describe(attribute: str, optimizer: Any) -> OptimizerInfo:
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    rate = getattr(inner, "_learning_rate", None)
    schedule = None
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        schedule = _serialized(rate)
        value = float(rate(0))
    else:
        value = float(inner.learning_rate)
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
