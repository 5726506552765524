"""The search over several sequence lengths: one `Search` each, and one memory model for all. Pure.

The longest bucket is searched from below, as a single batch size is. What it teaches leads the
shortest one to its start, and with both the memory model knows how memory grows with the length:
the others begin where they end, as a rule. When every bucket has its size they are proven
together, for a training sees all of them in one process; a size that dies there is lowered, and
all are proven anew.

Where memory must not run out, no bucket starts where the model alone expects that it fits: what
fitted at other lengths leads, and from there on each bucket is searched from below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from autobatch import length_model
from autobatch.batch_search import Done, GiveUp, Prove, Search, Try
from autobatch.memory_model import CAREFUL_JUMP
from autobatch.records import Outcome, Trial

FIRST_LEAP = 0.6  # of what a model of one length expects of another one
SURELY = 0.9  # of what two lengths tell of one between them, where memory must not run out


@dataclass(frozen=True, slots=True)
class Measure:
    """Measure this size in this bucket."""

    bucket: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class ProveTogether:
    """Prove these sizes, one for each bucket, in one process."""

    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """These sizes are the answer: they were proven."""

    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stuck:
    """No size could be had for this bucket. `last` is the trial that says why."""

    bucket: int
    last: Trial


@dataclass(frozen=True)
class BucketSearch:
    """A search for each bucket, short to long, and what was proven: immutable.

    Attributes:
        lengths: The longest sequence of each bucket.
        searches: One each.
        by_tokens: All buckets are to have as many tokens a batch.
        proven: The sizes that passed together last; None before.
    """

    lengths: tuple[int, ...]
    searches: tuple[Search, ...]
    by_tokens: bool = False
    proven: tuple[int, ...] | None = None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All of them, by bucket."""
        return tuple(trial for search in self.searches for trial in search.trials)

    @property
    def order(self) -> tuple[int, ...]:
        """The buckets in the order in which they are searched."""
        last = len(self.lengths) - 1
        return tuple(dict.fromkeys((last, 0, *range(last - 1, 0, -1))))

    @cached_property
    def model(self) -> length_model.LengthModel | None:
        """The memory model of all trials so far."""
        return length_model.fit(self.trials)

    def begun(self, bucket: int) -> Search:
        """The bucket's search; one without trials starts where the model sees its answer.

        Where memory must not run out, it starts where it is sure to fit: see `_surely`.
        """
        search, model = self.searches[bucket], self.model
        if search.trials or model is None or search.plan.budget_bytes is None:
            return search
        if search.plan.careful:
            return replace(search, plan=replace(search.plan, start=self._surely(bucket)))
        # What has to stay free is known where trials were: it is as much here.
        target = min(each.target_bytes for each in self.searches if each.trials)
        expected = model.largest_within(target, self.lengths[bucket])
        share = FIRST_LEAP if model.lengths == 1 else 1 - search.plan.precision
        start = max(search.plan.space.first, int(min(expected * share, search.plan.space.last)))
        return replace(search, plan=replace(search.plan, start=start))

    def _surely(self, bucket: int) -> int | None:
        """A size that is sure to fit in a bucket without trials; None where nothing tells.

        What fitted at a longer length does. Somewhat less than what is between that and what
        fitted at a shorter one does, too, for over the length bytes bend upwards or not at all;
        but no more than a search from below would dare.
        """
        fitted = [
            (length, search.fits)
            for length, search in zip(self.lengths, self.searches, strict=True)
            if search.fits
        ]
        length = self.lengths[bucket]
        longer = [each for each in fitted if each[0] > length]
        shorter = [each for each in fitted if each[0] < length]
        if not longer:
            return None
        most = max(size for _, size in longer)
        if not shorter:
            return most
        between = length_model.largest_between(shorter[-1], longer[0], length)
        return max(most, int(min(SURELY * between, CAREFUL_JUMP * most)))

    @property
    def is_replayable(self) -> bool:
        """Whether a proof of all lengths tells by its replays if it could have died: not of loops,
        whose replays take long and whose holes lie everywhere anyway, nor where trials keep far
        from the edge as memory must not run out."""
        careful = any(search.plan.careful for search in self.searches)
        traced = [trial for trial in self.trials if trial.needed_bytes is not None]
        return bool(traced) and not careful and not any(trial.loops for trial in traced)

    def add(self, bucket: int, trial: Trial) -> BucketSearch:
        """With one more trial."""
        searches = list(self.searches)
        searches[bucket] = self.begun(bucket).add(trial)
        return replace(self, searches=tuple(searches))

    def passed(self, batch_sizes: tuple[int, ...]) -> BucketSearch:
        """With these sizes proven together."""
        return replace(self, proven=batch_sizes)

    def next(self, *, hurried: bool = False) -> Measure | ProveTogether | Found | Stuck:
        """The next trial or proof, or the answer.

        Args:
            hurried: Settle for what fits so far.
        """
        sizes: dict[int, int] = {}
        for bucket in self.order:
            search = self.begun(bucket)
            action = search.next()
            if isinstance(action, GiveUp):
                return Stuck(bucket, action.last)
            if isinstance(action, Try) and hurried and search.fits:
                action = Prove(search.fits)
            if isinstance(action, Try):
                return Measure(bucket, action.batch_size)
            assert isinstance(action, (Prove, Done))
            sizes[bucket] = action.batch_size
            if not any(trial.proof for trial in search.trials):
                # All are proven together anyway, whether they have been tried or not.
                sizes[bucket] = max(action.batch_size, search.seen_from_near or 0)
        wanted = tuple(sizes[bucket] for bucket in range(len(self.lengths)))
        if self.by_tokens:
            wanted = self._of_tokens(self.most_tokens(wanted))
        if self.proven == wanted or (hurried and self.proven is not None):
            assert self.proven is not None
            return Found(self.proven)
        return ProveTogether(wanted)

    def most_tokens(self, batch_sizes: tuple[int, ...]) -> int:
        """The largest number of tokens a batch that leads to none above these sizes.

        Buckets that have all that they may (of a data set's few long samples, say) do not count,
        for they get no more however many tokens there are; but where all have.
        """
        tokens = [b * length for b, length in zip(batch_sizes, self.lengths, strict=True)]
        free = [
            each
            for each, size, search in zip(tokens, batch_sizes, self.searches, strict=True)
            if size != search.plan.space.last
        ]
        return min(free) if free else max(tokens)

    def _of_tokens(self, tokens: int) -> tuple[int, ...]:
        """The allowed sizes that as many tokens make."""
        spaces = [search.plan.space for search in self.searches]
        return tuple(
            space.at_most(tokens // length) or space.first
            for space, length in zip(spaces, self.lengths, strict=True)
        )


def run(
    search: BucketSearch,
    measure: Callable[[BucketSearch, int, int], Trial],
    prove: Callable[[BucketSearch, tuple[int, ...]], tuple[Trial, ...]],
    *,
    on_trial: Callable[[BucketSearch, int], None] = lambda *_: None,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[BucketSearch, Found | Stuck]:
    """Drive a search to its end.

    Args:
        search: What is searched for.
        measure: Measures a size in a bucket.
        prove: Proves sizes together: a passed proof for each bucket, in order, or the failed
            proof of one bucket alone, told by its `sequence_length`.
        on_trial: Told the search after each trial, and the trial's bucket.
        enough: Asked before each trial: whether to settle for what fits so far.
    """
    while True:
        action = search.next(hurried=enough())
        if isinstance(action, (Found, Stuck)):
            return search, action
        if isinstance(action, Measure):
            trial = measure(search, action.bucket, action.batch_size)
            search = search.add(action.bucket, trial)
            on_trial(search, action.bucket)
            continue
        for trial in (trials := prove(search, action.batch_sizes)):
            bucket = search.lengths.index(trial.sequence_length or 0)
            search = search.add(bucket, trial)
            on_trial(search, bucket)
        if all(trial.outcome is Outcome.FITS for trial in trials):
            search = search.passed(action.batch_sizes)
