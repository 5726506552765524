"""What a probe found, or why it failed, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from autobatch.errors import AutobatchError, ModelError, NothingFitsError
from autobatch.records import LearningRate, LimitKind, ProbeResult, ProofKind
from autobatch.report.look import Look
from autobatch.report.text import (
    format_call,
    format_rate,
    format_seconds,
    format_speed,
    format_value,
    strip_controls,
    to_ascii,
)
from autobatch.report.trials import trial_lines
from autobatch.units import format_bytes

LIMITS = {
    LimitKind.MEMORY: "the device's memory",
    LimitKind.HOST_MEMORY: "the host's memory",
    LimitKind.DATASET: "the size of the data set",
    LimitKind.MAXIMUM: "the maximum that was asked for",
    LimitKind.CRASH: "a crash at larger sizes",
    LimitKind.TIMEOUT: "the time limit at larger sizes",
    LimitKind.MODEL_ERROR: "an error of the model's own at larger sizes",
    LimitKind.THROUGHPUT: "the speed that was asked for",
    LimitKind.TOKENS: "the tokens a batch, as another bucket limits them",
}
_PROOFS = {
    ProofKind.FRESH_PROCESS: "in a fresh process",
    ProofKind.THIS_PROCESS: "in this process, the one that trains",
    ProofKind.CALLER: "by the caller's own step",
}
_SLOW_TO_LOAD = 5.0  # seconds from which on loading is worth a word: each worker pays them
_ERRORS = {
    "error": "Error", "usage": "Wrong usage", "nothing_fits": "Nothing fits",
    "model": "The model failed", "device": "No usable device", "worker": "No answer",
    "device_changed": "The device changed", "interrupted": "Interrupted",
    "storage": "A file failed",
}  # fmt: skip


def summary(
    result: ProbeResult,
    *,
    width: int,
    color: bool,
    unicode: bool = True,
    command: str | None = None,
) -> str:
    """A probe's result on a page: trials, device, answer, learning rate, proof, what to do next.

    Args:
        result: What the probe found.
        width: Columns that no line exceeds; from 40 on.
        color: Whether escape codes for colours and bold type may be written.
        unicode: Whether more than ASCII may be written.
        command: A command that trains with the answer without an edit, shown last.
    """
    look = Look(width=width, color=color, unicode=unicode)
    lines = [Text("Trials", "bold")]
    lines += trial_lines(
        result.trials,
        look,
        budget_bytes=result.device.budget_bytes,
        headroom_bytes=result.headroom_bytes,
        answer=result.batch_size,
    )
    for section in (
        _device(result, look),
        _answer(result, look),
        _explained(result, look),
        warning_lines(result.warnings, look),
        _next(result, look, command),
        _footer(result, look),
    ):
        if section:
            lines += [Text(""), *section]
    return look.page(lines)


def failure(
    error: AutobatchError, *, width: int, color: bool, verbose: bool, unicode: bool = True
) -> str:
    """An error on a page: one paragraph, its details, the trials that ran before it.

    Args:
        error: What ended the probe.
        width: Columns that no line exceeds; from 40 on.
        color: Whether escape codes for colours and bold type may be written.
        verbose: Whether to show the whole of a user's traceback, not only their own files.
        unicode: Whether more than ASCII may be written.
    """
    look = Look(width=width, color=color, unicode=unicode)
    heading = Text(f"{_ERRORS.get(error.kind, 'Error')}: ", "bold red")
    lines = look.wrapped(Text.assemble(heading, look.text(error.message)))
    budget_bytes = error.budget_bytes if isinstance(error, NothingFitsError) else None
    if isinstance(error, NothingFitsError) and error.needed_bytes and budget_bytes:
        cells = min(40, look.width - 2)
        share = look.bar(error.needed_bytes / budget_bytes, cells)
        words = f"needed {format_bytes(error.needed_bytes)} of {format_bytes(budget_bytes)}"
        lines += [Text(""), Text.assemble("  ", (share, "red")), Text(f"  {words}")]
    whole = error.traceback if isinstance(error, ModelError) else ""
    details = whole if verbose and whole else error.details
    if details.strip():
        lines.append(Text(""))
        for row in strip_controls(details).strip("\n").expandtabs(4).split("\n"):
            lines += look.wrapped(Text(row if unicode else to_ascii(row), "dim"), indent=2)
    if whole.strip() and details != whole:
        lines += [Text(""), *look.wrapped(look.text("--verbose shows the whole traceback.", "dim"))]
    if error.trials:
        lines += [Text(""), Text("Tried before", "bold")]
        lines += trial_lines(error.trials, look, budget_bytes=budget_bytes)
    return look.page(lines)


def _device(result: ProbeResult, look: Look) -> list[Text]:
    device = result.device
    words = f"{device.name}, budget {format_bytes(device.budget_bytes)}"
    if device.limit_bytes > device.budget_bytes:
        words += f" (the search's trials could use {format_bytes(device.limit_bytes)})"
    values = [look.text(words)]
    if result.peak_bytes is not None:
        # A peak above what replays need is of the trials' larger pool, not of training's.
        peak = min(result.peak_bytes, result.needed_bytes or result.peak_bytes)
        left = max(0, device.budget_bytes - peak)
        headroom = min(left, result.headroom_bytes)
        values += _budget_bar(peak, headroom, left - headroom, look)
        if headroom < result.headroom_bytes:
            asked = format_bytes(result.headroom_bytes)
            values.append(look.text(f"less headroom than the {asked} asked for", "yellow"))
    return look.labelled("Device", *values)


def _budget_bar(peak: int, headroom: int, free: int, look: Look) -> list[Text]:
    """The budget as a bar and its legend: what training takes, keeps clear, and leaves."""
    cells = min(50, look.width - (18 if look.width >= 60 else 4))
    total = max(1, peak + headroom + free)
    taken = min(cells, max(1, round(cells * peak / total)))
    clear = min(cells - taken, max(1 if headroom else 0, round(cells * headroom / total)))
    bar = Text()
    legend: list[Text] = []
    for name, count, size, glyph, style in (
        ("peak", taken, peak, "bar", "green"),
        ("headroom", clear, headroom, "headroom", "yellow"),
        ("free", cells - taken - clear, free, "free", "dim"),
    ):
        bar.append(look.glyph(glyph) * count, style)
        entry = Text.assemble((look.glyph(glyph), style), f" {name} {format_bytes(size)}")
        if legend and legend[-1].cell_len + entry.cell_len + 2 <= cells:
            legend[-1].append("  ").append_text(entry)
        else:
            legend.append(entry)
    return [bar, *legend]


def _answer(result: ProbeResult, look: Look) -> list[Text]:
    size = Text.assemble(("BATCH SIZE  ", "bold"), (str(result.batch_size), "bold green"))
    parts = [size]
    if result.gradient_accumulation_steps > 1:
        steps, samples = result.gradient_accumulation_steps, result.global_batch_size
        parts += [Text(f"times {steps} micro-batches, {samples} a step")]
    elif result.global_batch_size != result.batch_size:
        replicas = result.global_batch_size // max(1, result.batch_size)
        each = f" on each of {replicas} replicas, {result.global_batch_size} in all"
        parts += [Text(each.strip())]
    if result.learning_rate is not None:
        rate = format_rate(result.learning_rate)
        parts.append(Text.assemble(("LEARNING RATE  ", "bold"), (rate, "bold green")))
    joined = Text("     ").join(parts)
    return look.boxed([joined] if joined.cell_len <= look.width - 4 else parts)


def _explained(result: ProbeResult, look: Look) -> list[Text]:
    limit = result.limited_by
    lines = look.labelled(
        "Limited by", look.text(f"{LIMITS[limit.kind]}: {limit.evidence}".rstrip(": "))
    )
    if not result.learning_rates:
        nothing = "not scaled: the model's optimizer has no rate that is known"
        lines += look.labelled("Learning rate", look.text(nothing))
    for rate in result.learning_rates:
        lines += learning_rate_lines(rate, look, named=len(result.learning_rates) > 1)
    lines += look.labelled("Proof", look.text(_proof(result)))
    speed = []
    if result.samples_per_second is not None:
        speed.append(f"{format_speed(result.samples_per_second)} samples a second")
    if result.steps_per_epoch is not None:
        steps = "step" if result.steps_per_epoch == 1 else "steps"
        speed.append(f"{result.steps_per_epoch:,} optimizer {steps} an epoch")
    return lines + (look.labelled("Speed", look.text(", ".join(speed))) if speed else [])


def learning_rate_lines(rate: LearningRate, look: Look, *, named: bool) -> list[Text]:
    """A rate, how it came about, and what to mind."""
    scaled, base = format_rate(rate.learning_rate), format_rate(rate.base_learning_rate)
    sizes = f"batch {rate.base_batch_size} to {rate.batch_size}"
    product = f"{scaled} = {base} {look.glyph('times')} {rate.factor:.4g}"
    how = f"{scaled}, unchanged" if rate.factor == 1 else product
    how += f" ({rate.rule} rule, {sizes})"
    if named or rate.optimizer != "optimizer":
        how = f"{rate.optimizer}: {how}"
    values = [look.text(how), look.text(rate.reason)]
    if rate.schedule is not None:
        values.append(look.text(f"the schedule, scaled: {format_call(rate.schedule)}"))
    if rate.hyperparameters:
        others = (f"{key} {format_value(value)}" for key, value in rate.hyperparameters.items())
        values.append(look.text(f"the rule's companions: {', '.join(others)}"))
    values += (look.text(f"{look.glyph('bullet')} {advice}") for advice in rate.advice)
    return look.labelled("Learning rate", *values)


def _proof(result: ProbeResult) -> str:
    proof = result.proof
    steps = f"{proof.steps} {'step' if proof.steps == 1 else 'steps'}"
    ran = []
    if proof.beyond_batch_size is not None:
        more = proof.beyond_batch_size / result.batch_size - 1
        ran.append(f"{steps} at {proof.beyond_batch_size} ({more:.0%} more)")
    ran.append(f"{steps} at {result.batch_size}")
    if proof.validation_steps:
        plural = "" if proof.validation_steps == 1 else "s"
        ran.append(f"{proof.validation_steps} validation step{plural}")
    if proof.last_batch_size is not None:
        ran.append(f"a last batch of {proof.last_batch_size}")
    peak = f"; peak {format_bytes(max(proof.peak_bytes))}" if proof.peak_bytes else ""
    return f"passed {_PROOFS[proof.kind]}: {', '.join(ran)}{peak}"


def warning_lines(warnings: Sequence[str], look: Look) -> list[Text]:
    """What the user should read beside the answer."""
    lines = []
    for warning in warnings:
        mark = Text("Warning: ", "bold yellow")
        lines += look.wrapped(Text.assemble(mark, look.text(warning)))
    return lines


def _next(result: ProbeResult, look: Look, command: str | None) -> list[Text]:
    lines = [Text("Next: set in your training", "bold")]
    steps = result.gradient_accumulation_steps
    size = result.global_batch_size // steps
    lines.append(Text.assemble("  ", (f"batch_size={size}", "cyan")))
    if steps > 1:
        lines.append(Text.assemble("  ", (f"gradient_accumulation_steps={steps}", "cyan")))
    for rate in result.learning_rates:
        value = format_call(rate.schedule) if rate.schedule else format_rate(rate.learning_rate)
        where = "" if rate.optimizer == "optimizer" else f"  # of {rate.optimizer}"
        assignment = look.text(f"learning_rate={value}{where}", "cyan")
        lines += look.wrapped(assignment, indent=2)
    if command:
        lines += [Text("Or type", "bold"), *look.wrapped(look.text(command, "cyan"), indent=2)]
    return lines


def _footer(result: ProbeResult, look: Look) -> list[Text]:
    count = len(result.trials)
    words = [f"{count} {'trial' if count == 1 else 'trials'} in {format_seconds(result.seconds)}"]
    if result.load_seconds is not None and result.load_seconds >= _SLOW_TO_LOAD:
        words.append(f"{format_seconds(result.load_seconds)} to load in each process")
    if result.earlier_trials:
        words.append(f"{result.earlier_trials} of them in an earlier probe")
    words += (f"{name} {version}" for name, version in result.versions.items())
    return look.wrapped(look.text(", ".join(words), "dim"))
