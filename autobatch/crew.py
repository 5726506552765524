"""The workers of one probe: one that searches, a fresh one for every proof, one standing by.

Turns a request for a trial into a `Trial`, whatever becomes of the worker that runs it.
"""

from __future__ import annotations

import os
from dataclasses import replace

import msgspec

from autobatch import endings, protocol
from autobatch.conversation import Conversation
from autobatch.devices import DeviceChoice
from autobatch.endings import Ending, LoadingFailed
from autobatch.errors import ModelError, WorkerError
from autobatch.events import LogText, Observer, WorkerStage
from autobatch.launcher import Launcher
from autobatch.options import ProbeOptions
from autobatch.records import Outcome, Trial

SEARCH, PROOF = "search", "proof"
RESTARTS = 2  # of a worker whose script sets variables too late: more is a script that never ends


class Crew:
    """Starts workers, prepares them, and runs trials in them. A context manager.

    Args:
        target: What the workers load.
        device: Where they run.
        options: The probe's options.
        environment: Variables for the workers on top of this process's own.
        observer: Told what the workers do.
        deadline: End of the probe's time, by `time.monotonic`.
        held: Descriptors to be kept open until nothing of the workers is left: of a lock, say.
        sequences: What trials at sequence lengths need of the data; None where there are none.
    """

    def __init__(
        self,
        target: protocol.Target,
        device: DeviceChoice,
        options: ProbeOptions,
        *,
        environment: dict[str, str],
        observer: Observer,
        deadline: float,
        held: tuple[int, ...] = (),
        sequences: protocol.SequenceRequest | None = None,
    ) -> None:
        self._sequences = sequences
        self._target, self.device, self._options = target, device, options
        self._environment = environment
        self._observe = observer
        self._deadline = deadline
        self._launcher = Launcher(lambda name, text: observer(LogText(name, text)), held)
        self._searcher: Conversation | None = None
        self._standby: Conversation | None = None
        self._passed = 0  # the largest extent of a trial that ran well
        self.not_a_number = False
        self.failed: protocol.Failed | None = None  # the last exception of a trial
        self.prepared: protocol.Prepared | None = None
        self.proving: protocol.Prepared | None = None  # what the last proof's worker found
        self.pids: set[int] = set()  # of all workers' wardens so far
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._launcher.__exit__(*_)

    # -- the two kinds of trial --------------------------------------------------------------

    def prepare(self) -> protocol.Prepared:
        """Have the searching worker load the target, and another stand by for the proof.

        Raises:
            ModelError, UsageError, DeviceError: The worker said why it could not.
            NothingFitsError: Loading alone ran out of memory.
            WorkerError: It died or hung.
            OutOfTime: The probe's time is over.
        """
        for _ in range(1 + RESTARTS):
            self._searcher = self._start(SEARCH)
            if self._standby is None:
                self._standby = self._start(PROOF)
            prepared = self._prepare_searcher(self._searcher)
            missing = self._missing(prepared.environment)
            if not missing:
                break
            self._environment |= missing
            self.bury_all()
        else:
            raise ModelError(
                "The script sets other variables each time it runs "
                f"({', '.join(prepared.environment)}), which TensorFlow reads when it is imported. "
                "Set them before autobatch is called instead."
            )
        self.versions, self.prepared = self._searcher.versions, prepared
        if self.device.kind == "cpu":  # a GPU's memory is the searching worker's for now
            self._standby.ask(self._request(PROOF))
        return prepared

    def remember(self, trials: tuple[Trial, ...]) -> None:
        """Know what earlier workers, of an earlier probe of the same, have been through."""
        sizes = [trial.batch_size for trial in trials if trial.outcome is Outcome.FITS]
        self._passed = max([self._passed, *sizes])

    def measure(
        self,
        batch_size: int,
        *,
        steps: int,
        trace: bool,
        trace_steps: int = 0,
        enough_bytes: int | None,
        sequence_length: int | None = None,
    ) -> Trial:
        """Run a search trial; in a new worker where the last one died of the one before."""
        if self._searcher is None:
            self._searcher = self._start(SEARCH)
            self._prepare_searcher(self._searcher)
        request = protocol.RunTrial(
            batch_size=batch_size,
            steps=steps,
            trace=trace,
            trace_steps=trace_steps,
            foretell=True,
            enough_bytes=enough_bytes,
            limit_bytes=self.device.budget_bytes,
            sequence_length=sequence_length,
        )
        ending = self._run(self._searcher, request)
        # What a first trace makes, such as the state of random numbers, is no good if it fails.
        untrained = ending.trial.outcome is Outcome.FAILED and not self._passed
        if untrained or not ending.reusable:
            self._bury_searcher()
        return ending.trial

    def prove(
        self, batch_size: int, *, enough_bytes: int, beyond: int | None, trace_steps: int = 0
    ) -> tuple[Trial, protocol.TrialDone | None]:
        """Run a proof, in a process that has run nothing before, under the real limit.

        Its steps are replayed, too: whether it went through by luck, that is whether they need more
        than `enough_bytes`. For the same reason the process first trains at the size `beyond`, if
        there is one, which is a little larger.
        """
        ending = self._prove(
            protocol.RunTrial(
                batch_size=batch_size,
                steps=self._options.proof_steps,
                validation=self._options.validation,
                proof=True,
                trace=True,
                trace_steps=trace_steps,
                enough_bytes=enough_bytes,
                limit_bytes=self.device.budget_bytes,
            ),
            beyond,
        )
        return ending.trial, ending.done

    def prove_shapes(
        self, shapes: tuple[tuple[int, int], ...], *, limit_bytes: int | None
    ) -> Ending:
        """Run a proof of batches of several sizes and lengths, one step each, in one process.

        Its first steps are replayed, where there is a limit: whether they need more than that.
        """
        return self._prove(
            protocol.RunTrial.of_shapes(
                shapes, validation=self._options.validation, limit_bytes=limit_bytes
            )
        )

    def _prove(self, request: protocol.RunTrial, beyond: int | None = None) -> Ending:
        self._bury_searcher()  # its memory is wanted, and there is no way back to it
        worker, self._standby = self._standby or self._start(PROOF), None
        try:
            worker = self._loaded(worker)
            self.proving = worker.loaded
            ahead = None if beyond is None else self._run_beyond(worker, request, beyond)
            if ahead is not None and ahead.trial.outcome is Outcome.FAILED:
                # The user's own code refuses the larger size, which tells nothing: a new process.
                worker.bury()
                worker = self._start(PROOF)
                worker = self._loaded(worker)
                beyond = ahead = None
            if ahead is None or ahead.trial.outcome is Outcome.FITS:
                ending = self._run_within(worker, request)
            else:
                ending = ahead
            trial = msgspec.structs.replace(ending.trial, beyond_batch_size=beyond)
            ending = replace(ending, trial=trial)
        except LoadingFailed as failure:
            if failure.outcome not in endings.MEMORY:
                raise endings.only_once(failure.error) from None
            ending = Ending(endings.not_loaded(request, failure), None, reusable=False)
        worker.bury()
        return ending

    def _run_beyond(self, worker: Conversation, request: protocol.RunTrial, beyond: int) -> Ending:
        """Train at a size a little larger than the one to be proven.

        Whether memory is laid out well is settled when a process begins to train: so the larger one
        comes first. Where it does not go through, the ending is that of the proof.
        """
        # Its trace tells the proof's replay how this process began.
        larger = protocol.RunTrial(batch_size=beyond, steps=request.steps, foretell=request.trace)
        ending = self._run_within(worker, larger)
        more = f"{beyond / request.batch_size - 1:.0%} more, batch size {beyond}"
        trial = msgspec.structs.replace(
            ending.trial,
            batch_size=request.batch_size,
            peak_bytes=None,
            step_peak_bytes=(),
            step_seconds=(),
            proof=True,
            why=f"with {more}, training did not go through: {ending.trial.why}",
        )
        return replace(ending, trial=trial)

    def bury_all(self) -> None:
        """End every worker."""
        for worker in (self._searcher, self._standby):
            if worker is not None:
                worker.bury()
        self._searcher = self._standby = None

    def move_to(self, device: DeviceChoice) -> None:
        """End every worker; the next ones run on another device, and hold nothing of this one."""
        self.bury_all()
        self.device = device
        self._launcher.held = ()

    # -- workers -----------------------------------------------------------------------------

    def _start(self, role: str) -> Conversation:
        self._observe(WorkerStage(role, "starting"))
        environment = {
            **os.environ,
            **self._environment,
            **self.device.environment(proof=role == PROOF),
        }
        worker = self._launcher.start(role, environment)
        self.pids.add(worker.process.pid)
        return Conversation(self._launcher, worker, self.device.kind, self._observe, self._deadline)

    def _bury_searcher(self) -> None:
        if self._searcher is not None:
            self._searcher.bury()
            self._searcher = None

    def _missing(self, wanted: dict[str, str]) -> dict[str, str]:
        """Variables that a worker says it should have been started with, and was not."""
        backend = wanted.get("KERAS_BACKEND")
        if backend not in (None, "tensorflow") and self._options.backend is None:
            raise endings.wrong_backend(str(backend))
        return {name: value for name, value in wanted.items() if name != "KERAS_BACKEND"}

    def _request(self, role: str) -> protocol.Prepare:
        options = self._options
        return protocol.Prepare(
            target=self._target,
            device=self.device.request(proof=role == PROOF),
            fit_call=options.fit_call,
            input_shapes=options.input_shapes,
            sequence_length=options.sequence_length,
            safe_mode=options.safe_mode,
            optimizer=options.optimizer,
            loss=options.loss,
            accumulates=options.target_batch_size is not None,
            sequences=self._sequences,
        )

    def _prepare(self, worker: Conversation, role: str) -> protocol.Prepared:
        """Have it load the target, if it was not asked before.

        Raises:
            LoadingFailed: It did not.
        """
        if not worker.asked:
            worker.ask(self._request(role))
        return worker.prepared(self._options.load_timeout, self.device.budget_bytes)

    def _prepare_searcher(self, worker: Conversation) -> protocol.Prepared:
        try:
            return self._prepare(worker, SEARCH)
        except LoadingFailed as failure:
            raise failure.error from None

    def _loaded(self, standby: Conversation) -> Conversation:
        """A worker for the proof that has loaded the target.

        One that died while it stood by, killed by others, is replaced.
        """
        stood_by = standby.asked
        try:
            self._prepare(standby, PROOF)
        except LoadingFailed as failure:
            unknown = isinstance(failure.error, WorkerError)
            if not (stood_by and unknown and standby.is_dead):
                raise
            standby.bury()
            standby = self._start(PROOF)
            self._prepare(standby, PROOF)
        return standby

    def _run_within(self, worker: Conversation, request: protocol.RunTrial) -> Ending:
        """Run what must keep to the budget, whether or not the allocator enforces it."""
        return self._run(worker, request).within(self.device.budget_bytes)

    def _run(self, worker: Conversation, request: protocol.RunTrial) -> Ending:
        limit = self._options.timeout * max(1, len({length for _, length in request.shapes}))
        ending = worker.run(request, limit, passed=self._passed)
        if ending.done is not None:
            self._passed = max(self._passed, request.extent)
            self.not_a_number |= ending.done.not_a_number
        elif isinstance(ending.answer, protocol.Failed):
            self.failed = ending.answer
        return ending
