"""Measured rows: files of JSON lines that several processes may add to at once."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

# Outcomes of a floor's proof that ran to its end. One that died took 10 s more: it is no floor.
RAN = ("fits", "too_close")


def append(path: Path, row: dict) -> None:
    """Add a row, whole, after what others have added."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = (json.dumps(row) + "\n").encode()
        if cut_off(path):
            line = b"\n" + line
        file.write(line)
        os.fsync(file.fileno())


def cut_off(path: Path) -> bool:
    """Whether the last line has no end: its writer was killed."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def read(path: Path) -> list[dict]:
    """All rows, the oldest first; a line that was cut off is none."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
