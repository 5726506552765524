"""`probe_buckets`: a proven batch size for each bucket of sequence lengths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autobatch import protocol
from autobatch.bucket_options import BucketOptions, checked_probe_options
from autobatch.bucket_records import BucketResult
from autobatch.bucket_searching import BucketSearching
from autobatch.crew import Crew
from autobatch.events import Observer, ignore
from autobatch.in_workers import InWorkers
from autobatch.options import ProbeOptions
from autobatch.searching import told_what_was_tried


def probe_buckets(
    target: Any,
    boundaries: Iterable[int] | str | None = None,
    *,
    buckets: int | None = None,
    max_length: int | None = None,
    on_too_long: str = "error",
    tokens_per_batch: bool = False,
    sequence_input: str | tuple[str, ...] = (),
    arguments: tuple[str, ...] = (),
    observer: Observer = ignore,
    **options: Any,
) -> BucketResult:
    """Find the largest safe batch size for each bucket of sequence lengths, and prove them.

    Each bucket is probed at its longest sequence. All sizes are proven in one fresh process that
    goes through all buckets, as a training does.

    Args:
        target: As `autobatch.probe` takes it.
        boundaries: The first length of each bucket but the first, such as `[100, 200, 300]`.
            `"auto"` takes those that leave the least padding in the data. Defaults to the script's
            own, where it buckets its data by length, else to `"auto"`.
        buckets: How many there are to be at most; boundaries are then chosen, as by `"auto"`.
            Defaults to 5 where they are.
        max_length: The greatest length there will be. Defaults to the data's longest.
        on_too_long: What becomes of longer samples: `"error"`, `"truncate"` or `"drop"`. Defaults
            to `"error"`.
        tokens_per_batch: Find the largest number of tokens a batch, and take the sizes that follow
            from it for all buckets. Defaults to a size of its own for each.
        sequence_input: `"NAME"` or `"NAME:AXIS"` (the batch is axis 0) of the inputs whose shapes
            do not say which dimension is the sequence. Defaults to the unknown dimension.
        arguments: What follows the script's name in its `sys.argv`.
        observer: Told each event (`autobatch.events`) as it happens. Defaults to nobody.
        **options: The fields of `autobatch.ProbeOptions`, by name, but for `target_batch_size`,
            `sequence_length`, `cache`, `journal` and `resume`.

    Returns:
        The answer, for `autobatch.bucket_by_sequence_length`.

    Raises:
        UsageError: An argument makes no sense, or which dimension is the sequence is not known.
        NothingFitsError: Not even one of the longest sequences fits. The message says which
            length would.
        AutobatchError: As `autobatch.probe`.

    Example:
        result = autobatch.probe_buckets("model.py", [100, 200, 300, 400], max_length=500)
        print(result.boundaries, result.batch_sizes)
    """
    wanted = BucketOptions.checked(
        boundaries=boundaries,
        buckets=buckets,
        max_length=max_length,
        on_too_long=on_too_long,
        tokens_per_batch=tokens_per_batch,
        sequence_input=sequence_input,
    )
    return find_buckets(
        target, tuple(arguments), observer, checked_probe_options(**options), wanted
    )


def find_buckets(
    target: Any,
    arguments: tuple[str, ...],
    observer: Observer,
    options: ProbeOptions,
    wanted: BucketOptions,
) -> BucketResult:
    """`probe_buckets`, with its options checked."""
    run = _BucketProbe(target, arguments, observer, options, wanted)
    with told_what_was_tried(run):
        return run.run()


class _BucketProbe(InWorkers[BucketResult], BucketSearching):
    """The search in workers."""

    def __init__(
        self,
        target: Any,
        arguments: tuple[str, ...],
        observer: Observer,
        options: ProbeOptions,
        wanted: BucketOptions,
    ) -> None:
        super().__init__(target, arguments, observer, options)
        self._wanted = wanted
        self._sequences = protocol.SequenceRequest(
            max_length=wanted.max_length, inputs=wanted.sequence_input
        )

    def _search(self, crew: Crew) -> BucketResult:
        prepared = self._prepare(crew)
        device = self._describe(prepared, crew)
        result = self.search_buckets_with(crew, prepared, device, self._wanted)
        self._check_at_the_end(crew)
        return result
