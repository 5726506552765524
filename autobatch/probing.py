"""`probe`: load a target in workers, search, prove, report: the heart."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from autobatch import devices, protocol, signature
from autobatch.batch_search import Done, GiveUp, Search
from autobatch.bucket_options import ONE_SIZE
from autobatch.crew import Crew
from autobatch.errors import UsageError
from autobatch.events import Notice, Observer, ignore
from autobatch.evidence import Plan
from autobatch.in_workers import InWorkers
from autobatch.keeping import Earlier, Keeper
from autobatch.options import ProbeOptions
from autobatch.records import Outcome, ProbeResult, Trial
from autobatch.searching import told_what_was_tried, version


def probe(
    target: Any, *, arguments: tuple[str, ...] = (), observer: Observer = ignore, **options: Any
) -> ProbeResult:
    """Find the largest safe training batch size of a model, and prove it in a fresh process.

    Args:
        target: `"train.py"`, `"model.py:build_model"`, `"package.module:factory"`,
            `"model.keras"`, a callable without required arguments that returns a Keras model, or
            a live compiled model.
        arguments: What follows the script's name in its `sys.argv`.
        observer: Told each event (`autobatch.events`) as it happens. Defaults to nobody.
        **options: The fields of `autobatch.ProbeOptions`, by name.

    Returns:
        The answer. `batch_size` was run and passed in a process of its own. Where an earlier
        probe has found it already, it was proven anew and not searched for (`cache=False` does).

    Raises:
        UsageError: An argument makes no sense.
        NothingFitsError: Even the smallest size ran out of memory.
        ModelError: The model could not be loaded, built or trained at any size.
        DeviceError: There is no usable device.
        DeviceChangedError: Others kept taking or freeing the device's memory.
        WorkerError: Trials died or hung for a reason that is not known to be memory.
        StorageError: There is no place for temporary files.
        ProbeInterrupted: Ctrl-C.

    Example:
        result = autobatch.probe("model.py:build_model", memory_limit="512MiB")
        print(result.batch_size, result.learning_rate)
    """
    return find_one(target, arguments, observer, ProbeOptions.checked(**options))


class Bucketed(Exception):  # noqa: N818 - an answer to whom it is of use
    """The target's data is in buckets by length, each with a batch size of its own."""


def find_one(
    target: Any,
    arguments: tuple[str, ...],
    observer: Observer,
    options: ProbeOptions,
    *,
    bucketed_too: bool = True,
    resizes: bool = False,
) -> ProbeResult:
    """`probe`, with its options checked.

    Args:
        target, arguments, observer, options: As `probe` takes them.
        bucketed_too: Find one size, that of the longest sequence, also for data in buckets.
            Defaults to yes.
        resizes: The answer is to be put into the script's data. Defaults to no.

    Raises:
        Bucketed: The data is, and no one size is wanted for it.
        UsageError: `resizes`, and that cannot be: the data is in buckets that cannot be made anew.
    """
    run = _Probe(target, tuple(arguments), observer, options, bucketed_too, resizes)
    try:
        with told_what_was_tried(run):
            return run.run()
    finally:
        run.keeper.close()


class _Probe(InWorkers[ProbeResult]):
    """The search for one batch size, which earlier probes may have made."""

    def __init__(
        self,
        target: Any,
        arguments: tuple[str, ...],
        observer: Observer,
        options: ProbeOptions,
        bucketed_too: bool,
        resizes: bool,
    ) -> None:
        super().__init__(target, arguments, observer, options)
        self._bucketed_too, self._resizes = bucketed_too, resizes
        self._recalled = False  # the answer is that of an earlier probe
        self.keeper = Keeper(self._target, options, observer)

    def _search(self, crew: Crew) -> ProbeResult:
        prepared = self._prepare(crew)
        if prepared.bucket_boundaries and not self._bucketed_too:
            listed = ", ".join(map(str, prepared.bucket_boundaries))
            raise Bucketed(
                f"The script buckets its data by length, at {listed}: each bucket gets a size of "
                "its own."
            )
        if prepared.unsized_buckets:
            self._refuse_or_tell(prepared.unsized_buckets)
        result = self.search_with(crew, prepared, self._describe(prepared, crew))
        self._check_at_the_end(crew)
        worth_keeping = not (self._hurried or self._recalled or self._said)
        self.keeper.finish(result, prepared.model, self.search if worth_keeping else None)
        return msgspec.structs.replace(result, warnings=(*result.warnings, *self.keeper.warnings))

    def _refuse_or_tell(self, unsized_buckets: str) -> None:
        """Before the time is spent: the script's buckets cannot have sizes of their own."""
        if self._resizes:
            raise UsageError(
                "The script buckets its data by length, and no other batch sizes can be put into "
                f"it: {unsized_buckets} autobatch probe finds the one size that is safe for all "
                "buckets."
            )
        self._observe(Notice(f"{ONE_SIZE}: {unsized_buckets}"))

    def _forget(self) -> None:
        self._recalled, self._earlier, self._refuted = False, 0, ()
        self.keeper.begin_anew()

    # -- what earlier probes left ------------------------------------------------------------

    def _key(self, prepared: protocol.Prepared, crew: Crew) -> signature.Key | None:
        if prepared.signature is None:
            return None
        uuid, driver = devices.identity(prepared.signature.device)
        return signature.make_key(
            prepared.signature,
            self._described,
            self._options,
            uuid=uuid,
            driver=driver,
            versions={**crew.versions, "autobatch": version()},
            environment={**os.environ, **self._environment},
        )

    def _proven_again(self, crew: Crew, earlier: Earlier) -> Done | None:
        """The cached answer, if there is one and it still holds: proven anew, nothing searched."""
        entry = earlier.entry
        if entry is None:
            return None
        when = time.strftime("%Y-%m-%d", time.localtime(entry.when))
        self._observe(
            Notice(
                f"Found on {when}: batch size {entry.batch_size}. It is proven anew (--no-cache "
                "searches)."
            )
        )
        trial = self._prove(crew, entry.batch_size)
        if trial.outcome is not Outcome.FITS:
            self.keeper.drop()
            self._refuted = (trial,)
            self._observe(Notice("That proof failed: the search begins anew."))
            return None
        self._go_on_from(entry.trials, crew)
        self.keeper.add(*entry.trials)
        self._on_trial(self.search.add(trial))
        self._recalled = True
        return Done(entry.batch_size)

    def _find(self, crew: Crew, plan: Plan, prepared: protocol.Prepared) -> Done | GiveUp:
        # What was kept is of the device as it was before it changed.
        kept = Earlier() if self._said else self.keeper.begin(self._key(prepared, crew), plan)
        if (recalled := self._proven_again(crew, kept)) is not None:
            return recalled
        self._go_on_from(kept.trials, crew)
        end = self._searched(crew, plan, kept.trials)
        if isinstance(end, GiveUp) and kept.trials:  # what had passed did not, this time
            self._observe(Notice("The journal's trials do not hold: the search begins anew."))
            self.keeper.begin_anew()
            self.search = Search(plan)
            self._go_on_from((), crew)
            end = self._searched(crew, plan, ())
        return end

    def _go_on_from(self, trials: tuple[Trial, ...], crew: Crew) -> None:
        self._earlier = len(trials)
        crew.remember(trials)
        for trial in trials:
            self.search = self.search.add(trial)
            self._tell()

    def _kept(self, trial: Trial) -> None:
        self.keeper.add(trial)
