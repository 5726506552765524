"""What one probe keeps, and what it may take from earlier ones: its journal and the cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autobatch import batch_search, result_cache, storage
from autobatch.errors import StorageError, UsageError
from autobatch.events import Notice, Observer
from autobatch.evidence import Plan
from autobatch.journal import Header, Journal
from autobatch.options import ProbeOptions
from autobatch.protocol import Target
from autobatch.records import LimitKind, Outcome, ProbeResult, Trial
from autobatch.result_cache import Entry
from autobatch.signature import Key

# What limits these answers is in the key; a crash or the host's memory may be of the day.
LASTING = (LimitKind.MEMORY, LimitKind.DATASET, LimitKind.MAXIMUM)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier probes with the same key have left.

    Attributes:
        trials: Of one that was stopped; the search goes on from them.
        entry: The answer of one that was not; None where there is none.
    """

    trials: tuple[Trial, ...] = ()
    entry: Entry | None = None


class Keeper:
    """Writes a probe's trials and its answer, and finds those of earlier probes.

    A probe never fails for what cannot be kept, unless the user has named the file: it says so
    and goes on.

    Args:
        target: What is probed.
        options: The probe's.
        observe: Told what a user should know.

    Attributes:
        warnings: What could not be kept or read, in sentences.

    Raises:
        UsageError: The journal that the user named cannot be written, or is none.
    """

    def __init__(self, target: Target, options: ProbeOptions, observe: Observer) -> None:
        self._options, self._observe = options, observe
        self._label, self._name = _called(target)
        self._journal: Journal | None = None
        self._key: Key | None = None
        self.warnings: tuple[str, ...] = ()
        if options.journal is not None:  # better refused now than after the model was loaded
            try:
                self._journal = Journal(Path(options.journal))
            except StorageError as error:
                raise UsageError(f"{error.message} Name another file with --journal.") from error

    def begin(self, key: Key | None, plan: Plan) -> Earlier:
        """What is known of this key, and a journal for what will be.

        Args:
            key: The probe's; None where what was loaded has no signature.
            plan: Its search.
        """
        if key is None:
            self._warn(
                "What was loaded cannot be told from other models and data (the worker's log says "
                "why): this probe keeps no journal, and asks no cache."
            )
            self.close()
            self._journal = None
            return Earlier()
        self._key = key
        trials: tuple[Trial, ...] = ()
        with self._journaling():
            self._open_own()
            trials = self._resumable(key, plan) if self._options.resume else self._passed_over(key)
            self._start_journal(key, trials)
        entry = None
        if self._options.cache and not trials:
            with self._saying():
                entry = result_cache.open_cache().find(key)
        return Earlier(trials, entry)

    def add(self, *trials: Trial) -> None:
        """Have these trials on disk before anything else happens."""
        with self._journaling():
            for trial in trials:
                if self._journal is not None:
                    self._journal.add(trial)

    def begin_anew(self) -> None:
        """Forget the journal's trials: they did not hold."""
        with self._journaling():
            if self._key is not None:
                self._start_journal(self._key, ())

    def drop(self) -> None:
        """Forget the cached answer: it did not hold."""
        with self._saying():
            if self._key is not None:
                result_cache.open_cache().drop(self._key)

    def finish(self, result: ProbeResult, model: str, search: batch_search.Search | None) -> None:
        """Keep the answer for the next time; our own journal has served.

        Args:
            result: The probe's.
            model: The model's name and size in a few words.
            search: That found it, if it was not cut short; None for an answer not worth keeping.
        """
        key, lasting = self._key, result.limited_by.kind in LASTING
        if self._options.cache and key is not None and search is not None and lasting:
            entry = Entry(
                target=self._label,
                model=model,
                device=result.device.name,
                when=result_cache.now(),
                key=key,
                batch_size=result.batch_size,
                trials=search.trials,
            )
            with self._saying():
                result_cache.open_cache().store(entry)
        if self._journal is not None:
            self._journal.close(remove=self._options.journal is None)

    def close(self) -> None:
        """Let go of the journal, which stays."""
        if self._journal is not None:
            self._journal.close()

    # -- the journal -------------------------------------------------------------------------

    def _open_own(self) -> None:
        if self._journal is None:
            self._journal = Journal(_own_journals() / f"{self._name}.jsonl", ours=True)

    def _start_journal(self, key: Key, trials: tuple[Trial, ...]) -> None:
        if self._journal is not None and trials:
            self._journal.resume(len(trials))
        elif self._journal is not None:
            self._journal.begin(Header(target=self._label, key=key))

    def _resumable(self, key: Key, plan: Plan) -> tuple[Trial, ...]:
        """The journal's trials, if this search may go on from them; else says why not."""
        if self._journal is None:
            return ()
        path, recorded = self._journal.path, self._journal.recorded
        if recorded.damage:
            counts = f"The {len(recorded.trials)} trials before that count."
            then = counts if recorded.trials else "Starting anew."
            self._warn(f"The journal {path} is damaged: {recorded.damage}. {then}")
        if recorded.header is None:
            if not recorded.damage:
                self._warn(f"There is no journal {path} to resume from: starting anew.")
            return ()
        if differences := key.differences(recorded.header.key):
            what = "; ".join(differences)
            self._warn(f"The journal {path} is of another probe: starting anew. Other is {what}.")
            return ()
        trials = recorded.trials
        # The probe may have ended as its last trial did, by the same hand.
        while trials and trials[-1].outcome is Outcome.CRASHED:
            trials = trials[:-1]
        action = batch_search.Search(plan, trials).next()
        if isinstance(action, batch_search.GiveUp):  # its error told more than the trials do
            self._warn(f"The probe in the journal {path} ended without an answer: starting anew.")
            return ()
        self._observe(Notice(f"Going on after {len(trials)} trials in the journal {path}."))
        return trials

    def _passed_over(self, key: Key) -> tuple[Trial, ...]:
        """No trials; says so where there were some that `--resume` would have gone on from."""
        recorded = self._journal.recorded if self._journal is not None else None
        if recorded and recorded.trials and recorded.header and recorded.header.key == key:
            stopped = f"An earlier probe of this stopped after {len(recorded.trials)} trials"
            self._observe(Notice(f"{stopped}; --resume would have gone on from them."))
        return ()

    # -- what goes wrong ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        """What cannot be read or written is said, and no more."""
        try:
            yield
        except (StorageError, UsageError) as error:
            self._warn(f"{error.message.rstrip('.')}. The probe goes on without.")

    @contextlib.contextmanager
    def _journaling(self) -> Iterator[None]:
        """The same; and a journal that failed once is not written on."""
        with self._saying():
            try:
                yield
            except (StorageError, UsageError):
                self.close()
                self._journal = None
                raise

    def _warn(self, text: str) -> None:
        self.warnings += (text,)
        self._observe(Notice(text))


def clear_journals() -> int:
    """Remove our own journals, but those that are being written; returns how many.

    Raises:
        StorageError: The folder cannot be used.
    """
    removed = 0
    for path in _own_journals().glob("*.jsonl"):
        with contextlib.suppress(StorageError, UsageError):
            Journal(path, ours=True).close(remove=True)
            removed += 1
    return removed


def _own_journals() -> Path:
    root = storage.private_folder(storage.cache_folder())
    return storage.private_folder(root / "journals")


def _called(target: Target) -> tuple[str, str]:
    """What a person calls the target, and the name of its own journal.

    The script's arguments may hold what nobody else should read: of them only a digest is kept.
    """
    label = target.path or target.module or f"an object of {os.getcwd()}"
    if target.name:
        label += f":{target.name}"
    told = repr((target.kind, label, target.arguments)).encode("utf-8", "backslashreplace")
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(label).stem).strip("-")[:40] or "probe"
    label = label.encode("utf-8", "backslashreplace").decode()
    return label, f"{stem}-{hashlib.sha256(told).hexdigest()[:12]}"
