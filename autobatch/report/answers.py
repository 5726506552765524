"""An answer of either kind, one batch size or one for each bucket, for who prints it."""

from __future__ import annotations

from typing import Any

from autobatch.bucket_records import BucketResult
from autobatch.records import ProbeResult
from autobatch.report import buckets, summary
from autobatch.report import values as as_values


def page(
    result: ProbeResult | BucketResult,
    *,
    width: int,
    color: bool,
    unicode: bool = True,
    command: str | None = None,
) -> str:
    """The answer on a page; the arguments: see `summary.summary`."""
    look: dict[str, Any] = {"width": width, "color": color, "unicode": unicode, "command": command}
    if isinstance(result, BucketResult):
        return buckets.summary(result, **look)
    return summary.summary(result, **look)


def found(result: ProbeResult | BucketResult) -> str:
    """The answer in a few words, up to the verb."""
    if isinstance(result, BucketResult):
        return f"The batch sizes {', '.join(map(str, result.batch_sizes))} were"
    return f"Batch size {result.batch_size} was"


def values(result: ProbeResult | BucketResult, form: str) -> str:
    """The answer as values that other tools read; see `values.values`."""
    if isinstance(result, BucketResult):
        return as_values.bucket_values(result, form)
    return as_values.values(result, form)
