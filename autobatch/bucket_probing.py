"""`probe_buckets`: a proven batch size for each bucket of sequence lengths."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from autobatch import bucket_proof, bucket_search, length_buckets, length_model, protocol, verdict
from autobatch.batch_search import Search
from autobatch.bucket_data import settled_boundaries, settled_lengths, with_its_mean
from autobatch.bucket_options import BucketOptions, checked_probe_options
from autobatch.bucket_records import BucketResult
from autobatch.bucket_report import BucketFindings, bucket_fields
from autobatch.bucket_search import BucketSearch, Stuck
from autobatch.conversation import OutOfTime
from autobatch.crew import Crew
from autobatch.endings import MEMORY
from autobatch.errors import AutobatchError, NothingFitsError
from autobatch.events import Observer, Prepared, TrialStarted, ignore
from autobatch.in_workers import InWorkers
from autobatch.length_buckets import Lengths
from autobatch.options import ProbeOptions
from autobatch.records import Outcome, Proof, ProofKind, Trial
from autobatch.searching import told_what_was_tried, version
from autobatch.units import format_bytes

LENGTHS_TO_TRY = 5  # where even one sample of the longest does not fit
NEAR_ENOUGH = 0.95  # of a length that does not


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


class _AtLength:
    """Trials at one sequence length, run by a crew."""

    def __init__(self, crew: Crew, length: int) -> None:
        self._crew, self._length = crew, length
        self.failed, self.not_a_number, self.versions = crew.failed, False, crew.versions

    def measure(
        self, batch_size: int, *, steps: int, trace: bool, enough_bytes: int | None
    ) -> Trial:
        return self._crew.measure(
            batch_size,
            steps=steps,
            trace=trace,
            enough_bytes=enough_bytes,
            sequence_length=self._length,
        )

    def prove(
        self, batch_size: int, *, enough_bytes: int, beyond: int | None
    ) -> tuple[Trial, protocol.TrialDone | None]:
        raise AssertionError("buckets are proven together")


class _BucketProbe(InWorkers[BucketResult]):
    """The search for a size for each bucket."""

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
        self._trials: list[Trial] = []
        self._proven_by: protocol.TrialDone | None = None

    @property
    def tried(self) -> tuple[Trial, ...]:
        return tuple(self._trials)

    def _forget(self) -> None:
        self._trials.clear()
        self._proven_by = None

    def _search(self, crew: Crew) -> BucketResult:
        prepared = with_its_mean(self._prepare(crew))
        device = self._describe(prepared, crew)
        self._described, self._budget = device, device.budget_bytes
        self._observe(Prepared(prepared.model, device, prepared.samples, prepared.prelude_seconds))
        self._learning_rates(1, prepared)  # refused before the search, not after it
        lengths, self._notes = settled_lengths(prepared, self._wanted.on_too_long)
        boundaries, more = settled_boundaries(prepared, lengths, self._wanted)
        self._notes += more
        assert prepared.max_length is not None
        self._longest = length_buckets.longest_of(boundaries, prepared.max_length)
        inside = (
            length_buckets.count(lengths, boundaries)
            if lengths is not None
            else (None,) * len(self._longest)
        )
        searches, self._limits = [], []
        for each in inside:
            counted = None if each is None or not each.complete else each.samples
            known = msgspec.structs.replace(prepared, samples=counted or None)
            searches.append(Search(self._plan(known)))
            self._limits.append(self._bounds(known))
        search = BucketSearch(self._longest, tuple(searches), self._wanted.tokens_per_batch)
        search, sizes = self._find_all(search, crew)
        self._check_at_the_end(crew)
        return self._answer(search, sizes, boundaries, inside, prepared, crew)

    # -- trials ------------------------------------------------------------------------------

    def _find_all(self, search: BucketSearch, crew: Crew) -> tuple[BucketSearch, tuple[int, ...]]:
        self._state = search
        try:
            search, end = bucket_search.run(
                search,
                lambda state, bucket, size: self._measure(state, bucket, size, crew),
                lambda state, sizes: self._prove_together(state, sizes, crew),
                on_trial=self._on_bucket_trial,
                enough=self._enough,
            )
        except OutOfTime:
            self._hurried = True
            if self._state.proven is None:
                raise self._too_slow() from None
            return self._state, self._state.proven
        if isinstance(end, Stuck):
            raise self._nothing(search, end, crew)
        return search, end.batch_sizes

    def _measure(self, state: BucketSearch, bucket: int, size: int, crew: Crew) -> Trial:
        self.search = state.begun(bucket)
        length = state.lengths[bucket]
        trial = self._try(_AtLength(crew, length), size, length)
        self._trials.append(trial)
        return trial

    def _prove_together(
        self, state: BucketSearch, sizes: tuple[int, ...], crew: Crew
    ) -> tuple[Trial, ...]:
        rounds = max(bucket_proof.ROUNDS, math.ceil(self._options.proof_steps / len(sizes)))
        shapes = bucket_proof.proof_shapes(sizes, state.lengths, rounds)
        self._observe(TrialStarted(max(sizes), proof=True, buckets=len(sizes)))
        ending = crew.prove_shapes(shapes)
        self._check_device()
        self._check_proof(crew)
        if isinstance(ending.answer, protocol.TrialDone):
            self._proof = self._proven_by = ending.answer
            trials = bucket_proof.passed(ending.trial, ending.answer, sizes, state.lengths, shapes)
        else:
            bucket = bucket_proof.died_in(ending, shapes, state)
            why = f"{ending.trial.why} (the proof of all buckets, in step {ending.step})"
            trials = (
                msgspec.structs.replace(
                    ending.trial,
                    batch_size=sizes[bucket],
                    sequence_length=state.lengths[bucket],
                    why=why,
                ),
            )
        self._trials += trials
        return trials

    def _on_bucket_trial(self, state: BucketSearch, bucket: int) -> None:
        self._state, self.search = state, state.searches[bucket]
        self._tell()

    # -- after -------------------------------------------------------------------------------

    def _nothing(self, state: BucketSearch, end: Stuck, crew: Crew) -> AutobatchError:
        """Why there is no answer; where memory is what lacks, with a length that would fit."""
        search, length = state.searches[end.bucket], state.lengths[end.bucket]
        error = verdict.nothing(search, end.last, self._budget, crew.failed)
        if not isinstance(error, NothingFitsError):
            error.message = f"At sequence length {length}: {error.message}"
            return error
        advice = ""
        if end.last.outcome is Outcome.FITS or end.last.outcome in MEMORY:
            fits = self._length_that_fits(state, end.bucket, crew)
            advice = (
                f" Sequences of up to {fits} fit: --max-length {fits} --on-too-long truncate "
                "(or drop) keeps to them."
                if fits
                else " Nor does any shorter sequence that was tried."
            )
        size = search.plan.space.first
        needed = f": it needs {format_bytes(error.needed_bytes)}" if error.needed_bytes else ""
        return NothingFitsError(
            f"Batch size {size} does not fit at sequence length {length}{needed}; there are "
            f"{format_bytes(self._budget)}, less {format_bytes(search.headroom_bytes)} of "
            f"headroom.{advice}",
            needed_bytes=error.needed_bytes,
            budget_bytes=self._budget,
        )

    def _length_that_fits(self, state: BucketSearch, bucket: int, crew: Crew) -> int:
        """A length, near the greatest, at which the smallest batch ran and fitted; 0 for none."""
        search = state.searches[bucket]
        size, low, high = search.plan.space.first, 0, state.lengths[bucket]
        trials = list(state.trials)
        for _ in range(LENGTHS_TO_TRY):
            if high - low <= 1 or low >= NEAR_ENOUGH * high:
                break
            model = length_model.fit(trials)
            guess = (low + high) // 2
            if model is not None:
                seen = model.longest_within(search.target_bytes, size, high - 1)
                guess = seen if low < seen < high else guess
            self.search = Search(search.plan)
            trial = self._try(_AtLength(crew, guess), size, guess)
            self._trials.append(trial)
            trials.append(trial)
            low, high = (guess, high) if search.is_fit(trial) else (low, guess)
        return low

    def _answer(
        self,
        state: BucketSearch,
        sizes: tuple[int, ...],
        boundaries: tuple[int, ...],
        inside: tuple[Lengths | None, ...],
        prepared: protocol.Prepared,
        crew: Crew,
    ) -> BucketResult:
        assert self._proven_by is not None
        findings = BucketFindings(
            state=state,
            sizes=sizes,
            bounds=tuple(self._limits),
            lengths=inside,
            replicas=prepared.replicas,
        )
        rates = self._learning_rates(max(1, round(findings.mean_batch_size)), prepared)
        proof = self._proven_by
        empty = [
            f"{low} to {high}"
            for (low, high), each in zip(findings.ranges, inside, strict=True)
            if each is not None and not each.samples
        ]
        empty_notes = (
            f"No sample has a length of {', '.join(empty)}: that bucket's size is proven, but "
            "counts for nothing in the learning rate. Leave its boundary out, or take --boundaries "
            "auto.",
        )
        return BucketResult(
            boundaries=boundaries,
            max_length=state.lengths[-1],
            on_too_long=self._wanted.on_too_long,
            sequence_axes=prepared.sequence_axes,
            **bucket_fields(findings, rates),
            device=self._described,
            headroom_bytes=max(search.headroom_bytes for search in state.searches),
            proof=Proof(
                kind=ProofKind.FRESH_PROCESS,
                steps=len(proof.step_peak_bytes),
                validation_steps=proof.validation_steps,
                last_batch_size=max(1, max(sizes) // 2),
                peak_bytes=proof.step_peak_bytes,
            ),
            trials=self.tried,
            warnings=(
                *verdict.warnings(
                    prepared,
                    self._budget,
                    [trial for trial in self._trials if not trial.proof],
                    proof_steps=self._options.proof_steps,
                    not_a_number=crew.not_a_number,
                ),
                *self._notes,
                *(empty_notes if empty else ()),
                *self._more_warnings(),
            ),
            seconds=round(time.monotonic() - self._started, 2),
            versions={**crew.versions, "autobatch": version()},
        )
