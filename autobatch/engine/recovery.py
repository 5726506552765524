"""Training that goes on where its memory was taken: the same batches, in micro-batches."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from autobatch import endings
from autobatch.engine import drawn, failures
from autobatch.engine.micro_batches import CannotAccumulate
from autobatch.engine.step_state import StepState
from autobatch.records import Outcome

Function = Callable[[Any], Any]  # a `train_function` or a `test_function`, of an iterator
InPieces = Callable[[Sequence[Any], int, Any], Any]  # batches, samples in a piece, their spec
Tell = Callable[[int, int, str], None]


class KeptSteps:
    """A model's function of an iterator; what a step begins with is kept until it has ended.

    Args:
        model: A compiled and built Keras model.
        function: Its `train_function` or `test_function`.
    """

    def __init__(self, model: Any, function: Function) -> None:
        self._model, self._function = model, function
        self._state = StepState(model)

    def __call__(self, iterator: Any) -> Any:
        """One call of the function."""
        spec = getattr(iterator, "element_spec", None)
        if spec is None:  # of `train_on_batch` in a callback: there is nothing to draw from
            return self._function(iterator)
        batches = drawn.draw(iterator, self._model.steps_per_execution)
        self._state.hold()
        try:
            return self._step(batches, spec)
        finally:
            self._state.let_go()

    def _step(self, batches: list[Any], spec: Any) -> Any:
        return self._function(drawn.iterator_over(batches, spec))


class RecoveringSteps(KeptSteps):
    """The same, where a step that runs out of memory is done again in pieces.

    Args:
        model: A compiled and built Keras model.
        function: Its `train_function` or `test_function`.
        in_pieces: Does the same with batches cut into pieces.
        size: Samples in a piece, where batches have been cut before; None for whole batches.
        tell: Told the samples in a piece as they become fewer, those in a batch, and what ran out
            of memory.

    Attributes:
        size: Samples in a piece; None while batches are whole.
    """

    def __init__(
        self, model: Any, function: Function, in_pieces: InPieces, size: int | None, tell: Tell
    ) -> None:
        super().__init__(model, function)
        self.size, self._in_pieces, self._tell = size, in_pieces, tell

    def _step(self, batches: list[Any], spec: Any) -> Any:
        whole = max(map(drawn.rows, batches))
        while True:
            try:
                if self.size is None:
                    return super()._step(batches, spec)
                return self._in_pieces(batches, self.size, spec)
            except Exception as error:
                self._state.put_back()
                now = min(self.size or whole, whole)
                why = out_of_memory(error)
                if why is None or now <= 1 or isinstance(error, CannotAccumulate):
                    raise
            # Behind the `except`: an error's frames hold on to what the step had made.
            gc.collect()
            self.size = math.ceil(now / 2)
            self._tell(self.size, whole, why)


def tested_in_pieces(function: Function) -> InPieces:
    """What validates batches in pieces with a `test_function`: Keras's metrics add them up."""

    def run(batches: Sequence[Any], size: int, spec: Any) -> Any:
        logs = None
        for batch in batches:
            for piece, _ in drawn.pieces(batch, size):
                logs = function(drawn.iterator_over([piece], spec))
        return logs

    return run


def out_of_memory(error: BaseException) -> str | None:
    """Why this is a lack of the device's memory; None where it is not."""
    kind = "gpu" if tf.config.get_visible_devices("GPU") else "cpu"
    failed = failures.describe(error, phase="step")
    found = endings.End(phase="step", device=kind, failed=failed).diagnosis
    return found.why if found.outcome is Outcome.OUT_OF_MEMORY else None
