"""The batch sizes that may be tried: bounds, multiples and powers of two. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from autobatch.errors import UsageError

LARGEST = 1 << 40  # where nothing else bounds the sizes, this does


@dataclass(frozen=True, slots=True)
class SizeSpace:
    """Batch sizes that are allowed, in order.

    Attributes:
        minimum, maximum: The bounds, both allowed themselves if the rest allows them.
        multiple_of: Sizes are multiples of this.
        power_of_two: Sizes are powers of two.
        divisor_of: Sizes divide this.

    Raises:
        UsageError: The bounds make no sense, or no size is left.
    """

    minimum: int = 1
    maximum: int = LARGEST
    multiple_of: int = 1
    power_of_two: bool = False
    divisor_of: int | None = None
    _listed: tuple[int, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("minimum", "maximum", "multiple_of"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{name.replace('_of', ' of')} must be at least 1; "
                    f"received {getattr(self, name)}."
                )
        if self.minimum > self.maximum:
            raise UsageError(
                f"The smallest batch size, {self.minimum}, is above the largest, {self.maximum}."
            )
        if self.power_of_two and self.multiple_of & (self.multiple_of - 1):
            raise UsageError(
                f"No power of two is a multiple of {self.multiple_of}: "
                "leave out one of --power-of-two and --multiple-of."
            )
        if self.divisor_of is not None:
            object.__setattr__(self, "_listed", self._divisors(self.divisor_of))
        if self._rank_up(self.minimum) > self._rank_down(self.maximum):
            what = "power of two" if self.power_of_two else f"multiple of {self.multiple_of}"
            if self.divisor_of is not None:
                what = "size" if what == "multiple of 1" else what
                what += f" that divides {self.divisor_of}"
            raise UsageError(
                f"There is no {what} from {self.minimum} to {self.maximum} to try as a batch size."
            )

    @property
    def first(self) -> int:
        """The smallest size allowed."""
        return self._size(self._rank_up(self.minimum))

    @property
    def last(self) -> int:
        """The largest size allowed."""
        return self._size(self._rank_down(self.maximum))

    def at_most(self, size: float) -> int | None:
        """The largest allowed size that is not above this one; None where there is none."""
        if size < self.first:
            return None
        return self._size(self._rank_down(int(min(size, self.maximum))))

    def above(self, size: int) -> int | None:
        """The smallest allowed size that is larger than this one; None where there is none."""
        return None if size >= self.last else self._size(self._rank_up(max(size + 1, self.minimum)))

    def between(self, low: int, high: int) -> int:
        """How many allowed sizes lie strictly between these two."""
        above = max(self._rank_down(low) + 1, self._rank_up(self.minimum))
        below = min(self._rank_up(high) - 1, self._rank_down(self.maximum))
        return max(0, below - above + 1)

    def middle(self, low: int, high: int) -> int:
        """The allowed size in the middle of those strictly between these two."""
        above = max(self._rank_down(low) + 1, self._rank_up(self.minimum))
        below = min(self._rank_up(high) - 1, self._rank_down(self.maximum))
        return self._size((above + below + 1) // 2)

    def _divisors(self, number: int) -> tuple[int, ...]:
        """Those that are multiples, or powers of two, as asked for; in order."""
        if not 1 <= number <= LARGEST:
            raise UsageError(f"divisor of must be from 1 to {LARGEST}; received {number}.")
        small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
        every = {*small, *(number // n for n in small)}
        return tuple(
            n
            for n in sorted(every)
            if n % self.multiple_of == 0 and not (self.power_of_two and n & (n - 1))
        )

    def _size(self, rank: int) -> int:
        if self.divisor_of is not None:
            return self._listed[rank]
        return 1 << rank if self.power_of_two else rank * self.multiple_of

    def _rank_down(self, size: int) -> int:
        if self.divisor_of is not None:
            return bisect_right(self._listed, size) - 1
        if not self.power_of_two:
            return size // self.multiple_of
        rank = size.bit_length() - 1
        return rank if size >= self.multiple_of else self._shift - 1

    def _rank_up(self, size: int) -> int:
        if self.divisor_of is not None:
            return bisect_left(self._listed, size)
        if not self.power_of_two:
            return -(-size // self.multiple_of)
        return max((max(size, 1) - 1).bit_length(), self._shift)

    @property
    def _shift(self) -> int:
        return self.multiple_of.bit_length() - 1
