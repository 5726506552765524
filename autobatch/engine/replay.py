"""What a training step needs once fragmentation is counted: trace one step, replay it."""

from __future__ import annotations

from typing import Any

from autobatch import fragmentation
from autobatch.engine.allocations import AllocationTrace
from autobatch.engine.device import DeviceMemory


class StepTrace:
    """Traces one step of a training, between `start` and `needed_bytes`.

    Args:
        memory: The device's allocator.
        data_bytes: Sizes of the tensors of data that lie on the device.
    """

    def __init__(self, memory: DeviceMemory, data_bytes: tuple[int, ...]) -> None:
        self._memory, self._data_bytes = memory, data_bytes
        self._trace = AllocationTrace(memory.name)
        self._in_use = 0

    def start(self) -> None:
        """Begin, before the step."""
        self._in_use = self._memory.bytes_in_use()
        self._trace.start()

    def needed_bytes(self, model: Any) -> int | None:
        """End, after the step, and replay it; None where the profiler does not serve."""
        traced = self._trace.stop()
        if traced is None:
            return None
        known = (*self._data_bytes, *_variable_bytes(model))
        # What the step found and gave back is in the trace. Of the rest, what is not known by
        # name counts only where no data is: a large tensor's chunk may be twice its size.
        found = sum(each.requested_bytes for each in traced if each.start is None)
        resident = max(0, self._in_use - found)
        return fragmentation.needed_bytes(
            traced,
            resident_bytes=sum(known) if self._data_bytes else resident,
            residents=known if sum(known) <= resident else (),
            grows=self._memory.grows,
        )


def _variable_bytes(model: Any) -> list[int]:
    variables = list(model.variables)
    if getattr(model, "optimizer", None) is not None:
        variables += model.optimizer.variables
    unique = {id(variable): variable.value for variable in variables}
    return [int(tensor.shape.num_elements() or 0) * tensor.dtype.size for tensor in unique.values()]
