"""Devices that follow a script, for the search to be tried on: no process, no TensorFlow."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from autobatch.batch_search import Done, GiveUp, Search, run
from autobatch.evidence import LEAST_HEADROOM, Plan
from autobatch.records import Outcome, Trial
from autobatch.sizes import SizeSpace

MIB = 1 << 20
TOO_MANY_TRIALS = 400  # no search of any scenario here may come near it


@dataclass
class Thresholds:
    """A device that measures nothing: each size goes through or ends in one way.

    Args:
        ends: What a trial at a size ends with, unless `proof_ends` says otherwise for proofs.
    """

    ends: Callable[[int], Outcome]
    proof_ends: Callable[[int], Outcome] | None = None
    tried: list[Trial] = field(default_factory=list)

    @classmethod
    def capacity(cls, capacity: int) -> Thresholds:
        """Everything up to the capacity fits, all else is out of memory."""
        return cls(lambda b: Outcome.FITS if b <= capacity else Outcome.OUT_OF_MEMORY)

    def try_size(self, batch_size: int) -> Trial:
        return self._trial(batch_size, self.ends(batch_size), proof=False)

    def prove(self, batch_size: int) -> Trial:
        ends = self.proof_ends or self.ends
        return self._trial(batch_size, ends(batch_size), proof=True)

    def _trial(self, batch_size: int, outcome: Outcome, *, proof: bool) -> Trial:
        assert len(self.tried) < TOO_MANY_TRIALS, [t.batch_size for t in self.tried]
        trial = Trial(batch_size=batch_size, outcome=outcome, proof=proof)
        self.tried.append(trial)
        return trial

    @property
    def sizes(self) -> list[int]:
        """The sizes of the search trials, in order."""
        return [t.batch_size for t in self.tried if not t.proof]

    @property
    def proofs(self) -> list[int]:
        """The sizes of the proofs, in order."""
        return [t.batch_size for t in self.tried if t.proof]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A model's memory curve, the device it meets, and what is asked of the search.

    Attributes:
        kind: `linear`, `kinked`, `stepped`, `quadratic`, `flat` or `bumpy` (not monotonic).
        resident_mib: Needed whatever the size.
        mib_per_sample: On top.
        bend: Where a kinked curve bends, the width of a step, the wave length of bumps.
        factor: How much steeper it is beyond the bend; the height of bumps; a share of curvature.
        budget_mib: What training may use.
        room: What search trials may use, in budgets.
        noise: How far a step's peak may lie above the curve, as a share of its batch's memory.
        zone: Above this share of what the budget holds, `deaths` of the proofs run out of memory.
        measured: Whether the trials say their peaks.
        foretells: From the second trial on, each is replayed and foretells the largest size that
            fits, wrong by a factor whose logarithm lies within so much of none. None for neither.
    """

    kind: str = "linear"
    resident_mib: float = 50.0
    mib_per_sample: float = 1.0
    bend: int = 64
    factor: float = 1.0
    budget_mib: int = 512
    room: float = 1.0
    noise: float = 0.0
    zone: float = 1.0
    deaths: float = 0.0
    precision: float = 0.02
    headroom_mib: int | None = None
    usual_size: int | None = None
    measured: bool = True
    foretells: float | None = None
    space: SizeSpace = field(default_factory=SizeSpace)
    seed: int = 0

    @property
    def budget(self) -> int:
        return self.budget_mib * MIB

    @property
    def limit(self) -> int:
        return int(self.budget * self.room) if self.measured else self.budget

    @property
    def monotonic(self) -> bool:
        """The same peaks every time, and never lower at a larger size."""
        return self.kind != "bumpy" and not self.noise and not self.deaths

    def plan(self) -> Plan:
        return Plan(
            space=self.space,
            budget_bytes=self.budget if self.measured else None,
            limit_bytes=self.limit if self.measured else None,
            precision=self.precision,
            headroom_bytes=None if self.headroom_mib is None else self.headroom_mib * MIB,
            usual_size=self.usual_size,
        )

    def bytes_at(self, size: int) -> int:
        """The curve."""
        s, grown = self.mib_per_sample, 0.0
        if self.kind == "linear":
            grown = s * size
        elif self.kind == "kinked":
            grown = s * min(size, self.bend) + s * self.factor * max(0, size - self.bend)
        elif self.kind == "stepped":
            grown = s * self.bend * math.ceil(size / self.bend)
        elif self.kind == "quadratic":
            grown = s * size * (1 + self.factor * size / self.bend)
        elif self.kind == "bumpy":
            grown = s * size * (1 + 0.1 * self.factor * math.sin(size / self.bend * math.tau))
        return int((self.resident_mib + grown) * MIB)

    def largest_within(self, limit_bytes: float) -> int:
        """The largest allowed size whose curve stays within the limit; 0 for none."""
        low, high = 0, self.space.last + 1  # right for curves that never fall
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes_at(middle) <= limit_bytes else (low, middle)
        return self.space.at_most(low) or 0

    def run(self) -> Ending:
        """Search it."""
        device = _Device(self)
        search, end = run(self.plan(), device.try_size, device.prove)
        return Ending(self, search, end)


@dataclass(frozen=True)
class Ending:
    """How a search of a scenario ended.

    Attributes:
        scenario: Which.
        search: With all its trials.
        end: Its last word.
    """

    scenario: Scenario
    search: Search
    end: Done | GiveUp

    @property
    def answer(self) -> int:
        """The size found; 0 for none."""
        return self.end.batch_size if isinstance(self.end, Done) else 0

    @property
    def trials(self) -> int:
        """How many there were."""
        return len(self.search.trials)

    @property
    def misses(self) -> int:
        """Trials that did not go through: on TensorFlow these cost 10 s each."""
        return sum(t.outcome is not Outcome.FITS for t in self.search.trials)

    @property
    def reached(self) -> int:
        """The largest size that went through within the budget, the headroom apart."""
        return max(
            (
                t.batch_size
                for t in self.search.trials
                if t.outcome is Outcome.FITS
                and (t.proof or t.peak_bytes is None or t.peak_bytes <= self.scenario.budget)
            ),
            default=0,
        )

    @property
    def best(self) -> int:
        """The true answer for monotonic scenarios: what the budget less the headroom holds."""
        held = self.search.target_bytes if self.scenario.measured else self.scenario.budget
        return self.scenario.largest_within(held)

    @property
    def story(self) -> str:
        """The trials in short, for a failing test to show."""
        return " ".join(
            f"{'P' if t.proof else ''}{t.batch_size}"
            f"{'' if t.outcome is Outcome.FITS else ':' + t.outcome}"
            f"{'' if t.peak_bytes is None else f'@{t.peak_bytes / MIB:.1f}'}"
            for t in self.search.trials
        )


class _Device:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._count = 0
        # where the zone begins, if there is one
        held = scenario.largest_within(scenario.budget) if scenario.deaths else 0
        self._zone = scenario.zone * held

    def try_size(self, batch_size: int) -> Trial:
        return self._trial(batch_size, self._scenario.limit, proof=False)

    def prove(self, batch_size: int) -> Trial:
        return self._trial(batch_size, self._scenario.budget, proof=True)

    def _trial(self, size: int, limit: int, *, proof: bool) -> Trial:
        self._count += 1
        assert self._count < TOO_MANY_TRIALS, "the search does not end"
        scenario = self._scenario
        resident = scenario.bytes_at(0)
        need = scenario.bytes_at(size)
        spread = (need - resident) * scenario.noise
        peaks = tuple(int(need + spread * self._random.random()) for _ in range(6))
        dies = proof and scenario.deaths and size > self._zone
        if max(peaks) > limit or (dies and self._random.random() < scenario.deaths):
            return Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY, proof=proof)
        if not scenario.measured:
            return Trial(batch_size=size, outcome=Outcome.FITS, proof=proof)
        replayed = not proof and scenario.foretells is not None and self._count > 1
        return Trial(
            batch_size=size,
            outcome=Outcome.FITS,
            peak_bytes=max(peaks),
            step_peak_bytes=peaks,
            resident_bytes=resident,
            needed_bytes=max(peaks) if replayed else None,
            foretold=self._foretold() if replayed else None,
            proof=proof,
        )

    def _foretold(self) -> int:
        scenario = self._scenario
        wrong = scenario.foretells or 0.0
        held = (1 - LEAST_HEADROOM) * scenario.budget
        factor = math.exp(self._random.uniform(-wrong, wrong))
        return max(1, round(scenario.largest_within(held) * factor))
