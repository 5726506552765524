"""What a training step needs once fragmentation is counted: trace steps, replay each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autobatch import fragmentation
from autobatch.engine.allocations import AllocationTrace
from autobatch.engine.device_memory import DeviceMemory

# Once so many allocations have been read, no further step is traced: one of tens of thousands, as a
# recurrent layer makes them, takes a second to read, and what such steps need hardly scatters.
MOST_READ = 30_000


class StepTrace:
    """Traces steps of a training, each between `start` and `needed_bytes`.

    Args:
        memory: The device's allocator.
        data_bytes: Sizes of the tensors of data that lie on the device.
        careful: Let no replay die, where else one may.
    """

    def __init__(
        self, memory: DeviceMemory, data_bytes: tuple[int, ...], *, careful: bool = False
    ) -> None:
        self._memory, self._data_bytes = memory, data_bytes
        self._spare = 0 if careful else fragmentation.SPARE
        self._trace = AllocationTrace(memory.name)
        self._in_use = 0
        self._read = 0  # allocations so far, of all steps
        self._unreadable = False

    @property
    def is_spent(self) -> bool:
        """No further step will be traced."""
        return self._unreadable or self._read > MOST_READ

    def start(self) -> None:
        """Begin, before the step, if one more trace is worth its time."""
        if self.is_spent:
            return
        self._in_use = self._memory.bytes_in_use()
        self._trace.start()

    def abandon(self) -> None:
        """End without an answer, where the step may have died: the next trial traces anew."""
        self._trace.stop()

    def needed_bytes(self, model: Any, *, at_least: int) -> int | None:
        """End, after a step of `model`, and replay it; None where it was not traced, or the
        profiler does not serve."""
        if not self._trace.running:
            return None
        with _no_garbage_collection():
            return self._replayed(model, at_least)

    def _replayed(self, model: Any, at_least: int) -> int | None:
        traced = self._trace.stop()
        if traced is None:
            self._unreadable = True
            return None
        self._read += len(traced)
        # What the step found and gave back is in the trace: variables that are replaced and not
        # updated in place, for one. The rest of what was there stays. A large tensor's chunk may
        # be twice its size, so where there is data, sizes as asked for count and not those in use.
        found = sum(each.requested_bytes for each in traced if each.start is None)
        resident = max(0, self._in_use - found)
        data = self._data_bytes if sum(self._data_bytes) <= resident else ()
        if data:
            kept = max(0, variable_bytes(model) - found)
            resident = sum(data) + min(resident - sum(data), kept)
        return fragmentation.needed_bytes(
            traced,
            resident_bytes=resident,
            residents=data,
            grows=self._memory.grows,
            at_least=at_least,
            spare=self._spare,
        )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A trace is read into many small objects, none of them in cycles: beside all that TensorFlow
    and Keras hold, looking for those takes a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def variable_bytes(model: Any) -> int:
    """Bytes of the model's variables and its optimizer's."""
    variables = list(model.variables)
    if getattr(model, "optimizer", None) is not None:
        variables += model.optimizer.variables
    unique = {id(variable): variable.value for variable in variables}
    return sum(int(t.shape.num_elements() or 0) * t.dtype.size for t in unique.values())
