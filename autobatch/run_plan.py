"""What `autobatch run` hands from the process that probed to the one that trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from autobatch.bucket_records import BucketResult
from autobatch.errors import UsageError
from autobatch.options import ProbeOptions
from autobatch.records import ProbeResult

VARIABLE = "AUTOBATCH_RUN"  # in the environment, for the length of one exec


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found for one call of `fit`.

    Attributes:
        batch_size: The answer; of buckets, the mean that the rate is scaled to.
        base_batch_size: What the script trains with.
        optimizers: Attributes of the optimizers that the training applies.
        bucket_boundaries, bucket_batch_sizes: Where the script buckets its data by length.
        max_length: The greatest length that these were proven for; 0 where there are none.
    """

    batch_size: int
    base_batch_size: int
    optimizers: tuple[str, ...]
    bucket_boundaries: tuple[int, ...] = ()
    bucket_batch_sizes: tuple[int, ...] = ()
    max_length: int = 0


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to train.

    Attributes:
        script: The path as it was given.
        arguments: The script's own.
        found: For the call of `fit` that was probed before.
        device: The kind of device that it was probed on.
        options: Of the probe, for other models in the script.
        batch_size_only: Leave learning rates alone.
    """

    script: str
    arguments: tuple[str, ...]
    found: Found
    device: str
    options: ProbeOptions
    batch_size_only: bool = False


def found(result: ProbeResult | BucketResult) -> Found:
    """The part of a result that the training needs."""
    optimizers = tuple(rate.optimizer for rate in result.learning_rates)
    base = result.base_batch_size or 32
    if isinstance(result, BucketResult):
        return Found(
            batch_size=max(1, round(result.mean_batch_size)),
            base_batch_size=base,
            optimizers=optimizers,
            bucket_boundaries=result.boundaries,
            bucket_batch_sizes=result.batch_sizes,
            max_length=result.max_length,
        )
    return Found(batch_size=result.batch_size, base_batch_size=base, optimizers=optimizers)


def require_script(target: str) -> None:
    """Refuse what cannot be run as `__main__`.

    Raises:
        UsageError: It is a function in a file, or a saved model.
    """
    if target.endswith(".keras") or (":" in target and not target.endswith((".py", ".pyw"))):
        raise UsageError(
            f"autobatch run takes a training script (train.py) and runs it; received {target!r}. "
            "autobatch probe takes that."
        )


def describe(
    found: Found,
    rates: Sequence[tuple[float, float, str]] = (),
    *,
    scheduled: bool = False,
    would: bool = False,
) -> str:
    """What was changed, in a line.

    Args:
        found: What the training gets.
        rates: Now, in the script, and the rule, of each optimizer whose rate is scaled.
        scheduled: The rates are those that schedules start with.
        would: It is only said, not done.
    """
    batch_size, own_batch_size = found.batch_size, found.base_batch_size
    if found.bucket_batch_sizes:
        trains = "would train" if would else "trains"
        sizes = ", ".join(map(str, found.bucket_batch_sizes))
        said = (
            f"fit {trains} with the batch sizes {sizes} in its buckets, {batch_size} samples a "
            f"step on average instead of {own_batch_size}"
        )
    elif batch_size == own_batch_size:
        keeps = "would keep" if would else "keeps"
        said = f"fit {keeps} its batch size, {batch_size}: it is the largest that is safe"
    else:
        trains = "would train" if would else "trains"
        said = f"fit {trains} with batch size {batch_size} instead of {own_batch_size}"
    for now, before, rule in rates:
        if not math.isclose(now, before, rel_tol=1e-9):
            what = "learning rate schedule from" if scheduled else "learning rate"
            said += f", {what} {now:.6g} instead of {before:.6g} ({rule} rule)"
    if found.bucket_batch_sizes:
        said += f"; a sample longer than {found.max_length} would end it with an error"
    return said
