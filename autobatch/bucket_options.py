"""How to probe buckets of sequence lengths: what is asked beside the options of any probe."""

from __future__ import annotations

from typing import Any

import msgspec

from autobatch import length_buckets
from autobatch.errors import UsageError
from autobatch.options import ProbeOptions

ON_TOO_LONG = ("error", "truncate", "drop")
AUTO = "auto"
# How a warning begins where a script's own buckets cannot have sizes of their own.
ONE_SIZE = "All buckets of the script get one batch size here"
# Of a probe's, those that mean nothing here.
NOT_HERE = ("target_batch_size", "prefer", "sequence_length", "cache", "journal", "resume")


class BucketOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe of buckets is told.

    Attributes:
        boundaries: The first length of each bucket but the first; `auto` to take those that leave
            the least padding in the data. Defaults to the script's own, where it buckets its data
            by length, else to `auto`.
        buckets: How many there are to be at most, where they are chosen.
        max_length: The greatest length there will be. Defaults to the data's longest.
        on_too_long: What becomes of longer samples: `error`, `truncate` or `drop`.
        tokens_per_batch: Whether all buckets are to have as many tokens a batch.
        sequence_input: `NAME` or `NAME:AXIS` of inputs (the batch is axis 0), where their shapes
            do not say which dimension is the sequence.
    """

    boundaries: tuple[int, ...] | str | None = None
    buckets: int = length_buckets.BUCKETS
    max_length: int | None = None
    on_too_long: str = ON_TOO_LONG[0]
    tokens_per_batch: bool = False
    sequence_input: tuple[str, ...] = ()

    @classmethod
    def checked(cls, **options: Any) -> BucketOptions:
        """Options from keyword arguments; a number of buckets asks for boundaries to be chosen.

        Raises:
            UsageError: One is of the wrong type or out of its range, or two do not go together.
        """
        boundaries = options.get("boundaries")
        if not isinstance(boundaries, (str, type(None))):
            options["boundaries"] = boundaries = tuple(boundaries)
        if options.get("buckets") is None:
            options.pop("buckets", None)
        elif isinstance(boundaries, tuple):
            raise UsageError(
                "buckets (--buckets) says how many there are to be where boundaries are chosen; "
                "received both it and boundaries. Leave one of them out."
            )
        else:
            options["boundaries"] = boundaries or AUTO
        if isinstance(options.get("sequence_input"), str):
            options["sequence_input"] = (options["sequence_input"],)
        try:
            made = msgspec.convert(options, cls, strict=True)
        except msgspec.ValidationError as error:
            said, _, path = str(error).partition(" - at `$.")
            name = path.rstrip("`").split("[")[0]
            raise UsageError(f"{name}: {said.lower()}; received {options.get(name)!r}.") from error
        made._check()
        return made

    def _check(self) -> None:
        if isinstance(self.boundaries, str) and self.boundaries != AUTO:
            raise UsageError(
                f"boundaries must be lengths such as 100,200,300 or auto; received "
                f"{self.boundaries!r}."
            )
        if self.on_too_long not in ON_TOO_LONG:
            raise UsageError(
                f"on_too_long (--on-too-long) must be {', '.join(ON_TOO_LONG)}; received "
                f"{self.on_too_long!r}."
            )
        if self.max_length is not None and self.max_length < 1:
            raise UsageError(
                f"max_length (--max-length) must be a length from 1 on; received {self.max_length}."
            )
        if self.buckets < 2:
            raise UsageError(
                f"buckets (--buckets) must be at least 2; received {self.buckets}. One batch size "
                "is what autobatch probe finds."
            )
        if isinstance(self.boundaries, tuple):
            last = self.boundaries[-1] if self.boundaries else 1
            length_buckets.check(self.boundaries, self.max_length or last)


def checked_probe_options(**options: Any) -> ProbeOptions:
    """The options of the probe itself.

    Raises:
        UsageError: One makes no sense, or not here.
    """
    for name in NOT_HERE:
        if name in options:
            raise UsageError(f"{name} is for autobatch.probe; buckets have no such option.")
    return ProbeOptions.checked(**options)
