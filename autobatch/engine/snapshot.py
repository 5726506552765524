"""What a training leaves behind, put aside before trials in this process and put back after.

Numbers: variables of the model, of its optimizers and of its metrics, bit for bit, on the host.
What Python objects remember: an optimizer that had no slots has none again, and the device has
their memory back; the model has its own `train_function` back. The sources of random numbers.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine import optimizers

_OF_FIT = (
    "train_function",
    "test_function",
    "predict_function",
    "stop_training",
    "stop_evaluating",
    "history",
    "_initial_epoch",
    "_eval_epoch_iterator",
)
_GLOBAL_SEEDS = "global_seed_generator"  # Keras's name of it


@contextlib.contextmanager
def as_before(model: Any) -> Iterator[None]:
    """Whatever is trained inside, `model` comes out as it went in, and so do random numbers."""
    with random_numbers_as_before():
        kept = [(each, each.numpy().copy()) for each in variables(model)]
        known = [variable for variable, _ in kept]
        held = optimizers_of(model)
        objects = [Attributes(each) for each in held]
        missing = object()
        attributes = {name: vars(model).get(name, missing) for name in _OF_FIT}
        model.train_function = model.test_function = model.predict_function = None
        try:
            yield
        finally:
            slots = new_slots(held, known)
            for each in objects:
                each.put_back()
            for name, value in attributes.items():
                if value is not missing:
                    setattr(model, name, value)
                elif name in vars(model):
                    delattr(model, name)
            for each in slots:
                release(each)
            gc.collect()  # what the trials have traced holds memory of the device
            assign(kept)
            reset_new_metrics(model, known)


def assign(values: Sequence[tuple[Any, Any]]) -> None:
    """Give variables these values, in memory that lies as in a process that has made them now.

    `Variable.assign` takes a new buffer while the old one is held. One after the other they would
    move into the middle of what is free, where no trial has met them; so all are released first
    (but for copies on several devices).

    Raises:
        BaseException: The first that came in between, Ctrl-C included, once all have their values
            that can have them.
    """
    empty = [(v, np.zeros(0, value.dtype)) for v, value in values if not _is_distributed(v)]
    raised: list[BaseException] = []
    for variable, value in [*empty, *values]:
        try:
            _hold(variable, value)
        except BaseException as error:  # noqa: BLE001 - or those after it would be left empty
            raised.append(error)
    if raised:
        raise raised[0]


def new_slots(optimizers: Iterable[Any], known: Iterable[Any]) -> list[Any]:
    """The variables of these optimizers that are not among the known ones.

    Once an optimizer has lost them, what the trials traced still holds them: TensorFlow keeps a
    graph with a custom gradient for ever.
    """
    return _new((variable for each in optimizers for variable in each.variables), known)


def release(variable: Any) -> None:
    """Let go of a variable's memory, and with it of its value."""
    for each in variable.values if _is_distributed(variable) else (variable,):
        _hold(each, np.zeros(0, each.dtype.as_numpy_dtype))


def _is_distributed(variable: Any) -> bool:
    return isinstance(variable, tf.distribute.DistributedValues)


def _hold(variable: Any, value: Any) -> None:
    """Assign a value, of whatever shape where there is but one copy."""
    if _is_distributed(variable):
        variable.assign(value)
    else:
        tensor = tf.constant(value, variable.dtype)
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tensor)


@contextlib.contextmanager
def random_numbers_as_before() -> Iterator[None]:
    """Python's, numpy's, TensorFlow's and Keras's random numbers go on where they were."""
    put_back = random_numbers()
    try:
        yield
    finally:
        put_back()


def random_numbers() -> Callable[[], None]:
    """What has all of them go on where they are now, whatever is drawn meanwhile."""
    python, of_numpy = random.getstate(), np.random.get_state()
    others = [_eager_context(), _global_generator(), _keras_seeds()]

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(of_numpy)
        for each in others:
            each()

    return put_back


class Attributes:
    """The attributes of an object, and what lists and dictionaries among them held.

    TensorFlow wraps those, and its wrappers keep what was ever in them alive, for checkpoints: so
    their attributes are put back, too.
    """

    def __init__(self, held: Any, *, wrappers: bool = True) -> None:
        self._held = held
        self._values = dict(vars(held))
        containers = [v for v in self._values.values() if isinstance(v, (list, dict, set))]
        # Keras's tracker of variables remembers ids, which new variables may get again.
        tracker = self._values.get("_tracker")
        containers += getattr(tracker, "stored_ids", {}).values()
        # Lists that it keeps up with go last: those of slots, put back, move theirs to the end.
        containers += [store for _, store in getattr(tracker, "config", {}).values()]
        self._contents = [(each, copy.copy(each)) for each in containers]
        wrapping = [each for each in containers if wrappers and hasattr(each, "__dict__")]
        self._wrappers = [Attributes(each, wrappers=False) for each in wrapping]

    def put_back(self) -> None:
        vars(self._held).clear()
        vars(self._held).update(self._values)
        for container, content in self._contents:
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)
        for each in self._wrappers:
            each.put_back()


def optimizers_of(model: Any) -> list[Any]:
    """The optimizers of a model, those inside of others too."""
    found = []
    for _, optimizer in optimizers.held(model):
        found += [optimizer, *filter(None, [getattr(optimizer, "inner_optimizer", None)])]
    return found


def variables(model: Any) -> list[Any]:
    """All variables that a training step may assign to, each once."""
    found = [*model.variables, *model.metrics_variables]
    for layer in model._flatten_layers():
        found += [each for each in vars(layer).values() if isinstance(each, tf.Variable)]
    for optimizer in optimizers_of(model):
        found += optimizer.variables
    return list({id(bare): bare for bare in map(_bare, found)}.values())


def _bare(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _new(found: Iterable[Any], known: Iterable[Any]) -> list[Any]:
    """Those of the variables, bare, that are not among the known ones."""
    before = {id(variable) for variable in known}
    return [bare for bare in map(_bare, found) if id(bare) not in before]


def reset_new_metrics(model: Any, known: Iterable[Any]) -> None:
    """Empty the metrics where there are some that the known variables do not tell of."""
    if _new(model.metrics_variables, known):
        model.reset_metrics()  # made by the first batch that they saw


def nothing() -> None:
    """Put nothing back."""


def _eager_context() -> Any:
    """The generator that TensorFlow draws the seeds of its eager operations from."""
    try:
        from tensorflow.python.eager import context

        current = context.context()
        generator = current._rng
    except (ImportError, AttributeError):  # a private name: where it has moved, there is no way
        return nothing
    if generator is None:
        return nothing
    state = generator.getstate()

    def put_back() -> None:
        if generator.getstate() != state:
            generator.setstate(state)
            # Operations are kept by their seeds, which come again, and have drawn meanwhile.
            current.clear_kernel_cache()

    return put_back


def _global_generator() -> Any:
    try:
        from tensorflow.python.ops import stateful_random_ops as ops

        generator = ops.global_generator
    except (ImportError, AttributeError):
        return nothing
    if generator is None:
        return lambda: setattr(ops, "global_generator", None)
    state = generator.state.numpy().copy()
    return lambda: generator.state.assign(state)


def _keras_seeds() -> Any:
    try:
        from keras.src.backend.common import global_state
    except ImportError:
        return nothing
    seeds = global_state.get_global_attribute(_GLOBAL_SEEDS)
    if seeds is None:
        return lambda: global_state.set_global_attribute(_GLOBAL_SEEDS, None)
    state = seeds.state.numpy().copy()
    return lambda: seeds.state.assign(state)
