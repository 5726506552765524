"""What a search asks of whoever runs its trials."""

from __future__ import annotations

import msgspec
import pytest
from test_throughput import Machine

from autobatch.options import ProbeOptions
from autobatch.protocol import TrialDone
from autobatch.records import Trial
from autobatch.searching import FEW_TENSORS_STEPS, search_here
from autobatch.units import MIB


class Traced(Machine):
    """One whose steps need just what they use, and have few large allocations, or many."""

    def __init__(self, *, few_tensors: bool) -> None:
        super().__init__(lambda _: 1000.0)
        self._few = few_tensors
        self.trace_steps: list[int] = []

    def measure(self, batch_size: int, *, trace_steps: int = 0, **_: object) -> Trial:
        self.trace_steps.append(trace_steps)
        trial, need = super().measure(batch_size), 10 * MIB * batch_size
        return msgspec.structs.replace(trial, needed_bytes=need, few_tensors=self._few)

    def prove(
        self, batch_size: int, *, trace_steps: int = 0, **_: object
    ) -> tuple[Trial, TrialDone | None]:
        self.trace_steps.append(trace_steps)
        return super().prove(batch_size)


@pytest.mark.parametrize(("few_tensors", "then"), [(True, FEW_TENSORS_STEPS), (False, 0)])
def test_where_steps_have_few_large_allocations_more_of_them_are_traced(
    few_tensors: bool, then: int
) -> None:
    machine = Traced(few_tensors=few_tensors)
    search_here(machine, ProbeOptions.checked())  # type: ignore[arg-type]
    first, *later = machine.trace_steps
    assert first == 0  # nothing is known
    assert len(later) >= 2
    assert set(later) == {then}
