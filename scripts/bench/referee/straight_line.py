"""The rule by which Ultralytics chooses a batch size, as its documentation tells it.

`batch=-1` trains at sizes 1, 2, 4, 8 and 16, takes memory for a straight line over the batch
size, and answers where that line meets 60 % of the device's memory. It does not run the answer.
(docs.ultralytics.com: Train mode, `batch`; reference `utils/autobatch`. No code of theirs is here,
and none was measured.)
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

SIZES = (1, 2, 4, 8, 16)
SHARE = 0.6


def answer(peaks: Mapping[int, float], limit_bytes: float) -> int:
    """The largest size whose foretold peak stays within the share of the limit; at least 1.

    Args:
        peaks: Bytes by batch size, of two sizes or more.
        limit_bytes: What the device has.

    Raises:
        ValueError: The peaks do not grow, so the line meets no limit.
    """
    slope, start = statistics.linear_regression(list(peaks), list(peaks.values()))
    if slope <= 0:
        raise ValueError(f"The peaks do not grow with the batch size: {dict(peaks)}.")
    return max(1, int((SHARE * limit_bytes - start) / slope))
