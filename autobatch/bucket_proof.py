"""The proof of all buckets in one process: what it runs, and what it says of each. Pure."""

from __future__ import annotations

import random

import msgspec

from autobatch.bucket_search import BucketSearch
from autobatch.endings import Ending
from autobatch.protocol import TrialDone
from autobatch.records import Trial

ROUNDS = 3  # through all buckets, at least: up, down, and in no order


def proof_shapes(
    sizes: tuple[int, ...], lengths: tuple[int, ...], rounds: int
) -> tuple[tuple[int, int], ...]:
    """Batches as a training could meet them: up, down, in no order, then the smaller last ones."""
    whole = list(zip(sizes, lengths, strict=True))
    shapes = [*whole, *reversed(whole)]
    for number in range(rounds - 2):
        shuffled = list(whole)
        random.Random(number).shuffle(shuffled)  # noqa: S311 - no secret
        shapes += shuffled
    last = [(size // 2, length) for size, length in whole if size > 1]
    return (*shapes, *last)


def passed(
    whole: Trial,
    done: TrialDone,
    sizes: tuple[int, ...],
    lengths: tuple[int, ...],
    shapes: tuple[tuple[int, int], ...],
) -> tuple[Trial, ...]:
    """The proof of each bucket, out of that of all.

    Args:
        whole: The proof of all, as one trial.
        done: What the worker said of it.
        sizes, lengths: Of the buckets.
        shapes: What it ran, step by step.
    """
    ran = [*shapes, *shapes][: len(done.step_peak_bytes)]  # the second epoch begins like the first
    told_apart = len(done.step_peak_bytes) >= len(shapes)  # not where one call runs several steps
    trials = []
    for shape in zip(sizes, lengths, strict=True):
        own = [i for i, each in enumerate(ran) if each == shape or not told_apart]
        peaks = tuple(done.step_peak_bytes[i] for i in own)
        trials.append(
            msgspec.structs.replace(
                whole,
                batch_size=shape[0],
                sequence_length=shape[1],
                peak_bytes=max(peaks, default=None),
                step_peak_bytes=peaks,
                step_seconds=tuple(done.step_seconds[i] for i in own),
            )
        )
    return tuple(trials)


def too_close(trials: tuple[Trial, ...], state: BucketSearch) -> tuple[Trial, ...]:
    """Which of a proof's trials count, where it went through and would not have in another order:
    whose batch it would die in is chance, so all sizes are lowered that can be.

    Args:
        trials: As `passed` tells them.
        state: The search that they belong to.
    """
    smallest = [search.plan.space.first for search in state.searches]
    larger = tuple(t for t, least in zip(trials, smallest, strict=True) if t.batch_size > least)
    return larger or trials


def died_in(ending: Ending, shapes: tuple[tuple[int, int], ...], state: BucketSearch) -> int:
    """The bucket whose batch was being trained; the most demanding, as foreseen, where none was.

    Args:
        ending: Of a proof that failed.
        shapes: What it ran, step by step.
        state: The search that it belongs to.
    """
    if ending.step and ending.trial.phase != "validation":
        _, length = shapes[(ending.step - 1) % len(shapes)]
        return state.lengths.index(length)
    sizes = [size for size, _ in shapes[: len(state.lengths)]]
    needs = [
        0.0 if search.model is None else search.model.predict(size)
        for search, size in zip(state.searches, sizes, strict=True)
    ]
    return needs.index(max(needs))
