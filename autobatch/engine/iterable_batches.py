"""Batches that come from Python: a `PyDataset`, a generator, anything that gives them in turn."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from autobatch.errors import ModelError

UNEQUAL = "The training data comes in batches of unequal shapes"
SCAN_SECONDS = 5.0  # at most, to look for the longest batch
MOST_VIEWS = 4  # of a sample in a batch


class IterableBatches:
    """Its rows are cut into batches of the size asked for.

    What a source that can be read only once gave is kept, up to one batch of the largest size
    asked for, and given again when it has no more.

    Args:
        source: What gives batches.
        class_weight: As `fit` takes it.
        lengths_vary: Nothing says that all batches have one shape, so it is looked at.
        input_ranks: Dimensions of each of the model's inputs, the batch's included; empty where
            the model does not say.
    """

    def __init__(
        self,
        source: Any,
        class_weight: dict[int, float] | None = None,
        *,
        lengths_vary: bool = False,
        input_ranks: tuple[int, ...] = (),
    ) -> None:
        self.static = False
        self.device_bytes = 0
        self.held_bytes: tuple[int, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self._class_weight = class_weight
        self._source, self._length = source, length(source)
        self._lock = threading.Lock()  # a trial before may still be read ahead by TensorFlow
        self._stock: list[Any] = []
        self._longest: Any = None
        origin = self._endless()
        given = _arrays(next(origin, None))
        if given is None:
            raise ModelError("The training data gives no batch at all.")
        self._views = _views(given, input_ranks)
        first = self._rows_first(given)
        self._stock.append(first)
        self._origin: Iterator[Any] = itertools.chain([first], map(self._read, origin))
        self.batch_size: int | None = _rows(first)
        self.samples = self._count(_rows(first))
        if self._views:
            self.warnings += (
                f"A batch of the training data has one dimension more than the model's input: it "
                f"was taken for {self._views} views of {_rows(first)} samples, and the number of "
                "samples for the batch size.",
            )
        if lengths_vary:
            self._find_longest(first)

    def fit_arguments(self, batch_size: int, *, static: bool = False) -> dict[str, Any]:
        arguments: dict[str, Any] = {"x": _Endless(self._batches(batch_size))}
        if self._class_weight is not None:
            arguments["class_weight"] = self._class_weight
        return arguments

    def validation_arguments(self, batch_size: int) -> dict[str, Any]:
        return {"validation_data": _Endless(self._batches(batch_size)), "validation_steps": 2}

    # -- the source --------------------------------------------------------------------------

    @property
    def _indexed(self) -> bool:
        return hasattr(self._source, "__getitem__") and self._length is not None

    def _count(self, rows: int) -> int | None:
        """Samples in an epoch; the last batch may be smaller than the first."""
        if self._length is None:
            return None
        last = rows
        if self._indexed and self._length > 1:
            last = _rows(self._read(self._source[self._length - 1]))
        return (self._length - 1) * rows + last

    def _endless(self) -> Iterator[Any]:
        while True:
            epoch: Iterable[Any] = self._source
            if self._indexed:
                epoch = (self._source[i] for i in range(self._length or 0))
            elif not hasattr(self._source, "__iter__"):  # a PyDataset without end
                epoch = (self._source[i] for i in itertools.count())
            count = 0
            for batch in epoch:
                count += 1
                yield batch
            if count == 0:
                return  # a generator that has been read to its end

    def _read(self, batch: Any) -> Any:
        return self._rows_first(_arrays(batch))

    def _rows_first(self, batch: Any) -> Any:
        """The batch with its samples in the first dimension; done twice, it is as it was."""
        if not self._views:
            return batch
        swapped = _map(lambda leaf: np.swapaxes(leaf, 0, 1), _inputs(batch))
        return (swapped, *batch[1:]) if isinstance(batch, tuple) else swapped

    def _next(self, wanted: int) -> Any:
        with self._lock:
            batch = next(self._origin, None)
            if batch is None:
                self._origin = iter(list(self._stock))
                batch = next(self._origin)
            if not self._indexed and sum(map(_rows, self._stock)) < wanted:
                self._stock.append(batch)
            return batch

    def _find_longest(self, first: Any) -> None:
        """Look through an epoch, for a limited time, for batches of another shape."""
        started, longest = time.monotonic(), first
        shapes = {_shapes(first)}
        for _ in range((self._length or 1000) - 1):
            if time.monotonic() - started > SCAN_SECONDS:
                break
            batch = self._next(0)
            shapes.add(_shapes(batch))
            if _weight(batch) > _weight(longest):
                longest = batch
        if len(shapes) > 1:
            self._longest = longest
            self.warnings += (unequal_shapes(describe_shapes(_shapes(longest))),)

    # -- batches of another size -------------------------------------------------------------

    def _batches(self, batch_size: int) -> Iterator[Any]:
        if self._longest is not None:
            rows = np.arange(batch_size) % _rows(self._longest)
            while True:
                yield self._rows_first(_map(lambda leaf: leaf[rows], self._longest))
        parts: list[Any] = []
        have = 0
        while True:
            batch = self._next(batch_size)
            parts.append(batch)
            have += _rows(batch)
            while have >= batch_size:
                whole = _map(lambda *leaves: np.concatenate(leaves), *parts)
                yield self._rows_first(_map(lambda leaf: leaf[:batch_size], whole))
                rest = _map(lambda leaf: leaf[batch_size:], whole)
                have -= batch_size
                parts = [rest] if have else []


class _Endless(keras.utils.PyDataset):  # type: ignore[misc]
    """Unlike a bare generator, Keras lets it have class weights."""

    def __init__(self, batches: Iterator[Any]) -> None:
        super().__init__()
        self._batches = batches
        self._lock = threading.Lock()

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index: int) -> Any:
        with self._lock:
            return next(self._batches)


def unequal_shapes(described: str) -> str:
    """What to say of training data whose batches differ in more than their size."""
    return (
        f"{UNEQUAL} (grouped or padded by length). It "
        f"was probed at the longest that was seen ({described}): shorter batches could be larger, "
        "and a size for each length, as autobatch buckets finds them, would use the memory better."
    )


def describe_shapes(shapes: Iterable[tuple[Any, ...]]) -> str:
    """Shapes of one sample in words."""
    listed = ", ".join("x".join(map(str, shape)) for shape in shapes if shape)
    return f"a sample's shape: {listed}"


def length(source: Any) -> int | None:
    """Batches in an epoch; None for a source without an end, or that does not say."""
    try:
        count = getattr(source, "num_batches", None)  # of a PyDataset; None for one without end
    except NotImplementedError:
        count = None
    if count is None and not isinstance(source, keras.utils.PyDataset):
        count = len(source) if hasattr(source, "__len__") else None
    return None if count is None else int(count)


def _map(function: Callable[..., Any], *batches: Any) -> Any:
    def apply(*leaves: Any) -> Any:
        return None if leaves[0] is None else function(*leaves)

    return keras.tree.map_structure(apply, *batches)


def _arrays(batch: Any) -> Any:
    return None if batch is None else _map(np.asarray, batch)


def _leaves(batch: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple) else batch


def _views(batch: Any, input_ranks: tuple[int, ...]) -> int:
    """How many views of each sample a batch stacks in its first dimension; 0 for none.

    A training step of the user's takes them apart: anchors and positives, two augmentations.
    """
    leaves = _leaves(_inputs(batch))
    if not input_ranks or [leaf.ndim - 1 for leaf in leaves] != list(input_ranks):
        return 0
    views, samples = leaves[0].shape[:2]
    return views if views <= MOST_VIEWS and views < samples else 0


def _rows(batch: Any) -> int:
    return len(_leaves(batch)[0])


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(leaf.shape[1:]) for leaf in _leaves(batch))


def _weight(batch: Any) -> float:
    return sum(float(leaf.size) / max(1, len(leaf)) for leaf in _leaves(batch))
