"""The size that trains fastest, instead of the largest: chosen by proofs alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autobatch.batch_search import Search
from autobatch.errors import UsageError
from autobatch.evidence import Plan
from autobatch.options import ProbeOptions
from autobatch.protocol import Prepared, RunTrial, TrialDone
from autobatch.records import Device, LimitKind, Outcome, ProbeResult, Trial
from autobatch.searching import search_here
from autobatch.sizes import SizeSpace
from autobatch.throughput import PROOFS, fastest, next_proof
from autobatch.units import MIB

BUDGET = 1000 * MIB


def trial(size: int, rate: float, *, proof: bool = False, peak: int = 1) -> Trial:
    return Trial(
        batch_size=size,
        outcome=Outcome.FITS,
        step_seconds=(9.0, size / rate),
        peak_bytes=peak,
        proof=proof,
    )


def search(*trials: Trial) -> Search:
    return Search(Plan(SizeSpace(), budget_bytes=100), trials)


def test_a_size_that_seems_faster_is_proven() -> None:
    tried = search(trial(8, 50), trial(16, 90), trial(32, 80), trial(64, 40, proof=True))
    assert next_proof(tried, 64, {64}) == 16


@pytest.mark.parametrize(
    ("trials", "proven"),
    [
        ((trial(8, 50), trial(64, 60, proof=True)), {64}),  # the largest is the fastest
        ((trial(8, 61), trial(64, 60, proof=True)), {64}),  # by too little to be worth it
        ((trial(96, 900), trial(64, 60, proof=True)), {64}),  # larger than what is safe
        ((trial(8, 900, peak=99), trial(64, 60, proof=True)), {64}),  # without its headroom
        ((trial(8, 900), trial(64, 60, proof=True)), set()),  # proven by an earlier probe alone
        (
            (
                trial(8, 900),
                trial(64, 60, proof=True),
                *(trial(size, 60, proof=True) for size in range(2, 2 + PROOFS)),
            ),
            {64, *range(2, 2 + PROOFS)},
        ),
    ],
)
def test_no_other_proof_is_run(trials: tuple[Trial, ...], proven: set[int]) -> None:
    assert next_proof(search(*trials), 64, proven) is None


def test_the_proofs_decide_and_not_the_trials() -> None:
    tried = search(
        trial(16, 900), trial(64, 60, proof=True), trial(16, 50, proof=True), trial(8, 70)
    )
    assert fastest(tried, 64, {16, 64}) == 64
    assert fastest(tried.add(trial(8, 70, proof=True)), 64, {8, 16, 64}) == 8


class Machine:
    """Memory for 100 samples; `rate` says how many of them a second at each size."""

    failed = None
    not_a_number = False

    def __init__(self, rate: Callable[[int], float], dies: tuple[int, ...] = ()) -> None:
        self._rate, self._dies = rate, dies
        self.versions: dict[str, str] = {}
        self.proofs: list[int] = []
        self.prepared = Prepared(
            model="m", device_name="GPU", limit_bytes=BUDGET, resident_bytes=0, samples=10_000
        )
        self.device = Device(name="GPU", kind="gpu", limit_bytes=BUDGET, budget_bytes=BUDGET)

    def _done(self, request: RunTrial) -> TrialDone:
        size = request.batch_size
        return TrialDone(
            step_peak_bytes=(10 * MIB * size,) * 3,
            step_seconds=(1.0, *(size / self._rate(size),) * 2),
            other_peak_bytes=0,
            resident_bytes=0,
            validation_steps=size,
        )

    def measure(self, batch_size: int, **_: object) -> Trial:
        request = RunTrial(batch_size=batch_size, steps=3)
        return self._done(request).as_trial(request)

    def prove(self, batch_size: int, **_: object) -> tuple[Trial, TrialDone | None]:
        self.proofs.append(batch_size)
        if batch_size in self._dies:
            died = Trial(batch_size=batch_size, outcome=Outcome.OUT_OF_MEMORY, why="!", proof=True)
            return died, None
        request = RunTrial(batch_size=batch_size, steps=3, proof=True)
        done = self._done(request)
        return done.as_trial(request), done


def found(machine: Machine, prefer: str) -> ProbeResult:
    return search_here(machine, ProbeOptions.checked(prefer=prefer))  # type: ignore[arg-type]


def slow_near_the_limit(size: int) -> float:
    return 1000.0 if size < 60 else 100.0


def test_the_largest_is_returned_unless_speed_is_preferred() -> None:
    machine = Machine(slow_near_the_limit)
    result = found(machine, "size")
    assert result.batch_size >= 80
    assert len(machine.proofs) == 1
    assert any("10.0 times" in said for said in result.warnings)


def test_the_fastest_is_proven_and_returned_with_its_own_proof() -> None:
    machine = Machine(slow_near_the_limit)
    largest = found(Machine(slow_near_the_limit), "size").batch_size
    result = found(machine, "throughput")
    assert result.batch_size < 60
    assert machine.proofs == [largest, result.batch_size]
    assert result.samples_per_second == pytest.approx(1000)
    assert result.proof.validation_steps == result.batch_size
    assert result.limited_by.kind is LimitKind.THROUGHPUT
    assert f"batch size {largest} is safe" in result.limited_by.evidence
    assert not any("times as long" in said for said in result.warnings)


def test_where_the_largest_is_the_fastest_nothing_more_is_proven() -> None:
    machine = Machine(lambda size: 10.0 * size)
    assert found(machine, "throughput").limited_by.kind is LimitKind.MEMORY
    assert len(machine.proofs) == 1


def test_a_smaller_size_whose_proof_fails_puts_the_larger_one_in_doubt() -> None:
    fast = found(Machine(slow_near_the_limit), "throughput").batch_size
    machine = Machine(slow_near_the_limit, dies=(fast,))
    result = found(machine, "throughput")
    assert result.batch_size < fast
    assert result.limited_by.kind is LimitKind.MEMORY
    assert result.batch_size == machine.proofs[-1]


def test_another_preference_is_refused() -> None:
    with pytest.raises(UsageError, match="prefer"):
        ProbeOptions.checked(prefer="speed")
