"""Inside a training started by `autobatch run`: each call of `fit` gets its batch size and rate.

A model is told from another by its layers, their shapes and what of them is trained, so that a
new model of the same kind (the next fold of a cross-validation) trains with the size that was
found, while the same model with more layers unfrozen is another one. An optimizer's rate is scaled
once, at the first call that trains with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from autobatch import learning_rate
from autobatch.engine import optimizers, rates
from autobatch.engine.resized_data import Unchanged, in_buckets, resized
from autobatch.engine.training import are_arrays, is_open
from autobatch.errors import AutobatchError
from autobatch.run_plan import Found, RunPlan, describe


class FitResizer:
    """Stands in for `fit` in the whole script.

    Args:
        plan: What the probe before found.
        find: Probes another call of `fit`, by its number; raises an AutobatchError if it cannot.
        say: Takes a line for the user.
    """

    def __init__(
        self, plan: RunPlan, find: Callable[[int], Found], say: Callable[[str], None]
    ) -> None:
        self._plan, self._find, self._say = plan, find, say
        self._calls = 0
        self._inside = False
        self._known: dict[Any, Found | None] = {}
        self._models: list[Any] = []  # kept alive: their identity stands in the keys
        self._scaled: list[Any] = []  # optimizers
        self._trained: list[Any] = []  # optimizers that a call of fit here has trained with
        self._told: list[Found] = []
        self._said: set[str] = set()

    def fit(self, original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        """Keras's own `fit`, with the batch size and the rate that were found."""
        if self._inside:  # a subclass's own fit, which calls this one
            return original(model, *args, **kwargs)
        self._calls += 1
        self._inside = True
        try:
            bound = inspect.signature(original).bind(model, *args, **kwargs)
            bound.apply_defaults()
            call = {name: value for name, value in bound.arguments.items() if name != "self"}
            built = model.built
            found = self._found(model, call)
            changed = self._changed(model, call, found) if found else call
            self._trained += [optimizer for _, optimizer in optimizers.held(model)]
            result = original(model, **changed)
            if not built:  # it looks otherwise now, and is the same
                self._remember(model, call, found)
            return result
        finally:
            self._inside = False

    def _changed(self, model: Any, call: dict[str, Any], found: Found) -> dict[str, Any]:
        try:
            if found.bucket_batch_sizes:
                changed = in_buckets(call, found)
            else:
                size, base = found.batch_size, found.base_batch_size
                changed = resized(call, size, base, lengths_vary=is_open(model))
        except Unchanged as reason:
            self._tell(f"fit is left as it is: {reason}")
            return call
        self._scale(model, call, found)
        return changed

    def _found(self, model: Any, call: dict[str, Any]) -> Found | None:
        """What was found for this model, or is found now."""
        if self._calls < self._plan.options.fit_call:
            return None
        for key in _keys(model, call):
            if key in self._known:
                return self._known[key]
        found: Found | None = None
        if self._calls == self._plan.options.fit_call:
            found = self._plan.found
        elif self._plan.device == "gpu":
            self._tell(
                "fit trains another model and is left as it is: this process holds the GPU. "
                f"autobatch probe {self._plan.script} --fit {self._calls} sizes it"
            )
        else:
            self._tell("fit trains another model, which is probed now")
            try:
                found = self._find(self._calls)
            except AutobatchError as error:
                self._tell(f"fit is left as it is: {error.message.rstrip('.')}")
        self._remember(model, call, found)
        return found

    def _remember(self, model: Any, call: dict[str, Any], found: Found | None) -> None:
        self._models.append(model)
        for key in _keys(model, call):
            if key is not None:
                self._known[key] = found

    def _scale(self, model: Any, call: dict[str, Any], found: Found) -> None:
        """Scale the rates of optimizers that have not been yet; says what is changed."""
        options, scaled, scheduled, resumed = self._plan.options, [], False, False
        held = dict(optimizers.held(model))
        for info in optimizers.describe(model) if not self._plan.batch_size_only else ():
            own = held[info.attribute]
            if info.attribute not in found.optimizers or any(own is o for o in self._scaled):
                continue
            if int(own.iterations) and not any(own is o for o in self._trained):
                resumed = True  # loaded with the rate it was saved with, which may be a scaled one
                continue
            rate = learning_rate.scale_learning_rate(
                info,
                base_batch_size=found.base_batch_size,
                batch_size=found.batch_size,
                rule=options.learning_rate_rule,
                base_learning_rate=options.base_learning_rate,
            )
            rates.apply(model, [rate])
            self._scaled.append(own)
            scaled.append((rate.learning_rate, info.learning_rate or 0.0, rate.rule))
            scheduled |= rate.schedule is not None
        line = describe(found, scaled, scheduled=scheduled)
        if resumed:
            line += "; the optimizer was loaded and has trained before: its rate is left as it is"
        if scaled and _sets_rates(call["callbacks"]):
            line += "; the script's LearningRateScheduler sets the rate from here on"
        if scaled or found not in self._told:
            self._tell(line)
        self._told.append(found)

    def _tell(self, line: str) -> None:
        """Say it once, whatever number of calls it is true of."""
        if line not in self._said:
            self._said.add(line)
            first = self._calls == self._plan.options.fit_call
            self._say(line if first else f"call {self._calls} of {line}")


def _sets_rates(callbacks: Any) -> bool:
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return any(isinstance(each, keras.callbacks.LearningRateScheduler) for each in given)


def _keys(model: Any, call: dict[str, Any]) -> tuple[Any, Any]:
    """What stands for this model in its present state, and for its kind; None while not built."""
    layers = model._flatten_layers()
    state = (
        tuple(layer.trainable for layer in layers),
        type(model.optimizer).__name__,
        bool(getattr(model, "jit_compile", False)),
        bool(getattr(model, "run_eagerly", False)),
        _shapes(call["x"]),
    )
    if not model.built:
        return (id(model), state), None
    kind = tuple(
        (type(layer).__qualname__, tuple(tuple(w.shape) for w in layer.weights), _output(layer))
        for layer in model._flatten_layers()
    )
    return (id(model), state), (type(model).__qualname__, kind, state)


def _output(layer: Any) -> str:
    try:
        return str(keras.tree.map_structure(lambda t: (t.shape, t.dtype), layer.output))
    except (AttributeError, ValueError):  # of a layer that is called more than once, or never
        return ""


def _shapes(x: Any) -> str:
    """Shapes of a sample, where the data says them."""
    if isinstance(x, tf.data.Dataset):
        leaves = tf.nest.flatten(x.element_spec)
    else:
        leaves = keras.tree.flatten(x) if are_arrays(x) else []
    shapes = [(getattr(leaf, "shape", None), getattr(leaf, "dtype", None)) for leaf in leaves]
    return str([(tuple(s[1:]) if s is not None and len(s) else s, str(d)) for s, d in shapes])
