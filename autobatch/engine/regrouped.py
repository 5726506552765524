"""Batches of another size out of what gives batches: the same rows in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np


class RegroupedDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """A `PyDataset`'s rows in batches of another size.

    Args:
        source: The user's, of known length; all of its batches but the last have the same size.
        own: That size.
        size: The size wanted.
    """

    def __init__(self, source: Any, own: int, size: int) -> None:
        settings = {"workers": 1, "use_multiprocessing": False, "max_queue_size": 10}
        super().__init__(**{name: getattr(source, name, d) for name, d in settings.items()})
        self._source, self._own, self._size = source, own, size
        last = source.num_batches - 1
        self._rows = last * own + rows(arrays(source[last]))

    @property
    def num_batches(self) -> int:
        return int(-(-self._rows // self._size))

    def __getitem__(self, index: int) -> Any:
        start = index * self._size
        end = min(start + self._size, self._rows)
        first = start // self._own
        parts = [arrays(self._source[i]) for i in range(first, (end - 1) // self._own + 1)]
        if any(rows(part) != self._own for part in parts[:-1]):
            raise ValueError(
                "autobatch run: the batches of the script's PyDataset are not of one size, so they "
                "cannot be put together into larger ones. Set the batch size in the script."
            )
        start, end = start - first * self._own, end - first * self._own
        whole = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)
        return keras.tree.map_structure(lambda leaf: leaf[start:end], whole)

    def on_epoch_begin(self) -> None:
        self._source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._source.on_epoch_end()


def regrouped(source: Iterable[Any], size: int) -> Iterator[Any]:
    """What an iterable of batches gives, in batches of another size; the last may be smaller."""
    parts: list[Any] = []
    have = 0
    for batch in source:
        parts.append(arrays(batch))
        have += rows(parts[-1])
        while have >= size:
            whole = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)
            yield keras.tree.map_structure(lambda leaf: leaf[:size], whole)
            parts = [keras.tree.map_structure(lambda leaf: leaf[size:], whole)]
            have -= size
    if have:
        yield keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def arrays(batch: Any) -> Any:
    """The batch with arrays for leaves, as a tuple where it was a list: Keras tells them apart."""
    batch = tuple(batch) if isinstance(batch, list) else batch
    return keras.tree.map_structure(np.asarray, batch)


def rows(batch: Any) -> int:
    """Samples in a batch."""
    return int(keras.tree.flatten(batch)[0].shape[0])
