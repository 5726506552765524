"""Run some training steps at one batch size through the model's own `fit`, and read the memory."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import Any

import keras

from autobatch.engine.device import DeviceMemory
from autobatch.engine.training import Training
from autobatch.protocol import RunTrial, TrialDone

SECOND_EPOCH_STEPS = 2  # of a proof: after validation, training goes on in another memory layout
_ENDLESS = 1 << 30  # epochs: the recorder ends the training, not their number


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Watches steps and ends the training after `steps` of them.

    Attributes:
        peaks: Most bytes in use during each step.
        seconds: Wall time of each step.
        other_peak: Most bytes in use outside the steps, where data is moved and validation runs.
        validation_steps: How many ran.
        not_a_number: A loss was no number.
    """

    def __init__(
        self,
        memory: DeviceMemory,
        on_stage: Callable[[str, int, int], None],
        enough_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self._memory, self._on_stage, self._enough_bytes = memory, on_stage, enough_bytes
        self.peaks: list[int] = []
        self.seconds: list[float] = []
        self.other_peak = 0
        self.validation_steps = 0
        self.not_a_number = False
        self._until = self._total = 0
        self._started = 0.0

    def expect(self, steps: int, total: int) -> None:
        """Let the next `fit` run for `steps`, out of `total` in this trial."""
        self._until, self._total = len(self.peaks) + steps, total

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._on_stage("step", len(self.peaks) + 1, self._total)
        self.other_peak = max(self.other_peak, self._memory.peak_bytes())
        self._memory.reset_peak()
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))  # waits for the device
        self.seconds.append(time.perf_counter() - self._started)
        self.peaks.append(self._memory.peak_bytes())
        self._memory.reset_peak()
        self.not_a_number |= math.isnan(loss)
        enough = self._enough_bytes is not None and self.peaks[-1] > self._enough_bytes
        if len(self.peaks) >= self._until or enough:
            self.model.stop_training = True

    def on_test_begin(self, logs: Any = None) -> None:
        self._on_stage("validation", 0, 0)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.validation_steps += 1


def run(training: Training, recorder: Recorder, request: RunTrial, *, static: bool) -> TrialDone:
    """Run one trial.

    Args:
        training: What to train.
        recorder: Of this trial alone.
        request: How.
        static: Give batches the fixed shape that the user's have.

    A proof runs what a training runs: whole batches, the smaller last one, validation, and the
    first batches of another epoch.

    Raises:
        Exception: Whatever the training raises, out of memory included.
    """
    size, total = request.batch_size, request.steps
    last = _last_batch_size(training, size) if request.proof else None
    total += (last is not None) + (SECOND_EPOCH_STEPS if request.proof else 0)

    def fit(batch_size: int, steps: int, *, validate: bool = False) -> None:
        arguments = training.batches.fit_arguments(batch_size, static=static)
        if validate:
            arguments |= training.validation_arguments(size)
        else:
            arguments.setdefault("validation_freq", _ENDLESS)
        recorder.expect(steps, total)
        training.fit(**arguments, epochs=_ENDLESS, verbose=0, callbacks=[recorder])

    # The smaller batch and validation belong to one epoch's end, so one `fit` runs both.
    fit(size, request.steps, validate=request.validation and last is None)
    if last is not None:
        fit(last, 1, validate=request.validation)
    if request.proof:
        fit(size, SECOND_EPOCH_STEPS)
    gc.collect()
    memory = recorder._memory
    return TrialDone(
        step_peak_bytes=tuple(recorder.peaks),
        step_seconds=tuple(round(s, 4) for s in recorder.seconds),
        other_peak_bytes=max(recorder.other_peak, memory.peak_bytes()),
        resident_bytes=memory.bytes_in_use(),
        validation_steps=recorder.validation_steps,
        last_batch_size=last,
        not_a_number=recorder.not_a_number,
    )


def _last_batch_size(training: Training, size: int) -> int | None:
    """What is left for the last batch of an epoch; half a batch where that is not known."""
    if training.batches.static or size == 1:
        return None
    samples = training.batches.samples
    if samples is None or samples < size:
        return size // 2
    return samples % size or None
