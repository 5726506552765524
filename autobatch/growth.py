"""What of a step's memory may grow with the batch size. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autobatch.fragmentation import Allocation, requested_peak


def growing_bytes(
    traced: Iterable[Allocation], batch_size: int, variable_bytes: Sequence[int]
) -> int:
    """Most bytes live at once that may grow: all, but for what is surely a variable's.

    A tensor with a batch axis takes a multiple of `batch_size` bytes. What takes just as many as a
    variable does, or half of them (a copy in half precision), and no such multiple, is a gradient
    or a copy of a variable, and as large at any batch size. At sizes that divide those of variables
    too, as 1 and the powers of two do, nothing can be told apart, and all counts.

    Args:
        traced: What the steps allocated and released.
        batch_size: Samples a step.
        variable_bytes: Of each of the model's variables.
    """
    fixed = {each for size in variable_bytes for each in (size, size // 2)}
    return requested_peak(
        each
        for each in traced
        if each.requested_bytes not in fixed or each.requested_bytes % batch_size == 0
    )


def tells_growth(batch_size: int) -> bool:
    """Whether the sizes of most variables are no multiples of a batch size.

    Those of layers are products of twos and threes, as a rule: widths, and kernels of 3 by 3.
    """
    for factor in (2, 3):
        while batch_size % factor == 0:
            batch_size //= factor
    return batch_size > 1
