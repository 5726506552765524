"""Watches a training at a proven size: if memory runs out all the same, says what has changed.

Or has it go on in micro-batches, where that was asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from autobatch import devices
from autobatch.bucket_records import BucketResult
from autobatch.engine.micro_batches import CannotAccumulate, MicroBatches
from autobatch.engine.recovery import Function, RecoveringSteps, out_of_memory, tested_in_pieces
from autobatch.errors import DeviceChangedError, DeviceError
from autobatch.records import ProbeResult
from autobatch.units import format_bytes


class Guard:
    """Watches a model while `fit` runs. Call `remove` at its end.

    Args:
        model: Its `train_function` is there already.
        result: What its batch size rests on.
        on_recovery: Have the training go on in micro-batches, and say so: takes a sentence.
            None to have it end with an error.
        micro_batch_size: Where an earlier training had to cut its batches; None for whole ones.

    Raises:
        UsageError: The gradients of this model cannot be added up.
    """

    def __init__(
        self,
        model: Any,
        result: ProbeResult | BucketResult,
        *,
        on_recovery: Callable[[str], None] | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        self._model, self._result = model, result
        self._before = _state()
        self._say = on_recovery
        self._steps: RecoveringSteps | None = None
        self._test_size: int | None = None
        train = model.train_function
        if on_recovery is not None:
            in_pieces = MicroBatches(model).run
            self._steps = RecoveringSteps(
                model, train, in_pieces, micro_batch_size, self._tell_training
            )
        self._training = _Watched(model, "train_function", self._steps or train, self._ended)
        self._testing: _Watched | None = None

    @property
    def micro_batch_size(self) -> int | None:
        """Samples in a micro-batch, since memory ran out; None while batches are whole."""
        return self._steps.size if self._steps is not None else None

    def begin_test(self) -> None:
        """Watch a validation, too: the model's `test_function` is there by now."""
        model, test = self._model, self._model.test_function
        steps = None
        if self._say is not None:
            in_pieces = tested_in_pieces(test)
            steps = RecoveringSteps(model, test, in_pieces, self._test_size, self._tell_testing)
        self._testing = _Watched(model, "test_function", steps or test, self._ended)

    def end_test(self) -> None:
        """The validation is over."""
        if self._testing is not None:
            self._testing.remove()
            self._testing = None

    def remove(self) -> None:
        """Give the model its own functions back."""
        self.end_test()
        self._training.remove()
        if self.micro_batch_size is not None:
            # What it has traced may count on an optimizer's slots that were made in a step that
            # never was.
            self._model.train_function = None

    # -- what is said ------------------------------------------------------------------------

    def _tell_training(self, size: int, batch: int, why: str) -> None:
        self._recovered(
            f"from here on each batch is trained in micro-batches of {size}, whose gradients make "
            f"one step of the optimizer ({batch} samples, as before)",
            why,
        )

    def _tell_testing(self, size: int, batch: int, why: str) -> None:
        self._test_size = size
        self._recovered(f"validation goes on in pieces of {size} samples", why)

    def _recovered(self, what: str, why: str) -> None:
        assert self._say is not None
        self._say(f"Memory ran out ({why.rstrip('.')}): {what}. {self._changes()}")

    def _ended(self, error: BaseException) -> DeviceChangedError:
        told = DeviceChangedError(self._told(error), details=str(error)[:2000])
        self.remove()
        return told

    def _told(self, error: BaseException) -> str:
        result = self._result
        if isinstance(result, BucketResult):
            what = f"the batch sizes {', '.join(map(str, result.batch_sizes))} of its buckets"
            most = max(result.proof.peak_bytes, default=None)
        else:
            what, most = f"batch size {result.batch_size}", result.peak_bytes
        peak = f", with a peak of {format_bytes(most)}" if most else ""
        tried = ""
        if isinstance(error, CannotAccumulate):
            tried = (
                " It cannot go on in micro-batches: the model's train_step does not give its "
                "gradients to its optimizer exactly once."
            )
        elif self.micro_batch_size is not None:
            tried = f" Micro-batches of {self.micro_batch_size} did not fit, either."
        return (
            f"The training ran out of memory at {what}, which had passed its proof "
            f"({result.proof.kind.replace('_', ' ')}) within "
            f"{format_bytes(result.device.budget_bytes)}{peak}.{tried} {self._changes()} Free what "
            "others hold, or keep more of the device free: AutoBatch(headroom='15%')."
        )

    def _changes(self) -> str:
        changes = [
            f"{what} was {format_bytes(before)} when training began and is {format_bytes(after)} "
            "now"
            for what, before, after in zip(_WHAT, self._before, _state(), strict=True)
            if before is not None and after is not None and before != after
        ]
        said = "; ".join(changes) or "nothing that can be read here"
        return f"What has changed since: {said}."


class _Watched:
    """Stands for a function of the model's, and says what a lack of memory means."""

    def __init__(
        self,
        model: Any,
        name: str,
        run: Function,
        ended: Callable[[BaseException], DeviceChangedError],
    ) -> None:
        self._model, self._name, self._run, self._ended = model, name, run, ended
        self._own = getattr(model, name)
        setattr(model, name, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(self, iterator: Any) -> Any:
        """One call of the function.

        Raises:
            DeviceChangedError: Memory ran out.
        """
        try:
            return self._run(iterator)
        except Exception as error:
            if out_of_memory(error) is None and not isinstance(error, CannotAccumulate):
                raise
            raise self._ended(error) from error

    def remove(self) -> None:
        """Give the model its own function back."""
        if getattr(self._model, self._name) is self:
            setattr(self._model, self._name, self._own)


_WHAT = ("what this process has in use on the device", "the host's free memory")


def _state() -> tuple[int | None, int | None]:
    in_use = host = None
    device = "GPU:0" if tf.config.get_visible_devices("GPU") else "CPU:0"
    with contextlib.suppress(ValueError):  # the CPU's usual allocator keeps no statistics
        in_use = int(tf.config.experimental.get_memory_info(device)["current"])
    with contextlib.suppress(DeviceError, OSError):
        host = devices.memory_for_this_process()
    return in_use, host
