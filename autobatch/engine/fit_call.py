"""The call of `fit` that a callback is in: what it was given, and how long its epochs are.

Keras tells a callback its model and the number of steps, but not the data, and it has counted the
steps by then. Both are in the local variables of the `fit` that waits for the callback; where they
have moved, a finder still works, only Keras does not know how long an epoch is.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FitCall:
    """A `fit` that is about to train.

    Attributes:
        iterator: Keras's iterator over its epochs.
        callbacks: All that were given, Keras's own among them.
    """

    iterator: Any
    callbacks: tuple[Any, ...]

    @property
    def dataset(self) -> Any:
        """The `tf.data.Dataset` that is trained on; None where it is none."""
        return getattr(self.iterator.data_adapter, "_dataset", None)

    @property
    def has_own_steps(self) -> bool:
        """The user said how many steps an epoch has."""
        return bool(self.iterator.steps_per_epoch)

    def set_steps(self, count: int) -> None:
        """Have Keras's loop end after so many batches, without having to run out of data."""
        self.iterator._num_batches = count


def find(model: Any) -> FitCall | None:
    """The `fit` of this model that calls us; None outside of one."""
    if model is None:
        return None
    callbacks: tuple[Any, ...] = ()
    frame = sys._getframe()
    while frame is not None:
        names = frame.f_locals
        owner: Any = names.get("self")
        if type(owner).__name__ == "CallbackList":
            callbacks = tuple(owner.callbacks)
        if owner is model and frame.f_code.co_name == "fit":
            for value in names.values():
                if any(kind.__name__ == "EpochIterator" for kind in type(value).__mro__):
                    return FitCall(value, callbacks)
        frame = frame.f_back  # type: ignore[assignment]
    return None
