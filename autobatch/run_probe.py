"""The one place where `autobatch run` asks for a size."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from autobatch.as_trained import find_sizes
from autobatch.bucket_records import BucketResult
from autobatch.events import Observer, ignore
from autobatch.options import ProbeOptions
from autobatch.records import ProbeResult


def find(
    script: str,
    arguments: Sequence[str],
    options: ProbeOptions,
    *,
    fit_call: int | None = None,
    observer: Observer = ignore,
) -> ProbeResult | BucketResult:
    """Probe one call of `fit` in a script.

    Args:
        script: Its path.
        arguments: Its own.
        options: Of the probe.
        fit_call: Which call, if not the one that the options say.
        observer: Told what happens.

    Raises:
        AutobatchError: As `autobatch.probe` does.
    """
    given = msgspec.structs.asdict(options) | {"fit_call": fit_call or options.fit_call}
    return find_sizes(script, arguments=tuple(arguments), observer=observer, resizes=True, **given)
