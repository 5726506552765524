"""What the variables of a training held when a step began, to go back to if it dies half-way.

Nothing is copied. A variable's value is kept by reference, and TensorFlow writes a buffer that
somebody else refers to by copying it first (`ReadVariableOp` hands out the buffer itself, and an
assignment replaces it). So a step costs the memory of what it changes, once more, until it has
ended: what runs out of memory while the gradients are computed has cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from autobatch.engine import snapshot


class StepState:
    """The variables of a model, its optimizer and its metrics, and the random numbers.

    Args:
        model: A compiled and built Keras model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._variables: list[Any] = []
        self._read: Callable[[], list[Any]] = list
        self._size = -1
        self._values: list[Any] = []
        self._unbuilt: list[Any] = []  # optimizers
        self._objects: list[snapshot.Attributes] = []
        self._draw_again: Callable[[], None] = snapshot.nothing

    def hold(self) -> None:
        """Remember how things are now."""
        model = self._model
        held = snapshot.optimizers_of(model)
        size = sum(len(each.variables) for each in held) + len(model.metrics_variables)
        if size != self._size:  # the first step makes slots and metrics
            variables = self._variables = snapshot.variables(model)
            read = tf.function(lambda: [each.read_value() for each in variables])
            self._read = read.get_concrete_function()
            self._size = size
        self._values = list(self._read())
        self._unbuilt = [each for each in held if not each.built]
        self._objects = [snapshot.Attributes(each) for each in self._unbuilt]
        self._draw_again = snapshot.random_numbers()

    def let_go(self) -> None:
        """Forget it: the step has ended."""
        self._values, self._unbuilt, self._objects = [], [], []
        self._draw_again = snapshot.nothing

    def put_back(self) -> None:
        """Have everything be again as it was when it was held."""
        slots = snapshot.new_slots(self._unbuilt, self._variables)
        for each in self._objects:
            each.put_back()
        for each in slots:
            snapshot.release(each)
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)
        snapshot.reset_new_metrics(self._model, self._variables)
        self._draw_again()
