"""What the sizes of buckets amount to over a pass of the data: mean size, rate factors, padding.
Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autobatch import length_buckets, verdict
from autobatch.bucket_records import Bucket, Padding
from autobatch.bucket_search import BucketSearch
from autobatch.learning_rate import scale_factor
from autobatch.length_buckets import Lengths
from autobatch.records import LearningRate, LimitedBy, LimitKind, Outcome, Trial
from autobatch.searching import rate_fields


@dataclass(frozen=True, slots=True)
class BucketFindings:
    """What was found, and what the data is like.

    Attributes:
        state: The search at its end.
        sizes: The answer.
        bounds: What each bucket's search could not go beyond.
        lengths: Of the samples in each bucket; None where they are not known.
        replicas: Copies of the model that train at once.
    """

    state: BucketSearch
    sizes: tuple[int, ...]
    bounds: tuple[verdict.Bounds, ...]
    lengths: tuple[Lengths | None, ...]
    replicas: int = 1

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The shortest and the longest length of each bucket."""
        longest = self.state.lengths
        return list(zip((0, *(each + 1 for each in longest[:-1])), longest, strict=True))

    @property
    def whole_sizes(self) -> list[int]:
        """Samples in a step of all replicas."""
        return [size * self.replicas for size in self.sizes]

    @property
    def tokens(self) -> list[int]:
        """Tokens in a batch of each bucket's longest sequences, of one replica."""
        return [a * b for a, b in zip(self.sizes, self.state.lengths, strict=True)]

    @property
    def had_too_few(self) -> bool:
        """Whether only the data set keeps the size of the longest sequences from being larger."""
        limit = verdict.limited_by(self.state.searches[-1], self.sizes[-1], self.bounds[-1])
        return limit.kind is LimitKind.DATASET

    @property
    def static_size(self) -> int:
        """Samples in a step of all replicas with one size for all lengths: the longest sequences';
        where the data had too few of these to prove more, what the memory model expects."""
        size, model, search = self.sizes[-1], self.state.model, self.state.searches[-1]
        if self.had_too_few and model is not None:
            expected = model.largest_within(search.target_bytes, self.state.lengths[-1])
            samples = sum(each.samples for each in self.lengths if each is not None)
            size = max(size, min(int(expected), samples // self.replicas))
        return size * self.replicas

    @property
    def steps(self) -> list[float]:
        """How often each bucket's batch occurs in a pass over the data; alike where unknown."""
        known = [each.samples for each in self.lengths if each is not None]
        if not sum(known):
            return [1.0] * len(self.sizes)
        return [samples / size for samples, size in zip(known, self.whole_sizes, strict=True)]

    @property
    def mean_batch_size(self) -> float:
        """Samples in a step, each bucket weighted by how often it occurs."""
        steps = self.steps
        total = sum(size * count for size, count in zip(self.whole_sizes, steps, strict=True))
        return total / sum(steps)


def bucket_fields(findings: BucketFindings, rates: tuple[LearningRate, ...]) -> dict[str, Any]:
    """What a `BucketResult` says of its buckets, its rates and its padding."""
    known = [each for each in findings.lengths if each is not None and each.complete]
    steps = [
        math.ceil(each.samples / size)
        for each, size in zip(known, findings.whole_sizes, strict=False)
    ]
    return {
        "buckets": _buckets(findings, rates),
        "tokens_per_batch": max(findings.tokens) if findings.state.by_tokens else None,
        "mean_batch_size": round(findings.mean_batch_size, 2),
        "steps_per_epoch": sum(steps) if len(known) == len(findings.sizes) else None,
        **rate_fields(rates),
        "padding": _padding(findings),
    }


def _buckets(findings: BucketFindings, rates: tuple[LearningRate, ...]) -> tuple[Bucket, ...]:
    made = []
    for place, (shortest, longest) in enumerate(findings.ranges):
        search, size = findings.state.searches[place], findings.sizes[place]
        passed = [t for t in search.trials if t.batch_size == size and t.outcome is Outcome.FITS]
        measured = [t for t in passed if not t.proof] or passed
        inside = findings.lengths[place]
        made.append(
            Bucket(
                shortest=shortest,
                longest=longest,
                batch_size=size,
                samples=None if inside is None else inside.samples,
                learning_rate_factor=_factor(findings, size, rates),
                limited_by=_limited_by(findings, place),
                peak_bytes=max((t.peak_bytes for t in measured if t.peak_bytes), default=None),
                needed_bytes=max(
                    (t.needed_bytes for t in measured if t.needed_bytes), default=None
                ),
                step_seconds=_step_seconds(passed),
            )
        )
    return tuple(made)


def _limited_by(findings: BucketFindings, place: int) -> LimitedBy:
    search, size = findings.state.searches[place], findings.sizes[place]
    if findings.state.by_tokens and size != search.plan.space.last:
        most = max(findings.tokens)
        if findings.tokens[place] < most:
            shortest, longest = findings.ranges[findings.tokens.index(most)]
            return LimitedBy(
                LimitKind.TOKENS,
                f"batches have {most} tokens at most, by the bucket of {shortest} to {longest}",
            )
    return verdict.limited_by(search, size, findings.bounds[place])


def _factor(findings: BucketFindings, size: int, rates: tuple[LearningRate, ...]) -> float | None:
    if not rates:
        return None
    mean = max(1, round(findings.mean_batch_size))
    return round(scale_factor(rates[0].rule, mean, size * findings.replicas), 6)


def _step_seconds(trials: Sequence[Trial]) -> float | None:
    """The median of the proof's steps; the first of all may have traced."""
    timed = [t.step_seconds for t in trials if t.proof and t.step_seconds]
    if not timed:
        return None
    seconds = sorted(timed[-1][1:] or timed[-1])
    return seconds[len(seconds) // 2]


def _padding(findings: BucketFindings) -> Padding | None:
    inside = [each for each in findings.lengths if each is not None]
    if len(inside) < len(findings.sizes) or not sum(each.tokens for each in inside):
        return None
    every = Lengths(counts=tuple(pair for each in inside for pair in each.counts))
    seconds = [bucket.step_seconds for bucket in _buckets(findings, ())]
    static = findings.static_size
    timed = None if findings.had_too_few else seconds[-1]  # steps of a few samples tell nothing
    one = _pass_over(every, static, findings.state.lengths[-1], timed)
    several = [
        _pass_over(each, size, longest, each_seconds)
        for each, size, longest, each_seconds in zip(
            inside, findings.whole_sizes, findings.state.lengths, seconds, strict=True
        )
        if each.samples
    ]
    tokens = every.tokens
    times = [taken for _, taken in several]
    return Padding(
        static_batch_size=static,
        static_padded=round(1 - tokens / one[0], 4),
        padded=round(1 - tokens / sum(padded for padded, _ in several), 4),
        static_tokens_per_second=None if one[1] is None else round(tokens / one[1], 1),
        tokens_per_second=round(tokens / sum(t for t in times if t is not None), 1)
        if None not in times
        else None,
    )


def _pass_over(
    lengths: Lengths, batch_size: int, longest: int, step_seconds: float | None
) -> tuple[float, float | None]:
    """Tokens of all batches, padding included, and the seconds they take."""
    padded_to = length_buckets.expected_longest(lengths, batch_size)
    seconds = None
    if step_seconds:
        seconds = step_seconds * lengths.samples / batch_size * padded_to / longest
    return padded_to * lengths.samples, seconds
