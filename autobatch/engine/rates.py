"""Puts scaled learning rates into live optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from autobatch.engine import optimizers
from autobatch.records import LearningRate


def apply(model: Any, rates: Iterable[LearningRate]) -> None:
    """Give each optimizer of the model its scaled rate; a variable keeps being a variable."""
    named = dict(optimizers.held(model))
    for rate in rates:
        if rate.optimizer in named:
            _apply(optimizers.inner(named[rate.optimizer]), rate)


def _apply(optimizer: Any, rate: LearningRate) -> None:
    own = optimizer._learning_rate
    if isinstance(own, LearningRateSchedule):
        optimizer.learning_rate = _schedule(own, rate)
    elif callable(own) and not isinstance(own, keras.Variable):
        if rate.base_learning_rate:
            factor = rate.learning_rate / rate.base_learning_rate
            optimizer.learning_rate = lambda: factor * own()
    else:
        optimizer.learning_rate = rate.learning_rate


def _schedule(own: Any, rate: LearningRate) -> Any:
    """Keras's own schedules by their scaled configuration; others read at their own pace."""
    if type(own).__module__.split(".")[0] == "keras" and rate.schedule is not None:
        return type(own).from_config(rate.schedule["config"])
    start = float(own(0))
    factor = rate.learning_rate / start if start else rate.factor
    return ScaledSchedule(own, factor, rate.batch_size / rate.base_batch_size)


@keras.saving.register_keras_serializable(package="autobatch")
class ScaledSchedule(LearningRateSchedule):  # type: ignore[misc]
    """A schedule for batches `k` times as large: `factor` times its rate, at `k` times the step.

    Args:
        schedule: The user's own.
        factor: What its rates are multiplied by.
        k: How many of its steps one step is worth.
    """

    def __init__(self, schedule: Any, factor: float, k: float) -> None:
        if isinstance(schedule, dict):
            schedule = keras.optimizers.schedules.deserialize(schedule)
        self.schedule, self.factor, self.k = schedule, factor, k

    def __call__(self, step: Any) -> Any:
        return self.factor * self.schedule(keras.ops.cast(step, "float32") * self.k)

    def get_config(self) -> dict[str, Any]:
        form = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": form, "factor": self.factor, "k": self.k}
