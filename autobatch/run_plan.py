"""What `autobatch run` hands from the process that probed to the one that trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from autobatch.errors import UsageError
from autobatch.options import ProbeOptions
from autobatch.records import ProbeResult

VARIABLE = "AUTOBATCH_RUN"  # in the environment, for the length of one exec


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found for one call of `fit`.

    Attributes:
        batch_size: The answer.
        base_batch_size: What the script trains with.
        optimizers: Attributes of the optimizers that the training applies.
    """

    batch_size: int
    base_batch_size: int
    optimizers: tuple[str, ...]


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


def found(result: ProbeResult) -> Found:
    """The part of a result that the training needs."""
    return Found(
        batch_size=result.batch_size,
        base_batch_size=result.base_batch_size or 32,
        optimizers=tuple(rate.optimizer for rate in result.learning_rates),
    )


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
    batch_size: int,
    own_batch_size: int,
    rates: Sequence[tuple[float, float, str]] = (),
    *,
    scheduled: bool = False,
    would: bool = False,
) -> str:
    """What was changed, in a line.

    Args:
        batch_size, own_batch_size: Now, and in the script.
        rates: Now, in the script, and the rule, of each optimizer whose rate is scaled.
        scheduled: The rates are those that schedules start with.
        would: It is only said, not done.
    """
    if batch_size == own_batch_size:
        keeps = "would keep" if would else "keeps"
        said = f"fit {keeps} its batch size, {batch_size}: it is the largest that is safe"
    else:
        trains = "would train" if would else "trains"
        said = f"fit {trains} with batch size {batch_size} instead of {own_batch_size}"
    for now, before, rule in rates:
        if not math.isclose(now, before, rel_tol=1e-9):
            what = "learning rate schedule from" if scheduled else "learning rate"
            said += f", {what} {now:.6g} instead of {before:.6g} ({rule} rule)"
    return said
