"""Where a probe stands, gathered from its events, and the lines that say so."""

from __future__ import annotations

from rich.text import Text

from autobatch.events import (
    Event,
    Notice,
    Prepared,
    TrialEnded,
    TrialStarted,
    WorkerStage,
)
from autobatch.records import Outcome, Trial
from autobatch.report.look import Look
from autobatch.report.text import format_elapsed, format_peak, format_seconds, one_line
from autobatch.report.trials import reason, steady_step_seconds, trial_lines, verdict
from autobatch.units import format_bytes

_STAGES = {
    "starting": "starting a process",
    "importing": "importing TensorFlow",
    "loading": "loading the model",
    "own_loop": "waiting for model.fit, a loop of its own trains",
    "building": "building the model",
    "tracing": "tracing",
    "validation": "validation",
}
_TOLD = ("starting", "loading", "own_loop")  # where there is no terminal
_MOST_TRIALS = 12  # rows of the live table; the summary has them all
_LOW = 10  # rows: fewer than this, and sentences are cut rather than wrapped
_NEARLY = 0.98  # of the estimate: the default precision, so the proof is next


class Progress:
    """Gathers events; `now` is the reading of any clock that goes on, in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.started = self._stage_since = now
        self.prepared: Prepared | None = None
        self.trials: list[Trial] = []
        self.running: TrialStarted | None = None
        self.stage: WorkerStage | None = None
        self.last: TrialEnded | None = None
        self.close: set[int] = set()  # sizes that went through, but leave too little free

    def take(self, event: Event, now: float) -> None:
        """Learn from one event."""
        if isinstance(event, WorkerStage):
            # A standby worker may get ready beside a trial: the trial is what to show.
            worker = self.running and ("proof" if self.running.proof else "search")
            if worker in (None, event.worker):
                if self.stage is None or self.stage.stage != event.stage:
                    self._stage_since = now
                self.stage = event
        elif isinstance(event, Prepared):
            self.prepared = event
        elif isinstance(event, TrialStarted):
            self.running, self.stage, self._stage_since = event, None, now
        elif isinstance(event, TrialEnded):
            self.running, self.stage, self._stage_since = None, None, now
            self.last = event
            self.trials.append(event.trial)
            passed = {t.batch_size for t in self.trials if t.outcome is Outcome.FITS}
            self.close |= passed & {event.fails}

    @property
    def budget_bytes(self) -> int | None:
        """The training's budget, once it is known."""
        return self.prepared.device.budget_bytes if self.prepared else None

    def heading(self) -> str:
        """The model and its device."""
        if self.prepared is None:
            return "autobatch probe"
        device = self.prepared.device
        samples = self.prepared.samples
        data = "" if samples is None else f", {samples:,} samples"
        budget = format_bytes(device.budget_bytes)
        # The device's name comes last: where a line is cut, it is what matters least.
        return f"{one_line(self.prepared.model)}{data}; {budget} on {one_line(device.name)}"

    def learned(self) -> str:
        """The bracket and the memory model's estimate."""
        if self.last is None:
            return "nothing yet"
        fits, fails, estimate = self.last.fits, self.last.fails, self.last.estimate
        text = f"{fits} fits" if fits else "nothing fits yet"
        text += ", no limit met yet" if fails is None else f", {fails} does not"
        return text if estimate is None else f"{text}; about {estimate} expected"

    def to_go(self) -> str:
        """What is left to do."""
        if self.running is not None and self.running.buckets > 1:
            return "if this proof passes, the sizes are the answer"
        if self.running is not None and self.running.proof:
            return f"if this proof passes, {self.running.batch_size} is the answer"
        if self.last is None or self.last.estimate is None:
            return "small sizes, then the search and the proof"
        if self.last.fits >= _NEARLY * self.last.estimate:
            return "the proof"
        return f"a trial or two near {self.last.estimate}, then the proof"

    def doing(self) -> str:
        """What is running at this moment."""
        trial = self.running
        subject = "autobatch"
        if trial is not None:
            subject = _called(trial)
        elif self.stage is not None and self.stage.worker == "proof":
            subject = "proof"
        elif self.stage is not None:
            subject = "search"
        if self.stage is None:
            return f"{subject}: {'starting' if trial else 'choosing the next step'}"
        if self.stage.stage == "step":
            return f"{subject}: step {self.stage.step} of {self.stage.steps}"
        return f"{subject}: {_STAGES.get(self.stage.stage, one_line(self.stage.stage))}"

    def lines(self, look: Look, *, rows: int, now: float) -> list[Text]:
        """The live view in at most `rows` lines."""
        spinner = look.glyph("spinner")
        sign = spinner[int((now - self.started) * 8) % len(spinner)]
        elapsed = format_elapsed(now - self.started)
        doing = look.plain(self.doing())
        if now - self._stage_since >= 3:
            doing += f", {format_elapsed(now - self._stage_since)}"
        doing_width = max(8, look.width - len(elapsed) - 2)
        running = look.cut(Text.assemble((sign, "cyan"), f" {doing}"), doing_width)
        running.pad_right(doing_width + 1 - running.cell_len)
        running.append(elapsed, "dim")
        notes: list[Text] = []
        for label, text in (("Learned", self.learned()), ("To go", self.to_go())):
            note = look.wrapped(look.text(text), indent=8, first=Text(label, "dim"))
            if len(note) > 1 and rows < _LOW:
                note = [look.cut(Text.assemble((f"{label:8}", "dim"), look.text(text)), look.width)]
            notes += note
        heading = look.cut(look.text(self.heading(), "bold"), look.width)
        room = min(_MOST_TRIALS, rows - len(notes) - 4)  # heading, table's head, gap, running
        if room < 1:
            return [heading, *notes, running][-max(1, rows) :]
        return [heading, *self._table(look, room), *notes, running]

    def _table(self, look: Look, room: int) -> list[Text]:
        if not self.trials:
            return []
        hidden = max(0, len(self.trials) - room)
        shown = self.trials[hidden:]
        head, *table = trial_lines(
            shown, look, budget_bytes=self.budget_bytes, close=self.close, reasons=False
        )
        if hidden:
            earlier = f"{look.glyph('ellipsis')} {hidden} before"
            table = [Text(f"  {earlier}", "dim"), *table]
        return [head, *table]


def _called(trial: TrialStarted) -> str:
    if trial.buckets > 1:
        return f"proof of {trial.buckets} buckets"
    kind = "proof of" if trial.proof else "trial"
    return f"{kind} batch {trial.batch_size}{_of_length(trial.sequence_length)}"


def _of_length(length: int | None) -> str:
    return "" if length is None else f" of length {length}"


def plain_line(event: Event, progress: Progress) -> str | None:
    """An event worth a line where there is no terminal; None for the others.

    `progress` has already taken the event.
    """
    if isinstance(event, Prepared):
        return f"{progress.heading()} (loaded in {format_seconds(event.prelude_seconds)})"
    if isinstance(event, Notice):
        return f"note: {one_line(event.text)}"
    if isinstance(event, TrialStarted) and event.proof:
        return _called(event)
    if isinstance(event, WorkerStage) and event.stage in _TOLD:
        return f"{one_line(event.worker)}: {_STAGES[event.stage]}"
    if not isinstance(event, TrialEnded):
        return None
    trial = event.trial
    word, _ = verdict(trial, progress.budget_bytes, close=progress.close)
    parts = [f"batch {trial.batch_size}{_of_length(trial.sequence_length)}: {word}"]
    if trial.peak_bytes is not None:
        parts.append(f"peak {format_peak(trial.peak_bytes)}")
    if (step := steady_step_seconds(trial)) is not None:
        parts.append(f"{format_seconds(step)} a step")
    why = reason(trial)
    return ", ".join(parts) + (f" ({one_line(why)})" if why else "") + f"; {progress.learned()}"
