"""A batch larger than memory: gradients of several micro-batches make one step of the optimizer.

Keras's optimizers do that themselves (`gradient_accumulation_steps`), but only if told before
they are built, and with a schedule that runs on with every micro-batch. Here both are mended.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from autobatch.engine import optimizers
from autobatch.errors import UsageError

TRIAL_STEPS = 2  # a trial of few steps both adds gradients up and applies them


def set_steps(model: Any, steps: int) -> None:
    """Have one step of the optimizer be the mean of `steps` micro-batches; 1 for none.

    An optimizer that has stepped before keeps its count of steps.

    Raises:
        UsageError: The model has more than one optimizer, or none, a loss that is a sum, or an
            optimizer that averages the weights.
    """
    what = "A target batch size"
    require_means(model, what)
    optimizer = optimizers.inner(only_optimizer(model, what))
    if steps > 1 and optimizer.use_ema:
        raise UsageError(
            f"{what} and use_ema do not go together: Keras goes on in the moving average of the "
            "weights with every micro-batch. Leave one of them out."
        )
    before = optimizer.gradient_accumulation_steps or 1
    unwrap(model)
    if steps != before:
        done = int(optimizer.iterations)
        optimizer.gradient_accumulation_steps = steps if steps > 1 else None
        if optimizer.built:
            _accumulators(optimizer)
        optimizer._iterations.assign(done * steps)
        model.train_function = None  # its trace knows the old number
    own = optimizer._learning_rate
    if steps > 1 and isinstance(own, LearningRateSchedule):
        optimizer._learning_rate = EffectiveSteps(own, steps)


def only_optimizer(model: Any, what: str) -> Any:
    """The model's one optimizer.

    Args:
        model: A compiled model.
        what: What was asked for.

    Raises:
        UsageError: It has more than one, or none.
    """
    held = optimizers.held(model)
    if len(held) != 1:
        names = ", ".join(name for name, _ in held) or "none"
        raise UsageError(
            f"{what} needs a model with one optimizer; this one has {names}. Leave it out, and add "
            "up the gradients in its train_step."
        )
    return held[0][1]


def require_means(model: Any, what: str) -> None:
    """Refuse losses that are sums over a batch: the mean of micro-batches is another number.

    Args:
        model: A compiled model.
        what: What was asked for.

    Raises:
        UsageError: There is one.
    """
    settings = getattr(getattr(model, "_compile_config", None), "config", None) or {}
    for each in keras.tree.flatten(settings.get("loss")):
        if getattr(each, "reduction", None) == "sum":
            raise UsageError(
                f"{what} needs a loss that is the mean over the samples of a batch; "
                f"{type(each).__name__} is their sum. Compile with its reduction left at "
                "'sum_over_batch_size'."
            )


def unwrap(model: Any) -> None:
    """Give each optimizer the schedule back that `set_steps` has slowed down."""
    for _, optimizer in optimizers.held(model):
        inner = optimizers.inner(optimizer)
        if isinstance(inner._learning_rate, EffectiveSteps):
            inner._learning_rate = inner._learning_rate.schedule


def _accumulators(optimizer: Any) -> None:
    """Where gradients are added up, in an optimizer that was built without, or before."""
    if getattr(optimizer, "_accumulated_gradients", None):
        optimizer._backend_reset_gradient_accumulators()
        return
    optimizer._accumulated_gradients = [
        optimizer.add_variable_from_reference(variable, name="gradient_accumulator")
        for variable in optimizer._trainable_variables
    ]


@keras.saving.register_keras_serializable(package="autobatch")
class EffectiveSteps(LearningRateSchedule):  # type: ignore[misc]
    """A schedule that goes on once in `steps` micro-batches.

    Args:
        schedule: The user's own.
        steps: Micro-batches in a step of the optimizer.
    """

    def __init__(self, schedule: Any, steps: int) -> None:
        if isinstance(schedule, dict):
            schedule = keras.optimizers.schedules.deserialize(schedule)
        self.schedule, self.steps = schedule, steps

    def __call__(self, step: Any) -> Any:
        return self.schedule(keras.ops.floor_divide(step, self.steps))

    def get_config(self) -> dict[str, Any]:
        form = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": form, "steps": self.steps}
