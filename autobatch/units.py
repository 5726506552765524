"""Bytes in words and back."""

from __future__ import annotations

import re

from autobatch.errors import UsageError

KIB, MIB, GIB, TIB = (1 << 10 * power for power in (1, 2, 3, 4))

_UNITS = {
    "": 1, "b": 1, "byte": 1, "bytes": 1,
    "k": KIB, "kb": 10**3, "kib": KIB,
    "m": MIB, "mb": 10**6, "mib": MIB,
    "g": GIB, "gb": 10**9, "gib": GIB,
    "t": TIB, "tb": 10**12, "tib": TIB,
}  # fmt: skip
_TOO_MANY = 1 << 63  # bytes: TensorFlow counts them in 64 bits, with a sign
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)", re.IGNORECASE)


def format_bytes(count: float) -> str:
    """Bytes as a person reads them: `512 MiB`, `1.5 GiB`, `80 GiB`."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(count) >= unit:
            return f"{_short(count / unit)} {name}"
    return f"{count:.0f} bytes"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"


def parse_bytes(text: str, argument: str = "a size") -> int:
    """Bytes from words such as `512MiB`, `1.5 GB`, `2g` (a lone letter is binary) or `1073741824`.

    Raises:
        UsageError: The text is not a positive size.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    count = float(match[1]) * unit if match and unit else 0.0
    if not 1 <= count < _TOO_MANY:
        raise UsageError(
            f"{argument} must be a positive size like '512MiB' or '1.5GB'; received {text!r}."
        )
    return int(count)


def parse_share_or_bytes(text: str, argument: str = "a share or size") -> tuple[float, int]:
    """`'5%'` as (0.05, 0), `'512MiB'` as (0.0, 536870912): a share of a budget, or bytes.

    Raises:
        UsageError: It is neither; or the share is not at least 0 % and below 100 %.
    """
    stripped = text.strip()
    if stripped == "0":
        return 0.0, 0
    if stripped.endswith("%"):
        try:
            share = float(stripped[:-1]) / 100
        except ValueError:
            share = -1.0
        if 0 <= share < 1:
            return share, 0
    else:
        try:
            return 0.0, parse_bytes(stripped)
        except UsageError:
            pass
    raise UsageError(
        f"{argument} must be a share like '5%' (below 100%) or a size like '512MiB'; "
        f"received {text!r}."
    )
