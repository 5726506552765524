"""Strings made fit for a terminal: no control sequences, ASCII where that is all there is."""

from __future__ import annotations

import re

from autobatch.units import format_bytes

# ECMA-48: control sequences, control strings (OSC, DCS, SOS, PM, APC), other escapes; each also
# with its one-character C1 introducer. A control string without an end keeps its text.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
# C0 without tab and newline, DEL, C1, marks that reorder text, surrogates that no codec takes.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_LINE_BREAKS = re.compile("\r\n|[\x0b\x0c\x85\u2028\u2029]")

_ASCII = str.maketrans({
    "√": "sqrt", "×": "x", "·": "-", "…": "...", "–": "-", "—": "-", "→": "->", "±": "+-",
    "β": "beta", "ε": "epsilon", "₁": "1", "₂": "2", "≤": "<=", "≥": ">=", "≈": "~", "−": "-",
    "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "\u00a0": " ",
})  # fmt: skip


def strip_controls(text: str) -> str:
    """What a terminal would show of a text in the end, without anything that could steer one.

    Lines and tabs stay. A carriage return or a backspace moves back on its line, and what follows
    overwrites, so that of a progress bar its last state is left.
    """
    text = _LINE_BREAKS.sub("\n", _SEQUENCES.sub("", text))
    if "\r" in text or "\b" in text:
        text = "\n".join(map(_overwritten, text.split("\n")))
    return _CONTROLS.sub("", text)


def _overwritten(line: str) -> str:
    cells: list[str] = []
    at = 0
    for character in line:
        if character == "\r":
            at = 0
        elif character == "\b":
            at = max(0, at - 1)
        else:
            cells[at : at + 1] = character
            at += 1
    return "".join(cells)


def one_line(text: str) -> str:
    """The text as one line without control sequences, spaces in place of line breaks."""
    return " ".join(strip_controls(text).split())


def to_ascii(text: str) -> str:
    """The text in ASCII: the field's own letters spelled out, what is left as `?`."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def shortened(text: str, length: int) -> str:
    """The text, cut with `...` where it is longer than `length` characters."""
    return text if len(text) <= length else text[: max(0, length - 3)].rstrip() + "..."


def format_seconds(seconds: float) -> str:
    """A duration in at most 8 characters: `21 ms`, `1.24 s`, `42 s`, `3m 05s`, `2h 07m`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.00095 else "< 1 ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"


def format_elapsed(seconds: float) -> str:
    """Whole seconds as on a clock: `0:07`, `12:31`, `1:02:03`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_rate(value: float) -> str:
    """A learning rate or a factor as a person types it."""
    return f"{value:.6g}"


def format_speed(samples_per_second: float) -> str:
    """Samples a second: `12,300`, `143`, `8.4`."""
    return (
        f"{samples_per_second:,.0f}" if samples_per_second >= 100 else f"{samples_per_second:.3g}"
    )


def format_peak(count: int | None) -> str:
    """Bytes in words; a dash where none were measured."""
    return "-" if count is None else format_bytes(count)


def format_value(value: object) -> str:
    """A configuration's value as Python source, floats short, long lists cut."""
    if isinstance(value, float):
        return format_rate(value)
    if isinstance(value, list | tuple):
        shown = [format_value(item) for item in value[:6]]
        return f"[{', '.join([*shown, '...'] if len(value) > 6 else shown)}]"
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        return format_call(value)
    return one_line(repr(value))


def format_call(serialized: dict[str, object]) -> str:
    """Keras's `{"class_name": ..., "config": {...}}` as the call that makes it."""
    config = serialized.get("config")
    arguments = ", ".join(
        f"{key}={format_value(value)}"
        for key, value in (config.items() if isinstance(config, dict) else ())
        if value is not None and key != "name"
    )
    return f"{serialized.get('class_name', 'schedule')}({arguments})"
