"""The trials of a probe, each on disk as soon as it ends, so that a killed probe loses none.

A journal is a text file of JSON lines. Each is `[CHECK, BODY]`, where CHECK is the CRC-32 of the
body's bytes in hexadecimal. The first body is the header, `{"journal": 1, "target": ..., "key":
{...}}`; each of the others is a trial as in a result. A probe that is killed while it writes leaves
a line that is cut off or does not check: the reader takes all before it and says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from autobatch import records
from autobatch.errors import StorageError, UsageError
from autobatch.records import Trial
from autobatch.signature import Key
from autobatch.storage import FILE_MODE

VERSION = 1
MAX_BYTES = 1 << 24  # of a journal; a trial takes a few hundred
MAX_LINE_BYTES = 1 << 20
MAX_TRIALS = 10_000


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the trials below it are trials of."""

    journal: int = VERSION
    target: str
    key: Key


@dataclass(frozen=True, slots=True)
class Recorded:
    """What could be read of a journal.

    Attributes:
        header: None where not even that could be read.
        trials: Up to the first that could not be.
        ends: Where the header ends, and each trial, in bytes; a writer goes on there.
        damage: What is wrong with the rest, in a few words; empty where there is none.
    """

    header: Header | None
    trials: tuple[Trial, ...] = ()
    ends: tuple[int, ...] = ()
    damage: str = ""


_decode_line = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_trial = msgspec.json.Decoder(Trial).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError)


def line(value: Any) -> bytes:
    """A header or a trial as the journal's line."""
    body = records.encode(value)
    return b'["%08x",%s]\n' % (zlib.crc32(body), body)


def unwrap(text: bytes) -> msgspec.Raw:
    """A line's body, checked.

    Raises:
        ValueError: It is no line, or was changed.
    """
    if len(text) > MAX_LINE_BYTES:
        raise ValueError("too long")
    try:
        check, body = _decode_line(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError("no JSON of ours") from error
    if check != f"{zlib.crc32(bytes(body)):08x}":
        raise ValueError("its check sum is another")
    return body


def parse(data: bytes) -> Recorded:
    """All that can be read of a journal. Takes any bytes and raises nothing."""
    header: Header | None = None
    trials: list[Trial] = []
    ends: list[int] = []
    at = 0

    def until(damage: str) -> Recorded:
        return Recorded(header, tuple(trials), tuple(ends), damage)

    while at < len(data):
        end = data.find(b"\n", at) + 1
        if not end:
            return until("its last line is cut off")
        try:
            body = unwrap(data[at:end])
            if header is None:
                told = _decode_header(body)
                if told.journal != VERSION:
                    raise ValueError(f"its version is {told.journal}")
                header = told
            elif len(trials) < MAX_TRIALS:
                trials.append(_decode_trial(body))
            else:
                raise ValueError("too many trials")
        except _UNREADABLE as error:
            said = str(error) if type(error) is ValueError else "no JSON of ours"
            return until(f"its line {len(ends) + 1} is damaged ({said})")
        at = end
        ends.append(at)
    return until("")


class Journal:
    """A journal that is being written: locked, so that two probes never share one.

    Args:
        path: The file; made where there is none, with its owner's access alone.
        ours: It lies in our own folder: whatever it holds may be overwritten.

    Attributes:
        recorded: What it held when it was opened.

    Raises:
        UsageError: The file is no journal, or another probe writes it now.
        StorageError: It cannot be opened.
    """

    def __init__(self, path: Path, *, ours: bool = False) -> None:
        self.path = path
        self._fd = _open_locked(path)
        try:
            data = os.pread(self._fd, MAX_BYTES + 1, 0)
        except OSError as error:
            self.close()
            raise self._full(error) from error
        if not (ours or _may_be_ours(data)):
            self.close()
            raise UsageError(
                f"{self.path} holds something else than a journal, and is left as it is. Name "
                "another file with --journal."
            )
        self.recorded = parse(data[:MAX_BYTES])

    def resume(self, trials: int) -> None:
        """Go on behind so many of the recorded trials; what is behind them goes.

        Raises:
            StorageError: The file takes no change.
        """
        self._cut(self.recorded.ends[trials])

    def begin(self, header: Header) -> None:
        """Start anew: the header, and no trials.

        Raises:
            StorageError: The file takes no more.
        """
        self._cut(0)
        self._append(line(header))

    def add(self, trial: Trial) -> None:
        """Have the trial on disk before anything else happens.

        Raises:
            StorageError: The file takes no more; what is in it can still be read.
        """
        self._append(line(trial))

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; another probe may take it.

        Args:
            remove: Delete it; one that holds nothing goes in any case.
        """
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if remove or os.fstat(self._fd).st_size == 0:
                self.path.unlink()
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1

    def _cut(self, length: int) -> None:
        try:
            os.ftruncate(self._fd, length)
            os.lseek(self._fd, 0, os.SEEK_END)
            os.fsync(self._fd)
        except OSError as error:
            raise self._full(error) from error

    def _append(self, data: bytes) -> None:
        before = os.lseek(self._fd, 0, os.SEEK_CUR)
        if len(data) > MAX_LINE_BYTES or before + len(data) > MAX_BYTES:
            raise StorageError(f"The journal {self.path} is full: {MAX_BYTES} bytes are the most.")
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line is of no use
                os.ftruncate(self._fd, before)
                os.lseek(self._fd, before, os.SEEK_SET)
            raise self._full(error) from error

    def _full(self, error: OSError) -> StorageError:
        return StorageError(f"The journal {self.path} takes no more ({error.strerror}).")


def _open_locked(path: Path) -> int:
    """The file, which is this probe's alone from now on."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK  # a pipe would be waited for
    while True:
        try:
            fd = os.open(path, flags, FILE_MODE)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise StorageError(f"The journal {path} cannot be opened ({why}).") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"{path} is no regular file; name another one with --journal.")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
        except OSError as error:
            os.close(fd)
            raise UsageError(
                f"Another probe is writing the journal {path} now. Wait for it, or name another "
                "file with --journal."
            ) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its owner has just removed it


def _may_be_ours(data: bytes) -> bool:
    """Whether this may be a journal, or the beginning of one."""
    start = ["[", '"', *["0123456789abcdef"] * 8, '"', ",", "{"]
    return all(chr(byte) in allowed for byte, allowed in zip(data, start, strict=False))
