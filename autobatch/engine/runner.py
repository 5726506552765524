"""Trial after trial of one training; what goes wrong in one is an answer, too."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from autobatch.engine import failures, trial
from autobatch.engine.device_memory import DeviceMemory
from autobatch.engine.rebuilt import PARTS_DIFFER
from autobatch.engine.replay import TrialTrace
from autobatch.engine.training import Training
from autobatch.protocol import Failed, RunTrial, TrialDone

_USERS_OWN = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    tf.errors.InvalidArgumentError,
)


class Runner:
    """Runs the trials of one training in this process.

    Args:
        training: What to train.
        memory: The device's allocator.
        on_stage: Told what begins: the stage, and which step of how many.
    """

    def __init__(
        self,
        training: Training,
        memory: DeviceMemory,
        on_stage: Callable[[str, int, int], None],
    ) -> None:
        self._training, self._memory, self._tell = training, memory, on_stage
        self._phase = "building"
        self._static = False
        self._traced = False
        self._trace = TrialTrace(memory)

    def run(self, request: RunTrial) -> TrialDone | Failed:
        """Run one trial."""
        training, memory = self._training, self._memory
        if request.sequence_length is not None or request.shapes:
            one = (request.batch_size, request.sequence_length or 1)
            training = training.of_shapes(request.shapes or (one,))
        recorder = trial.Recorder(
            memory,
            self._on_stage,
            request,
            self._trace,
            keeps=training.keeps,
        )
        try:
            return trial.run(training, recorder, request, static=self._static or request.proof)
        except KeyboardInterrupt:
            recorder.abandon()
            raise
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            recorder.abandon()
            training.forget_traces()
            if self._needs_static_shapes(error):
                # Its batches have a fixed size in their shape, and the model counts on one.
                self._static = True
                return self.run(request)
            if PARTS_DIFFER in str(error) and training.rebuild():
                return self.run(request)
            if self._cannot_validate(error):
                self._training.borrows = False
                return self.run(request)
            failed = failures.describe(error, phase=self._phase)
            return _with_steps(failed, recorder, memory)

    def _on_stage(self, stage: str, step: int, steps: int) -> None:
        if stage == "step" and not self._traced:
            self._traced, stage = True, "tracing"
        self._phase = stage
        self._tell(stage, step, steps)

    def _needs_static_shapes(self, error: BaseException) -> bool:
        return self._training.batches.static and not self._static and isinstance(error, _USERS_OWN)

    def _cannot_validate(self, error: BaseException) -> bool:
        """Whether it was our idea alone to validate this model."""
        ours = self._training.borrows and not self._training.validation
        return ours and self._phase == "validation" and isinstance(error, _USERS_OWN)


def _with_steps(failed: Failed, recorder: trial.Recorder, memory: DeviceMemory) -> Failed:
    import msgspec

    return msgspec.structs.replace(
        failed,
        step_peak_bytes=tuple(recorder.peaks),
        step_seconds=tuple(round(s, 4) for s in recorder.seconds),
        free_bytes=max(0, memory.limit_bytes - memory.bytes_in_use()),
    )
