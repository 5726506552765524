"""What training needs once fragmentation is counted: trace its first steps, replay them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from autobatch import fragmentation
from autobatch.engine.allocations import AllocationTrace
from autobatch.engine.device_memory import DeviceMemory
from autobatch.foresight import Census, Growth, Traced, begun, nearest
from autobatch.residents import residents

# Steps of a trace, the first included: that is where memory is laid out. Fewer where a step has so
# many events that reading them would take seconds, as that of a recurrent layer has.
MOST_STEPS = 5  # also of a process's first trace, when that is not known
# Also of a first trace of sequences of one length, where a loop is likely, and of trials that are
# there to tell how memory grows.
LEAST_STEPS = 2
MOST_READ = 70_000  # allocations


class TrialTrace:
    """Traces the beginnings of trials, one after the other: `start`, so many times `step_ended`,
    and then `needed_bytes` and `foretold`.

    Args:
        memory: The device's allocator.

    Attributes:
        steps: Those traced of the present trial.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._trace = AllocationTrace(memory.name)
        # Allocations of a step, and the length of its sequences, by the last trace.
        self._last: tuple[float, int] | None = None
        self._batch_size = 1
        self._length: int | None = None  # of the present trial's sequences, where one of several
        self._wanted = MOST_STEPS
        self._in_use = 0
        self._variables: tuple[list[int], list[int]] = [], []  # weights, and optimizer slots
        self._data: tuple[int, ...] = ()
        self._now: Traced | None = None
        self._first: Traced | None = None  # of the process's trials without lengths
        self._begun: Traced | None = None  # that one at the present size, if it counts for this one
        self._censuses: dict[int | None, list[Census]] = {}  # of all trials, by their length
        self.steps = 0

    def start(
        self,
        model: Any,
        data_bytes: Sequence[int],
        *,
        batch_size: int,
        length: int | None = None,
        briefly: bool = False,
        steps: int | None = None,
    ) -> None:
        """Begin, before `fit`.

        Args:
            model: What will be trained.
            data_bytes: Sizes of the tensors of data that lie on the device.
            batch_size: Of the trial.
            length: Of the trial's sequences, where it is one of several.
            briefly: As few steps do as tell how memory grows.
            steps: How many are to be traced otherwise; by default as many as can be read soon.
        """
        self._forget()
        self._wanted = LEAST_STEPS if briefly else steps or self._steps_to_trace(length)
        self._batch_size, self._length = batch_size, length
        self._in_use = self._memory.bytes_in_use()
        self._variables = _variables(model)
        self._data = tuple(data_bytes) if sum(data_bytes) <= self._in_use else ()
        self._trace.start()

    def _steps_to_trace(self, length: int | None) -> int:
        if self._last is None:
            return MOST_STEPS if length is None else LEAST_STEPS
        allocations, before = self._last
        longer = max(1.0, (length or 1) / before)  # a loop has so many times as many
        return max(LEAST_STEPS, min(MOST_STEPS, int(MOST_READ / (allocations * longer))))

    @property
    def running(self) -> bool:
        """Steps are still being traced."""
        return self._trace.running

    def step_ended(self) -> None:
        """Count a step; after the last one wanted, the trace ends."""
        if self._trace.running:
            self.steps += 1
            if self.steps >= self._wanted:
                self._trace.end()

    def abandon(self) -> None:
        """End without an answer, where a step may have died: the next trial traces anew."""
        self._forget()
        self._trace.abandon()

    def _forget(self) -> None:
        self.steps, self._now, self._begun = 0, None, None

    def read(self) -> bool:
        """Read what was traced, unless that is done; False where nothing was, or the profiler does
        not serve."""
        if self._now is not None:
            return True
        with _no_garbage_collection():
            found = self._trace.read() if self.steps else None
        if not found:
            return False
        self._last = len(found) / self.steps, self._length or 1
        self._now = Traced(
            batch_size=self._batch_size,
            allocations=found,
            residents=residents(found, *self._variables, self._data, self._in_use),
            grows=self._memory.grows,
            steps=self.steps,
        )
        if self._length is None:
            self._first = self._first or self._now
            self._begun = begun(self._first, self._now)
        self._censuses.setdefault(self._length, []).append(self._now.census)
        return True

    def needed_bytes(self, *, at_least: int, edge: int | None, careful: bool = False) -> int | None:
        """Replay what was traced; None where nothing was, or the profiler does not serve.

        Args:
            at_least: Bytes that are needed anyway.
            edge: Bytes that there will be; None where that is not known.
            careful: Memory must not run out.
        """
        if not self.read() or self._now is None:
            return None
        # A careful trial's pool has the history that it has.
        traced = self._now if careful else self._begun or self._now
        with _no_garbage_collection():
            return fragmentation.needed_bytes(
                traced.allocations,
                residents=traced.residents,
                grows=traced.grows,
                at_least=at_least,
                edge=edge,
                steps=traced.steps,
                careful=careful,
            )

    def foretold(self, limit_bytes: int, enough_bytes: int | None = None) -> int | None:
        """The largest batch size that so many bytes of a limit do for (by default all), by replays
        of what was traced as it would be at other sizes; None where that cannot be told, or no
        trial before was at a size well apart from this one, and at the same length."""
        if not self.read() or self._now is None:
            return None
        with _no_garbage_collection():
            other = nearest(self._censuses[self._length], self._batch_size)
            growth = None if other is None else Growth(self._now, other)
            if self._begun is not None and self._first is not None:
                growth = Growth(self._first, self._now.census)
            elif growth is None or not growth.is_explained:
                return None
            return growth.largest_within(limit_bytes, enough_bytes)

    @property
    def has_loops(self) -> bool:
        """Some of what was read is a loop's."""
        return self._now is not None and self._now.has_loops

    @property
    def has_few_tensors(self) -> bool:
        """What was read has few large allocations a step."""
        return self._now is not None and self._now.has_few_tensors

    @property
    def begins(self) -> bool:
        """What was read is replayed as what a process allocates that begins at this size."""
        return self._begun is not None


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
    weights, slots = _variables(model)
    return sum(weights) + sum(slots)


def _variables(model: Any) -> tuple[list[int], list[int]]:
    """Bytes of each of the model's variables, and of each of its optimizer's, in their order."""
    seen: set[int] = set()

    def sizes(variables: Any) -> list[int]:
        fresh = {id(each): each.value for each in variables if id(each) not in seen}
        seen.update(fresh)
        tensors = fresh.values()
        return [int(t.shape.num_elements() or 0) * t.dtype.size for t in tensors]

    optimizer = getattr(model, "optimizer", None)
    return sizes(model.variables), sizes(optimizer.variables if optimizer is not None else ())
