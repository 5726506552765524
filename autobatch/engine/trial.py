"""Run some training steps at one batch size through the model's own `fit`, and read the memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from autobatch.engine import optimizers
from autobatch.engine.device import is_bfc
from autobatch.engine.device_memory import DeviceMemory
from autobatch.engine.recovery import KeptSteps
from autobatch.engine.replay import TrialTrace
from autobatch.engine.training import Training
from autobatch.errors import ModelError
from autobatch.protocol import RunTrial, TrialDone

SECOND_EPOCH_STEPS = 2  # of a proof: after validation, training goes on in another memory layout
# Steps of a search trial that tell enough where their peaks are clearly less than asked for, or
# more: a peak counts whole chunks, which are larger in a pool with more room than a training has.
CLEARLY_LESS, CLEARLY_MORE = 0.6, 1.25
ENOUGH_STEPS = 4
# What a proof's replays may need of what there is where there are loops: what they need scatters by
# as much from trace to trace.
LOOPS_SPARE = 1.05
# Of a proof of batches of several lengths: each is seen once after shorter ones, and once after
# longer ones.
ROUNDS_TRACED = 2
CLOSE = 0.1  # share of what there is, within which a trial's own need tells more than foresight
_ENDLESS = 1 << 30  # epochs: the recorder ends the training, not their number


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Watches steps and ends the training after `steps` of them.

    Args:
        memory: The device's allocator.
        on_stage: Told what begins: the stage, and which step of how many.
        request: The trial.
        trace: Of the process, where this trial's beginning is to be replayed.
        keeps: As `Training.keeps`.

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
        request: RunTrial,
        trace: TrialTrace,
        *,
        keeps: bool = False,
    ) -> None:
        super().__init__()
        self._memory, self._on_stage, self._request = memory, on_stage, request
        self._keeps = keeps
        self._own_function: Any = None
        # The allocator that replays imitate is not the only one there is.
        served = memory.name.startswith("CPU") or is_bfc()
        self._trace = trace if served and (request.trace or request.foretell) else None
        memory.reset_peak()  # what loading took is past
        self.peaks: list[int] = []
        self.seconds: list[float] = []
        self.other_peak = 0
        self.validation_steps = 0
        self.not_a_number = False
        self._until = self._total = 0
        self._first = 0  # batch of the step that runs: with steps_per_execution it has several
        self._in_epoch = 0
        self._started = 0.0

    def expect(self, steps: int, total: int) -> None:
        """Let the next `fit` run for `steps`, out of `total` in this trial."""
        self._until, self._total = len(self.peaks) + steps, total

    def begin(self, training: Training) -> None:
        """Trace what is to come, from the first batch of data on."""
        if self._trace is not None:
            held = training.batches.held_bytes
            self._trace.start(
                training.model,
                held,
                batch_size=self._request.batch_size,
                length=self._request.sequence_length,
                briefly=not self._request.trace,
                steps=ROUNDS_TRACED * self._request.lengths or self._request.trace_steps or None,
            )

    def on_train_begin(self, logs: Any = None) -> None:
        if self._keeps:
            self._own_function = self.model.train_function
            self.model.train_function = KeptSteps(self.model, self._own_function)

    def on_train_end(self, logs: Any = None) -> None:
        if self._keeps:
            self.model.train_function = self._own_function

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._on_stage("step", len(self.peaks) + 1, self._total)
        self.other_peak = max(self.other_peak, self._memory.peak_bytes())
        self._memory.reset_peak()
        self._first = batch
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.not_a_number |= _any_not_a_number(logs)  # waits for the device
        batches = max(1, batch - self._first + 1)
        self.seconds.append((time.perf_counter() - self._started) / batches)
        self.peaks.append(self._memory.peak_bytes())
        self._memory.reset_peak()
        self._in_epoch += 1
        if self._trace is not None:
            self._trace.step_ended()
        if len(self.peaks) >= self._until or self._tells_enough():
            self.model.stop_training = True

    def needed_bytes(self) -> int | None:
        """What the steps need with fragmentation counted; None without a trace, and in a proof
        where that is no more than the budget.

        Of later steps that were not traced, what their peak exceeds the traced ones' by.
        """
        if self._trace is None or not self._request.trace:
            return None
        # Of a proof, only what exceeds the budget is asked for.
        request = self._request
        least = (request.enough_bytes or 0) if request.proof else 0
        needs = self._trace.needed_bytes(
            at_least=least, edge=request.limit_bytes, careful=request.careful
        )
        if needs is None:
            return None
        if request.proof:
            if self.loops and not request.careful:
                least = int(LOOPS_SPARE * least)
            return needs if needs > least else None
        needs += max(0, max(self.peaks) - max(self.peaks[: self._trace.steps]))
        # Where there are several replicas, one is traced, and the peaks are of all. Where memory
        # must not run out, the pool is training's own: a peak is no artefact of a larger one.
        peaks_count = request.careful or self._memory.replicas > 1
        return max(needs, *self.peaks) if peaks_count else needs

    def foretold(self, needed_bytes: int | None) -> int | None:
        """The largest size that `enough_bytes` do for; None where that cannot be told, or where
        what the trial itself needs is as good as all that there is."""
        limit, enough = self._request.limit_bytes, self._request.enough_bytes
        if self._trace is None or not self._request.foretell or not self._trace.read():
            return None
        if limit is None or enough is None:
            return None
        close = needed_bytes is not None and abs(needed_bytes - enough) < CLOSE * enough
        return None if close and not self.compiled else self._trace.foretold(limit, enough)

    @property
    def compiled(self) -> bool:
        """One compiled program takes most of what the steps need, and counts as in a process that
        begins with it."""
        return self._trace is not None and self._trace.begins

    @property
    def loops(self) -> bool:
        """Some of what was traced, and read, is a loop's."""
        return self._trace is not None and self._trace.has_loops

    @property
    def few_tensors(self) -> bool:
        """What was traced, and read, has few large allocations a step."""
        return self._trace is not None and self._trace.has_few_tensors

    def _tells_enough(self) -> bool:
        """Whether more steps would say nothing that is asked for."""
        limit = self._request.enough_bytes
        if limit is None or self._request.proof or len(self.peaks) < 2:
            return False
        if self._trace is None or not self._request.trace or not self._trace.steps:
            return self.peaks[-1] > limit
        if len(self.peaks) < ENOUGH_STEPS:
            return False
        if self._request.sequence_length is not None and not self._trace.running:
            return True  # the proof of all lengths goes on
        return not CLEARLY_LESS * limit <= max(self.peaks) <= CLEARLY_MORE * limit

    def abandon(self) -> None:
        """Let go of what a step that died has left open."""
        if self._trace is not None:
            self._trace.abandon()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._in_epoch = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self._in_epoch:  # or it would go on for ever
            raise ModelError(
                f"The training data ran dry after {len(self.peaks)} steps: it cannot be read a "
                "second time. Give fit a dataset or a generator that begins anew."
            )

    def on_test_begin(self, logs: Any = None) -> None:
        self._on_stage("validation", 0, 0)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.validation_steps += 1


def _any_not_a_number(logs: Any) -> bool:
    found = False
    for value in (logs or {}).values():
        try:
            found |= bool(np.isnan(np.asarray(value, dtype=np.float64)).any())
        except (TypeError, ValueError):  # whatever a training step of the user's gives
            continue
    return found


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
    # What `fit` takes is split among the replicas.
    size, total = request.batch_size * training.replicas, request.steps
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
        # The device's copy of arrays stays until then; beside the next fit's it would count twice.
        del arguments
        gc.collect()

    recorder.begin(training)
    # The smaller batch and validation belong to one epoch's end, so one `fit` runs both.
    fit(size, request.steps, validate=request.validation and last is None)
    if last is not None:
        fit(last, 1, validate=request.validation)
    if request.proof:
        fit(size, SECOND_EPOCH_STEPS)
    memory = recorder._memory
    needed = recorder.needed_bytes()
    return TrialDone(
        step_peak_bytes=tuple(recorder.peaks),
        step_seconds=tuple(round(s, 4) for s in recorder.seconds),
        other_peak_bytes=max(recorder.other_peak, memory.peak_bytes()),
        needed_bytes=needed,
        foretold=recorder.foretold(needed),
        compiled=recorder.compiled,
        loops=recorder.loops,
        few_tensors=recorder.few_tensors,
        process_bytes=memory.process_bytes(),
        resident_bytes=memory.bytes_in_use() + training.batches.device_bytes,
        validation_steps=recorder.validation_steps,
        last_batch_size=last,
        not_a_number=recorder.not_a_number,
        optimizers=optimizers.applied(training.model),
    )


def _last_batch_size(training: Training, size: int) -> int | None:
    """What is left for the last batch of an epoch; half a batch where that is not known."""
    if training.batches.static or training.fixed_batch_size is not None or size == 1:
        return None
    samples = training.batches.samples
    if samples is None or samples < size:
        return size // 2
    return samples % size or None
