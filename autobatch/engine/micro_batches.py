"""Trains on a batch in micro-batches: their gradients are added up, and the optimizer steps once.

Keras's own accumulation has the optimizer count micro-batches, and must be asked for before it is
built. Here the optimizer sees one step with one gradient, and is afterwards what it is after a
step on the whole batch: its variables, what is saved of it, its schedule and its moving averages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from autobatch.engine import accumulation, drawn, optimizers
from autobatch.errors import UsageError


class CannotAccumulate(Exception):  # noqa: N818 - an answer, not an error
    """The model's training step does not give its gradients to its optimizer once."""


def require(model: Any) -> Any:
    """The one optimizer of a model that can be trained in micro-batches.

    Raises:
        UsageError: It has more than one, or none; its loss is a sum; its batches are of one size.
    """
    what = "recover=True"
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise UsageError(f"{what} and a strategy of several replicas do not go together.")
    sizes = {tensor.shape[0] for tensor in keras.tree.flatten(getattr(model, "inputs", None) or [])}
    if sizes - {None}:
        raise UsageError(
            f"{what} cuts batches into smaller ones, and the model's inputs have a fixed batch "
            f"size of {max(sizes - {None})}."
        )
    accumulation.require_means(model, what)
    return accumulation.only_optimizer(model, what)


class MicroBatches:
    """Trains a model in micro-batches.

    Args:
        model: A compiled and built Keras model with one optimizer.

    Raises:
        UsageError: As `require`.
    """

    def __init__(self, model: Any) -> None:
        optimizer = require(model)
        self._model = model
        self._optimizer = optimizers.inner(optimizer)
        # What scales the loss skips a step whose gradients are infinite, and counts the others.
        self._scaling = None if self._optimizer is optimizer else optimizer
        self._own_apply = self._optimizer.apply
        self._function: Any = None

    def run(self, batches: Sequence[Any], size: int, spec: Any) -> Any:
        """A step of the optimizer for each of the batches.

        Args:
            batches: As they were drawn.
            size: Samples in a micro-batch, at most.
            spec: Of a batch, as the iterator that gave it says.

        Returns:
            What the model's `train_function` returns for the last micro-batch: Keras's metrics go
            over all of them.

        Raises:
            CannotAccumulate: Its training step does not apply its gradients, or does so twice.
        """
        self._make()
        logs = None
        for batch in batches:
            logs = self._step(list(drawn.pieces(batch, size)), spec)
        return logs

    def _step(self, pieces: list[tuple[Any, float]], spec: Any) -> Any:
        logs = None
        self._added.assign(0)
        for index, (piece, share) in enumerate(pieces):
            added = int(self._added)
            whole = added == index  # none has been skipped
            last = index == len(pieces) - 1
            counts = [(each, each.numpy()) for each in self._counts()]
            self._share.assign(share)
            self._last.assign(last and whole)
            with self._in_place():
                logs = self._function(drawn.iterator_over([piece], spec))
            applied = int(self._added) - added
            if applied > 1 or (applied < 1 and self._scaling is None):
                raise CannotAccumulate
            if not whole or (applied and not last):
                for variable, value in counts:  # the batch is one step, and counts once
                    variable.assign(value)
        if int(self._added) < len(pieces):
            self._forget()  # as on the whole batch: no step at all
        return logs

    def _counts(self) -> list[Any]:
        """What the loss is scaled by, and what counts towards another scale."""
        scaling = self._scaling
        return [] if scaling is None else [scaling.step_counter.value, scaling.dynamic_scale.value]

    def _make(self) -> None:
        if self._function is not None:
            return self._forget()
        model = self._model
        variables = [each.value for each in model.trainable_variables]
        self._sums = {
            id(each): tf.Variable(tf.zeros_like(each), trainable=False) for each in variables
        }
        if self._scaling is not None and not self._scaling.built:
            self._scaling.build(model.trainable_variables)
        self._share = tf.Variable(1.0, trainable=False)
        self._last = tf.Variable(False, trainable=False)
        self._added = tf.Variable(0, trainable=False)
        stands_in, model.train_function = model.train_function, None
        try:
            model.make_train_function()
            self._function = model.train_function
        finally:
            model.train_function = stands_in

    def _forget(self) -> None:
        for each in self._sums.values():
            each.assign(tf.zeros_like(each))

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """The optimizer as the training step is to find it, for the length of one call."""
        model, optimizer = self._model, self._optimizer
        several, model.steps_per_execution = model.steps_per_execution, 1
        optimizer.apply = self._apply
        try:
            yield
        finally:
            del optimizer.apply
            model.steps_per_execution = several

    def _apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Stands for the optimizer's `apply`."""
        optimizer = self._optimizer
        variables = list(trainable_variables or optimizer._trainable_variables)
        if not optimizer.built:
            optimizer.build(variables)
        try:
            sums = [self._sums[id(getattr(each, "value", each))] for each in variables]
        except KeyError:
            raise CannotAccumulate from None
        totals = [
            None if grad is None else total + tf.cast(self._share, total.dtype) * grad
            for total, grad in zip(sums, map(_dense, grads), strict=True)
        ]
        given = [(s, t) for s, t in zip(sums, totals, strict=True) if t is not None]

        def step() -> None:
            self._own_apply(totals, variables)
            for total, _ in given:
                total.assign(tf.zeros_like(total))

        def add() -> None:
            for total, value in given:
                total.assign(value)

        keras.ops.cond(self._last.read_value(), step, add)
        self._added.assign_add(1)


def _dense(grad: Any) -> Any:
    return tf.convert_to_tensor(grad) if isinstance(grad, tf.IndexedSlices) else grad
