"""What a probe of buckets found, as a person reads it in a terminal."""

from __future__ import annotations

from rich.text import Text

from autobatch.bucket_records import Bucket, BucketResult
from autobatch.records import ProofKind
from autobatch.report.look import Look
from autobatch.report.summary import LIMITS, learning_rate_lines, warning_lines
from autobatch.report.text import format_peak, format_rate, format_seconds, format_speed
from autobatch.report.trials import trial_lines
from autobatch.units import format_bytes

_HEADS = ("lengths", "batch", "tokens", "samples", "peak", "a step", "rate")


def summary(
    result: BucketResult,
    *,
    width: int,
    color: bool,
    unicode: bool = True,
    command: str | None = None,
) -> str:
    """A result on a page: trials, buckets, learning rate, padding, proof, what to do next.

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
    )
    for section in (
        [Text("Buckets", "bold"), *_table(result, look)],
        _answer(result, look),
        _explained(result, look),
        warning_lines(result.warnings, look),
        _next(result, look, command),
        _footer(result, look),
    ):
        if section:
            lines += [Text(""), *section]
    return look.page(lines)


def _table(result: BucketResult, look: Look) -> list[Text]:
    rows = [_HEADS, *(_row(bucket, look) for bucket in result.buckets)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = []
    for number, row in enumerate(rows):
        cells = [cell.rjust(wide) for cell, wide in zip(row, widths, strict=True)]
        line = Text("  " + "  ".join(cells), "dim" if number == 0 else "")
        lines.append(look.cut(line, look.width))
    return lines


def _row(bucket: Bucket, look: Look) -> tuple[str, ...]:
    factor = bucket.learning_rate_factor
    return (
        f"{bucket.shortest} to {bucket.longest}",
        str(bucket.batch_size),
        f"{bucket.tokens:,}",
        "?" if bucket.samples is None else f"{bucket.samples:,}",
        format_peak(bucket.peak_bytes),
        "-" if bucket.step_seconds is None else format_seconds(bucket.step_seconds),
        "-" if factor is None else f"{look.glyph('times')} {factor:.3g}",
    )


def _answer(result: BucketResult, look: Look) -> list[Text]:
    sizes = ", ".join(map(str, result.batch_sizes))
    parts = [Text.assemble(("BATCH SIZES  ", "bold"), (sizes, "bold green"))]
    if result.tokens_per_batch is not None:
        tokens = f"{result.tokens_per_batch:,}"
        parts.append(Text.assemble(("TOKENS  ", "bold"), (tokens, "bold green")))
    if result.learning_rate is not None:
        rate = format_rate(result.learning_rate)
        parts.append(Text.assemble(("LEARNING RATE  ", "bold"), (rate, "bold green")))
    joined = Text("     ").join(parts)
    if joined.cell_len <= look.width - 4:
        return look.boxed([joined])
    inside = Look(width=look.width - 4, color=False, unicode=look.unicode)
    return look.boxed([line for part in parts for line in inside.wrapped(part)])


def _explained(result: BucketResult, look: Look) -> list[Text]:
    device = result.device
    words = f"{device.name}, budget {format_bytes(device.budget_bytes)}"
    lines = look.labelled("Device", look.text(words))
    values = [
        look.text(f"{each.shortest} to {each.longest}: {LIMITS[each.limited_by.kind]}")
        for each in result.buckets
    ]
    lines += look.labelled("Limited by", *values)
    for rate in result.learning_rates:
        lines += learning_rate_lines(rate, look, named=len(result.learning_rates) > 1)
    if result.learning_rates:
        known = any(bucket.samples for bucket in result.buckets)
        weighted = "weighted by how often each bucket occurs" if known else "all buckets alike"
        lines += look.labelled(
            "",
            look.text(
                f"Scaled to {result.mean_batch_size:.4g} samples a step, the mean, {weighted}. The "
                "table's rate column is the factor for a batch of one bucket alone."
            ),
        )
    proof = result.proof
    fresh = proof.kind is ProofKind.FRESH_PROCESS
    where = "in one fresh process" if fresh else "in this process, the one that trains"
    ran = f"{proof.steps} steps through all buckets, each at its longest sequence"
    if proof.validation_steps:
        ran += f", {proof.validation_steps} validation steps"
    peak = f"; peak {format_bytes(max(proof.peak_bytes))}" if proof.peak_bytes else ""
    lines += look.labelled("Proof", look.text(f"passed {where}: {ran}{peak}"))
    return lines + _padding(result, look)


def _padding(result: BucketResult, look: Look) -> list[Text]:
    padding = result.padding
    if padding is None:
        return []
    one = f"one batch size, {padding.static_batch_size}: {padding.static_padded:.0%} padding"
    several = f"these buckets: {padding.padded:.0%} padding"
    values = []
    for text, rate in (
        (one, padding.static_tokens_per_second),
        (several, padding.tokens_per_second),
    ):
        more = f", about {format_speed(rate)} tokens a second" if rate else ""
        values.append(look.text(text + more))
    if result.steps_per_epoch is not None:
        values.append(look.text(f"{result.steps_per_epoch:,} optimizer steps an epoch"))
    return look.labelled("Padding", *values)


def _next(result: BucketResult, look: Look, command: str | None) -> list[Text]:
    lines = [Text("Next: batch your samples by", "bold")]
    boundaries, sizes = (", ".join(map(str, x)) for x in (result.boundaries, result.batch_sizes))
    rates = [f"learning_rate={format_rate(rate.learning_rate)}" for rate in result.learning_rates]
    for text in (f"bucket_boundaries=[{boundaries}]", f"bucket_batch_sizes=[{sizes}]", *rates):
        lines += look.wrapped(look.text(text, "cyan"), indent=2)
    kept_out = (
        f"Proven for up to {result.max_length} a sequence: autobatch.bucket_by_sequence_length("
        "samples, result) batches so, and sees to longer ones."
    )
    lines += look.wrapped(look.text(kept_out, "dim"), indent=2)
    if command:
        lines += [Text("Or type", "bold"), *look.wrapped(look.text(command, "cyan"), indent=2)]
    return lines


def _footer(result: BucketResult, look: Look) -> list[Text]:
    words = [f"{len(result.trials)} trials in {format_seconds(result.seconds)}"]
    words += (f"{name} {version}" for name, version in result.versions.items())
    return look.wrapped(look.text(", ".join(words), "dim"))
