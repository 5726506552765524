"""The table of trials, for the summary, for failures and for the live view."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.text import Text

from autobatch.records import Outcome, Trial
from autobatch.report.look import Look
from autobatch.report.text import format_peak, format_seconds, format_speed, shortened

WORDS = {
    Outcome.FITS: "fits",
    Outcome.TOO_CLOSE: "too close",
    Outcome.OUT_OF_MEMORY: "out of memory",
    Outcome.HOST_OUT_OF_MEMORY: "host memory",
    Outcome.CRASHED: "crashed",
    Outcome.TIMED_OUT: "timed out",
    Outcome.FAILED: "failed",
}
_STYLES = {Outcome.FITS: "green", Outcome.OUT_OF_MEMORY: "yellow"}
_OUTCOME, _PEAK, _STEP, _SPEED, _LENGTH = 13, 9, 8, 9, 6  # columns
_WHY_LENGTH = 240


def verdict(
    trial: Trial,
    budget_bytes: int | None,
    headroom_bytes: int = 0,
    answer: int | None = None,
    close: Collection[int] = (),
) -> tuple[str, str]:
    """A trial's outcome in a word or two, and its style.

    A trial may have had more memory than the training's budget; one that needed it does not fit.
    Nor is one safe that is larger than the answer and peaked in the headroom; while there is no
    answer yet, the sizes that the search took for such are in `close`.
    """
    if trial.proof:
        passed = trial.outcome is Outcome.FITS
        return ("proof passed", "bold green") if passed else ("proof failed", "bold red")
    if trial.outcome is Outcome.FITS and budget_bytes and trial.required_bytes:
        if trial.required_bytes > budget_bytes:
            return "over budget", "yellow"
        in_headroom = trial.required_bytes > budget_bytes - headroom_bytes
        if trial.batch_size in close or (answer and trial.batch_size > answer and in_headroom):
            return "too close", "yellow"
    return WORDS[trial.outcome], _STYLES.get(trial.outcome, "red")


def steady_step_seconds(trial: Trial) -> float | None:
    """The median of the steps after the first, which traces; None where there are none."""
    steady = sorted(trial.step_seconds[1:])
    return steady[len(steady) // 2] if steady else None


def reason(trial: Trial) -> str:
    """Why a trial did not end well, in one sentence; empty where it did or nothing is known."""
    parts = [WORDS[trial.outcome]] if trial.proof and trial.outcome is not Outcome.FITS else []
    if trial.phase and trial.outcome is not Outcome.FITS:
        parts.append(f"during {trial.phase}")
    evidence = shortened(trial.why or "", _WHY_LENGTH)
    return ": ".join(part for part in (" ".join(parts), evidence) if part)


def trial_lines(
    trials: Sequence[Trial],
    look: Look,
    *,
    budget_bytes: int | None,
    headroom_bytes: int = 0,
    answer: int | None = None,
    close: Collection[int] = (),
    reasons: bool = True,
) -> list[Text]:
    """One line a trial below a heading; its reason on lines of its own, unless `reasons` is off."""
    batch = max([5, *(len(str(trial.batch_size)) for trial in trials)])
    lengths = any(trial.sequence_length is not None for trial in trials)
    columns = [*([_LENGTH] if lengths else []), batch, _OUTCOME, _PEAK, _STEP]
    roomy = look.width >= sum(columns) + 2 * len(columns)
    gap = indent = 2 if roomy else 1
    speed = look.width >= (80 if lengths else 72)
    bar = look.width - indent - sum(columns) - gap * len(columns) - (_SPEED + gap) * speed
    bar = min(bar, 30) if bar >= 10 and budget_bytes else 0

    def row(cells: list[Text]) -> Text:
        length, number, word, peak, share, step, rate = cells
        line = Text(" " * indent)
        for cell, width, right in (
            *([(length, _LENGTH, True)] if lengths else []),
            (number, batch, True),
            (word, _OUTCOME, False),
            (peak, _PEAK, True),
            *([(share, bar, False)] if bar else []),
            (step, _STEP, True),
            *([(rate, _SPEED, True)] if speed else []),
        ):
            padding = max(0, width - cell.cell_len)
            line.append(" " * padding * right).append_text(cell)
            line.append(" " * (padding * (not right) + gap))
        line.rstrip()
        return look.cut(line, look.width)

    names = ("length", "batch", "outcome", "peak", "of the budget" if bar >= 13 else "", "a step")
    lines = [row([Text(name, "dim") for name in (*names, "samples/s")])]
    for trial in trials:
        word, style = verdict(trial, budget_bytes, headroom_bytes, answer, close)
        share = (trial.peak_bytes or 0) / budget_bytes if budget_bytes else 0.0
        step = steady_step_seconds(trial)
        rate = trial.samples_per_second
        lines.append(
            row(
                [
                    Text("" if trial.sequence_length is None else str(trial.sequence_length)),
                    Text(str(trial.batch_size), "bold"),
                    Text(word, style),
                    Text(format_peak(trial.peak_bytes)),
                    Text(look.bar(share, bar) if bar else "", style),
                    Text("-" if step is None else format_seconds(step)),
                    Text("-" if rate is None else format_speed(rate)),
                ]
            )
        )
        if reasons and (why := reason(trial)):
            lines += look.wrapped(
                look.text(why, "dim"), indent=indent + sum(columns[:-3]) + gap * len(columns[:-3])
            )
    return lines
