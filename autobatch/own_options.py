"""What `autobatch.search` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.errors import UsageError
from autobatch.events import Observer, ignore
from autobatch.evidence import MOST_HEADROOM, Plan
from autobatch.sizes import SizeSpace
from autobatch.units import parse_bytes, parse_share_or_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to search; `autobatch.search` tells what each means."""

    max_batch_size: int
    min_batch_size: int = 1
    start: int | None = None
    multiple_of: int = 1
    power_of_two: bool = False
    precision: float = 0.02
    memory_limit: int | str | None = None
    headroom: str | None = None
    isolated: bool = False
    timeout: float = 300.0
    total_timeout: float = 3600.0
    observer: Observer = ignore

    def plan(self) -> Plan:
        """What is searched for.

        Raises:
            UsageError: An option makes no sense.
        """
        for name in ("max_batch_size", "min_batch_size", "start", "multiple_of"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if (value is not None or name != "start") and not (whole and value >= 1):
                raise UsageError(f"{name} must be a whole number from 1 on; received {value!r}.")
        if not 0 <= self.precision < 1:
            raise UsageError(
                "precision must be a share from 0 (exact) to below 1, such as 0.02; "
                f"received {self.precision!r}."
            )
        for name in ("timeout", "total_timeout"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"{name} must be a positive number of seconds; "
                    f"received {getattr(self, name)!r}."
                )
        space = SizeSpace(
            self.min_batch_size,
            self.max_batch_size,
            self.multiple_of,
            power_of_two=self.power_of_two,
        )
        if self.start is not None and not space.first <= self.start <= space.last:
            raise UsageError(
                f"start must be one of the sizes from {space.first} to {space.last}; "
                f"received {self.start}."
            )
        limit = None
        if self.memory_limit is not None:
            limit = parse_bytes(str(self.memory_limit), "memory_limit")
        # Peaks alone do not tell how far the memory is fragmented.
        headroom = None if limit is None else int(MOST_HEADROOM * limit)
        if self.headroom is not None:
            if limit is None:
                raise UsageError("headroom is a part of memory_limit: give that too.")
            share, count = parse_share_or_bytes(self.headroom, "headroom")
            headroom = int(share * limit) + count
        return Plan(
            space=space,
            budget_bytes=limit,
            limit_bytes=limit,
            precision=self.precision,
            headroom_bytes=headroom,
        )
