"""Reads the texts a dead trial left: lines that mean something, and particulars of the failure.

A text is heard as a `Voice`: an exception, or the log. Everything here is linear in the length of
the text and takes any text there is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from autobatch.oom_wordings import (
    CLASSES,
    HINT,
    MACHINE_LINE,
    MAX_LINE,
    NOISE,
    ON_CPU,
    SECTIONS,
    SERVERS,
    SUSPECT,
    USERS_OWN,
    Heard,
    Says,
)

MAX_MESSAGE = 64_000  # characters of a message's beginning, and as many of its end
MAX_LOG = 256_000  # characters of the log's end
_MAX_WHY = 300

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_EXHAUSTED = re.compile(r"resource.?exhausted", re.IGNORECASE)
_NAMED = re.compile(r"(?:\w+\.)*(\w+(?:Error|Exception|Interrupt|Exit)|StopIteration)(?=: |:?$)")
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("The above exception was", "During handling of the above")

# Particulars. The more exact stand first.
_SHAPE = re.compile(r"shape ?\[([\d,]{1,200})\] and type (\w{3,20})")
_BYTES = (
    re.compile(r"rounded to (\d{1,20})\)"),
    re.compile(r"\((\d{1,20}) ?B(?:ytes)?\)", re.IGNORECASE),
    re.compile(r"(?:alloc\w*|buffer:|of size:?) ([\d,]{1,26})(?: ?bytes|$)", re.IGNORECASE),
)
_SIZE = re.compile(r"(?:alloc\w*|reserve|size:) (\d{1,9}(?:\.\d{1,4})?) ?([KMGTPE])i?(?:B|\b)")
_OPERATION = (
    re.compile(r"\[Op:(?!__)(\w{1,80})\]"),
    re.compile(r"\{\{node ([^}\n]{1,200})\}\}"),
    re.compile(r"\[\[node ([\w/.-]{1,200})", re.IGNORECASE),
    re.compile(r"\[\[Node: ([\w/.-]{1,200}) ="),
    re.compile(r"Detected at node '?([\w/.:-]{1,200})"),
    re.compile(r"requested by op ([\w/.:-]{1,200})"),
)
_ALLOCATOR = re.compile(r"by allocator (\S{1,80})|Allocator \(([^)\n]{1,80})\)")
_DEVICE = re.compile(r"device:(\w{1,20}):\d")
_ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "half": 2,
    "bfloat16": 2,
    "int16": 2,
    "uint16": 2,
    "double": 8,
    "int64": 8,
    "uint64": 8,
    "complex64": 8,
    "complex128": 16,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A line and what it means.

    Attributes:
        says: The meaning; never `POOL`, which is settled by the allocator's name.
        sure: The line alone proves it.
        line: The line, printable.
        hint: A program wrote it and went on.
    """

    says: Says
    sure: bool
    line: str
    hint: bool = False

    @property
    def fatal_memory(self) -> bool:
        return self.says in (Says.DEVICE, Says.HOST) and not self.hint


@dataclass(frozen=True, slots=True)
class Voice:
    """An exception or a log: its class names, its text, and what was found in it, in order."""

    types: tuple[str, ...]
    text: str
    findings: tuple[Finding, ...]

    def memory(self) -> tuple[Finding, ...]:
        """The lines on a failure for lack of memory: the certain ones if there are any."""
        fatal = tuple(found for found in self.findings if found.fatal_memory)
        return tuple(found for found in fatal if found.sure) or fatal

    def headline(self) -> str:
        """The class and the first line of the text."""
        first = next(iter(self.text.strip().splitlines()), "")
        name = self.types[0] if self.types else ""
        if not name or name in first:
            return first
        return f"{name}: {first}" if first else name


def hear_exception(types: tuple[str, ...], message: str, device: str) -> Voice:
    """An exception, of which only what user code would not write by hand is believed."""
    if len(message) > 2 * MAX_MESSAGE:
        message = message[:MAX_MESSAGE] + "\n" + message[-MAX_MESSAGE:]
    text = _clean(message)
    named = _NAMED.match(text.lstrip()[:MAX_LINE])
    names = tuple(name.rpartition(".")[2].lstrip("_") for name in types)
    names = names or ((named.group(1).lstrip("_"),) if named else ())
    heard = {Heard.ANYWHERE}
    if not USERS_OWN.intersection(names):
        heard.add(Heard.MACHINE)
    if "ResourceExhaustedError" in names:
        heard.add(Heard.EXHAUSTED)
    if SERVERS.intersection(names):
        return Voice(names, text, ())
    findings = [found for line in _lines(text) if (found := _find(line, heard, device))]
    verdict = next((CLASSES[name] for name in names if name in CLASSES), None)
    if verdict is None and Heard.MACHINE in heard and _EXHAUSTED.search(text):
        verdict = Says.STATUS  # as JAX hands it over
    if verdict is not None:
        sure = verdict in (Says.DEVICE, Says.HOST)
        headline = one_line(Voice(names, text, ()).headline())
        # a class that says whose memory it was outweighs a wording that only may
        if not any(found.fatal_memory and (found.sure or not sure) for found in findings):
            findings.append(Finding(verdict, sure, headline))
    return Voice(names, text, tuple(findings))


def hear_log(log: str, device: str) -> Voice:
    """The end of a log, in which the user's own prints count for less than a program's lines."""
    text = _clean(log[-MAX_LOG:])
    findings = []
    for line in _lines(text):
        heard = {Heard.ANYWHERE, Heard.MACHINE} if MACHINE_LINE.search(line) else {Heard.ANYWHERE}
        if found := _find(line, heard, device):
            hint = found.fatal_memory and HINT.search(line) is not None
            findings.append(Finding(found.says, found.sure and not hint, line, hint))
    return Voice((), text, tuple(findings))


def exceptions_in(log: str) -> Iterator[str]:
    """The text of the exception of a log's last traceback, and of those it was chained to."""
    chunks = log[-MAX_LOG:].split(_TRACEBACK)[1:]
    for position, chunk in enumerate(reversed(chunks)):
        if position and not any(mark in chunk[-200:] for mark in _CHAINED):
            return
        lines = chunk.splitlines()
        for start, line in enumerate(lines):
            if _NAMED.match(line[:MAX_LINE]):
                yield "\n".join(lines[start : start + 60])
                break


def allocation_bytes(texts: Iterable[str]) -> int | None:
    """Bytes of the allocation that failed, as exactly as the first text that tells puts it."""
    for text in texts:
        if found := _SHAPE.search(text):
            dimensions = [int(size[:20]) for size in found.group(1).split(",") if size]
            return math.prod(dimensions[:16]) * _ITEM_BYTES.get(found.group(2), 4)
        for pattern in _BYTES:
            if (found := pattern.search(text)) and (digits := found.group(1).replace(",", "")):
                return int(digits)
        if found := _SIZE.search(text):
            return int(float(found.group(1)) * 1024 ** (1 + "KMGTPE".index(found.group(2))))
    return None


def operation(texts: Iterable[str]) -> str | None:
    """The operation that asked for memory."""
    for text in texts:
        for pattern in _OPERATION:
            if found := pattern.search(text):
                return one_line(found.group(1))
    return None


def allocator(texts: Iterable[str]) -> str | None:
    """The allocator that refused."""
    for text in texts:
        if found := _ALLOCATOR.search(text):
            return one_line((found.group(1) or found.group(2)).rstrip(".,;:'\""))
    return None


def last_lines(text: str, count: int) -> list[str]:
    """The last lines that are not empty, printable."""
    lines = (printable(line[:MAX_LINE]).strip() for line in text.split("\n")[-4 * count :])
    return [line for line in lines if line][-count:]


def printable(text: str) -> str:
    """Without control characters, lone surrogates and invisible marks."""
    return "".join(char if char.isprintable() else " " for char in text)


def one_line(text: str) -> str:
    """One printable line of at most 300 characters."""
    line = " ".join(printable(text[: 4 * _MAX_WHY]).split())
    return line if len(line) <= _MAX_WHY else line[: _MAX_WHY - 1] + "…"


def _find(line: str, heard: set[Heard], device: str) -> Finding | None:
    if _EXHAUSTED.search(line):
        heard = heard | {Heard.EXHAUSTED}
    for section in SECTIONS:
        if section.heard in heard and section.pattern.search(line):
            says = _whose(line, device) if section.says is Says.POOL else section.says
            return Finding(says, section.sure, line)
    return None


def _whose(line: str, device: str) -> Says:
    """Whose memory a TensorFlow allocator hands out: its name says it, else its device's."""
    placed = _DEVICE.search(line)
    silent = "cpu" if ON_CPU.search(line) else ""
    name = (allocator([line]) or (placed.group(1) if placed else silent)).lower()
    on_host = "host" in name or ("cpu" in name and device != "cpu")
    return Says.HOST if on_host else Says.DEVICE


def _clean(text: str) -> str:
    text = _ANSI.sub("", text).replace("\r", "\n").replace("\\n", "\n")
    return NOISE.sub(" ", text)


def _lines(text: str) -> Iterator[str]:
    """The lines worth a look, printable, each once, in pieces of at most `MAX_LINE` characters."""
    seen: set[str] = set()
    for line in text.split("\n"):
        for start in range(0, max(1, len(line)), MAX_LINE - 300):
            piece = line[start : start + MAX_LINE]
            if piece not in seen and SUSPECT.search(piece):
                seen.add(piece)
                yield printable(piece).strip()
