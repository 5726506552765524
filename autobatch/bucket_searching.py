"""The search for the size of each bucket and its result, wherever the trials run: in workers, or in
this very process."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Protocol

import msgspec

from autobatch import bucket_proof, bucket_search, length_buckets, length_model, protocol, verdict
from autobatch.batch_search import Search
from autobatch.bucket_data import settled_boundaries, settled_lengths, with_its_mean
from autobatch.bucket_options import BucketOptions
from autobatch.bucket_records import BucketResult
from autobatch.bucket_report import BucketFindings, bucket_fields
from autobatch.bucket_search import BucketSearch, Stuck
from autobatch.conversation import OutOfTime
from autobatch.endings import MEMORY, Ending
from autobatch.errors import AutobatchError, NothingFitsError
from autobatch.events import Observer, TrialStarted, ignore
from autobatch.length_buckets import Lengths
from autobatch.options import ProbeOptions
from autobatch.records import Device, Outcome, Proof, ProofKind, Trial
from autobatch.searching import Here, Searching, Trials, told_what_was_tried, version
from autobatch.units import format_bytes

LENGTHS_TO_TRY = 5  # where even one sample of the longest does not fit
NEAR_ENOUGH = 0.95  # of a length that does not
# Kept free by default, of what is not in use, where the training shares the process of the trials:
# batches of many lengths cut memory up, worse where a process has trained before. (A transformer
# with peaks at 92 % of an emulated GPU died in 7 of 16 trainings that were not their process's
# first, and at 86 % in none of 12; with one length at 89 % in none of 9.)
HERE_HEADROOM = 0.12


class BucketTrials(Trials, Protocol):
    """Whoever runs trials at sequence lengths: a crew of workers, or this process."""

    def prove_shapes(
        self, shapes: tuple[tuple[int, int], ...], *, limit_bytes: int | None
    ) -> Ending:
        """Run a proof of batches of several sizes and lengths, one step each, in one process, and
        say whether its first steps, replayed, need more than `limit_bytes`, if it is given."""
        ...


class BucketsHere(BucketTrials, Here, Protocol):
    """This process."""


def search_buckets_here(
    here: BucketsHere, options: ProbeOptions, wanted: BucketOptions, *, observer: Observer = ignore
) -> BucketResult:
    """Find and prove a size for each bucket in this very process, which is to go on living.

    No trial may run out of memory: sizes are tried that are sure to fit, and no others.

    Args:
        here: Runs trials in this process.
        options: How to probe; what is about workers says nothing here.
        wanted: Which buckets.
        observer: Told each event as it happens.

    Raises:
        NothingFitsError, ModelError, WorkerError, UsageError: As `autobatch.probe_buckets`.
    """
    run = BucketSearching(observer, options, kind=ProofKind.THIS_PROCESS)
    with told_what_was_tried(run):
        return run.search_buckets_with(here, here.prepared, here.device, wanted)


class BucketSearching(Searching):
    """A search for a size for each bucket, and its result. See `Searching`."""

    def __init__(self, observer: Observer, options: ProbeOptions, *, kind: ProofKind) -> None:
        super().__init__(observer, options, kind=kind)
        self._trials: list[Trial] = []
        self._proven_by: protocol.TrialDone | None = None

    @property
    def tried(self) -> tuple[Trial, ...]:
        return tuple(self._trials)

    def search_buckets_with(
        self,
        runs: BucketTrials,
        prepared: protocol.Prepared,
        device: Device,
        wanted: BucketOptions,
    ) -> BucketResult:
        """Search, prove, report."""
        self._trials, self._proven_by, self._wanted = [], None, wanted
        prepared = with_its_mean(prepared)
        self._begin(prepared, device)
        lengths, self._notes = settled_lengths(prepared, wanted.on_too_long)
        boundaries, more = settled_boundaries(prepared, lengths, wanted)
        self._notes += more
        assert prepared.max_length is not None
        longest = length_buckets.longest_of(boundaries, prepared.max_length)
        inside = (
            length_buckets.count(lengths, boundaries)
            if lengths is not None
            else (None,) * len(longest)
        )
        searches, self._limits = [], []
        for each in inside:
            counted = None if each is None or not each.complete else each.samples
            known = msgspec.structs.replace(prepared, samples=counted or None)
            searches.append(Search(replace(self._plan(known), mixed=True)))
            self._limits.append(self._bounds(known))
        search = BucketSearch(longest, tuple(searches), wanted.tokens_per_batch)
        search, sizes = self._find_all(search, runs)
        return self._answer(search, sizes, boundaries, inside, prepared, runs)

    def _headroom_bytes(self, prepared: protocol.Prepared) -> int | None:
        asked = super()._headroom_bytes(prepared)
        if asked is None and self._kind is ProofKind.THIS_PROCESS:
            return int(HERE_HEADROOM * max(0, self._budget - prepared.resident_bytes))
        return asked

    # -- trials ------------------------------------------------------------------------------

    def _find_all(
        self, search: BucketSearch, runs: BucketTrials
    ) -> tuple[BucketSearch, tuple[int, ...]]:
        self._state = search
        try:
            search, end = bucket_search.run(
                search,
                lambda state, bucket, size: self._measure(state, bucket, size, runs),
                lambda state, sizes: self._prove_together(state, sizes, runs),
                on_trial=self._on_bucket_trial,
                enough=self._enough,
            )
        except OutOfTime:
            self._hurried = True
            if self._state.proven is None:
                raise self._too_slow() from None
            return self._state, self._state.proven
        if isinstance(end, Stuck):
            raise self._nothing(search, end, runs)
        return search, end.batch_sizes

    def _measure(self, state: BucketSearch, bucket: int, size: int, runs: BucketTrials) -> Trial:
        self.search = state.begun(bucket)
        trial = self._try(runs, size, state.lengths[bucket])
        self._trials.append(trial)
        return trial

    def _prove_together(
        self, state: BucketSearch, sizes: tuple[int, ...], runs: BucketTrials
    ) -> tuple[Trial, ...]:
        rounds = max(bucket_proof.ROUNDS, math.ceil(self._options.proof_steps / len(sizes)))
        shapes = bucket_proof.proof_shapes(sizes, state.lengths, rounds)
        self._observe(TrialStarted(max(sizes), proof=True, buckets=len(sizes)))
        limit = self._budget if state.is_replayable else None
        ending = runs.prove_shapes(shapes, limit_bytes=limit)
        self._check_device()
        self._check_proof(runs)
        if ending.done is not None:
            trials = bucket_proof.passed(ending.trial, ending.done, sizes, state.lengths, shapes)
            if ending.trial.outcome is Outcome.FITS:
                self._proof = self._proven_by = ending.done
            else:
                trials = bucket_proof.too_close(trials, state)
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

    def _nothing(self, state: BucketSearch, end: Stuck, runs: BucketTrials) -> AutobatchError:
        """Why there is no answer; where memory is what lacks, with a length that would fit."""
        search, length = state.searches[end.bucket], state.lengths[end.bucket]
        error = verdict.nothing(search, end.last, self._budget, runs.failed)
        if not isinstance(error, NothingFitsError):
            error.message = f"At sequence length {length}: {error.message}"
            return error
        advice = ""
        if end.last.outcome in MEMORY and search.plan.careful:  # nor may it run out once more
            advice = (
                " Shorter sequences need less: --max-length with --on-too-long truncate (or drop) "
                "keeps to them."
            )
        elif end.last.outcome is Outcome.FITS or end.last.outcome in MEMORY:
            fits = self._length_that_fits(state, end.bucket, runs)
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

    def _length_that_fits(self, state: BucketSearch, bucket: int, runs: BucketTrials) -> int:
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
            trial = self._try(runs, size, guess)
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
        runs: BucketTrials,
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
            f"No sample has a length of {' or '.join(empty)}: what is proven there counts for "
            "nothing in the learning rate. Leave such a boundary out, or take --boundaries auto.",
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
                kind=self._kind,
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
                    not_a_number=runs.not_a_number,
                ),
                *self._notes,
                *(empty_notes if empty else ()),
                *self._more_warnings(),
            ),
            seconds=round(time.monotonic() - self._started, 2),
            versions={**runs.versions, "autobatch": version()},
        )
