"""Answers of earlier probes, by what they depend on. One file a key, in the user's own folder.

An entry is one line as in a journal (`journal.line`): damaged, it is no entry. It holds no more
than the probe's trials and the size that was proven; whoever asks again proves the size again.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from autobatch import journal, storage
from autobatch.errors import StorageError
from autobatch.records import Outcome, Trial
from autobatch.signature import Key

VERSION = 1
MAX_ENTRY_BYTES = journal.MAX_LINE_BYTES
MAX_ENTRIES = 1000  # beyond it the oldest go
LATEST = 1e11  # seconds since 1970: a time that a calendar can show


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer.

    Attributes:
        result: The version of this form.
        target: What was probed, as the user called it.
        model: The model's name and size in a few words.
        device: What a person calls the device.
        when: Seconds since 1970 at which it was found.
        key: What it depends on.
        batch_size: The size that was proven.
        trials: Everything tried, the proof included.
    """

    result: int = VERSION
    target: str
    model: str
    device: str
    when: float
    key: Key
    batch_size: int
    trials: tuple[Trial, ...]

    @property
    def sound(self) -> bool:
        """Whether it is what we would write: of our version, with a proof of its size."""
        return (
            self.result == VERSION
            and 0 <= self.when < LATEST
            and any(
                t.proof and t.outcome is Outcome.FITS and t.batch_size == self.batch_size
                for t in self.trials
            )
        )


_decode = msgspec.json.Decoder(Entry).decode


@dataclass(frozen=True, slots=True)
class Cache:
    """The results in one folder.

    Args:
        folder: Of this user alone; `open_cache` sees to that.
    """

    folder: Path

    def path(self, key: Key) -> Path:
        """Where the key's entry lies, if there is one."""
        return self.folder / f"{key.digest()}.json"

    def find(self, key: Key) -> Entry | None:
        """The entry with this key; None where there is none.

        Raises:
            StorageError: There is a file, but it is damaged or cannot be read.
        """
        try:
            entry = parse(storage.read_bounded(self.path(key), MAX_ENTRY_BYTES), self.path(key))
        except FileNotFoundError:
            return None
        return entry if entry.key == key else None

    def store(self, entry: Entry) -> None:
        """Keep an entry; the oldest beyond MAX_ENTRIES go.

        Raises:
            StorageError: It cannot be written.
        """
        data = journal.line(entry)
        if len(data) > MAX_ENTRY_BYTES:
            raise StorageError(f"The result takes {len(data)} bytes, too many for the cache.")
        storage.write_whole(self.path(entry.key), data)
        for path in self._paths()[:-MAX_ENTRIES]:
            _remove(path)

    def drop(self, key: Key) -> None:
        """Forget the key's entry."""
        _remove(self.path(key))

    def entries(self) -> tuple[list[Entry], list[StorageError]]:
        """All entries, the oldest first, and what is wrong with those that cannot be read."""
        found: list[Entry] = []
        damaged: list[StorageError] = []
        for path in self._paths():
            try:
                found.append(parse(storage.read_bounded(path, MAX_ENTRY_BYTES), path))
            except FileNotFoundError:  # another process was faster
                continue
            except StorageError as error:
                damaged.append(error)
        return sorted(found, key=lambda entry: entry.when), damaged

    def clear(self) -> int:
        """Forget everything; returns how many entries there were."""
        return sum(map(_remove, self._paths()))

    def _paths(self) -> list[Path]:
        """Files of entries, the oldest first."""
        ages = {}
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                ages[path] = path.stat().st_mtime
        return sorted(ages, key=lambda path: ages[path])


def open_cache() -> Cache:
    """The user's cache.

    Raises:
        StorageError: Its folder cannot be used.
    """
    root = storage.private_folder(storage.cache_folder())
    return Cache(storage.private_folder(root / "results"))


def parse(data: bytes, path: Path) -> Entry:
    """The entry that a file holds.

    Raises:
        StorageError: These bytes are no entry of ours.
    """
    try:
        entry = _decode(journal.unwrap(data))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        raise StorageError(
            f"The cached result {path} is damaged; autobatch cache clear removes it."
        ) from error
    if not entry.sound:
        raise StorageError(f"The cached result {path} is none of this version of autobatch.")
    return entry


def now() -> float:
    """Seconds since 1970."""
    return round(time.time(), 3)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
