"""What a script trains with: one batch size, or one for each bucket that it makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autobatch.bucket_options import NOT_HERE
from autobatch.bucket_probing import probe_buckets
from autobatch.bucket_records import BucketResult
from autobatch.events import Notice, Observer, ignore
from autobatch.options import ProbeOptions
from autobatch.probing import Bucketed, find_one
from autobatch.records import ProbeResult


def find_sizes(
    target: Any,
    *,
    arguments: tuple[str, ...] = (),
    observer: Observer = ignore,
    resizes: bool = False,
    **options: Any,
) -> ProbeResult | BucketResult:
    """Probe a target as its own training goes.

    Args:
        target, arguments, observer, **options: As `autobatch.probe` takes them.
        resizes: The answer is to be put into the script's data. Defaults to no.

    Returns:
        One size for each bucket where `fit` gets data that `bucket_by_sequence_length` has put
        into buckets; else one size.

    Raises:
        UsageError: `resizes`, and no other sizes can be put into the script's buckets.
        AutobatchError: As `autobatch.probe` and `autobatch.probe_buckets`.
    """
    checked = ProbeOptions.checked(**options)
    one_size = checked.target_batch_size is not None  # micro-batches: the longest sequence's
    try:
        return find_one(
            target, arguments, observer, checked, bucketed_too=one_size, resizes=resizes
        )
    except Bucketed as found:
        observer(Notice(str(found)))
    for line in left_out(checked):
        observer(Notice(line))
    kept = {name: value for name, value in options.items() if name not in NOT_HERE}
    return probe_buckets(target, arguments=arguments, observer=observer, **kept)


def left_out(options: ProbeOptions) -> Iterator[str]:
    """What is asked for and has no meaning for buckets, in sentences.

    (`target_batch_size` asks for one size; answers of buckets are in no cache anyway.)
    """
    if options.prefer != ProbeOptions().prefer:
        yield (
            f"prefer (--prefer) {options.prefer} is left out: each bucket gets its largest safe "
            "size."
        )
    if options.sequence_length is not None:
        yield (
            f"sequence_length (--sequence-length) {options.sequence_length} is left out: each "
            "bucket is probed at its longest sequence."
        )
    if options.journal is not None or options.resume:
        yield "Trials of buckets are not kept in a journal, nor taken from one."
