"""One call of a function of the user's, in this process, as a trial: whatever it raises.

An out-of-memory error of TensorFlow, PyTorch, JAX, CuPy or Python itself is known by its class
name and its text; no framework is imported. Afterwards nothing of ours keeps what the call had
allocated alive.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from autobatch import endings, oom
from autobatch.engine import failures
from autobatch.errors import AutobatchError, UsageError
from autobatch.protocol import Failed
from autobatch.records import Outcome, Trial


class OwnCalls:
    """Calls a function here, one batch size after the other.

    Args:
        function: Takes a batch size.
        measures: What it returns are peak bytes, or None.
        strict: Raise its own errors whatever sizes went well before.

    Attributes:
        value: What the last call returned; None where it raised, or measures.
        failed: The last error of its own, told in plain values.
        fresh: The last call was one that training would be like, too: here all are.
    """

    fresh = True

    def __init__(
        self, function: Callable[[int], Any], *, measures: bool, strict: bool = False
    ) -> None:
        self._function, self._measures, self._strict = function, measures, strict
        self.value: Any = None
        self.failed: Failed | None = None
        self.passed = 0  # the largest size that went well

    def __enter__(self) -> OwnCalls:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rest(self) -> None:
        """Give back what is held between calls."""
        free_memory()

    def __call__(self, batch_size: int, *, proof: bool = False) -> Trial:
        """Run one trial.

        Raises:
            Exception: The function's own, where no size went well before.
        """
        self.value = None
        free_memory()
        peak = None
        try:
            value = self._function(batch_size)
            if self._measures:
                peak = peak_bytes(value)
            else:
                self.value = value
        except AutobatchError:
            raise
        except Exception as error:
            told = failures.describe(error, phase="calling")
            found = diagnose(told, smaller_size_passed=0 < self.passed < batch_size)
            if found.outcome not in endings.MEMORY:
                if self._strict or not self.passed:
                    raise
                self.failed = told
            _let_go(error)
        else:
            self.passed = max(self.passed, batch_size)
            return Trial(batch_size=batch_size, outcome=Outcome.FITS, peak_bytes=peak, proof=proof)
        free_memory()
        return Trial(batch_size=batch_size, outcome=found.outcome, why=found.told, proof=proof)


def diagnose(failed: Failed, *, log: str = "", smaller_size_passed: bool = False) -> oom.Diagnosis:
    """What an exception of the user's function means."""
    return endings.End(
        phase=failed.phase,
        device=device_kind(),
        log=log,
        failed=failed,
        smaller_size_passed=smaller_size_passed,
    ).diagnosis


def device_kind() -> str:
    """`cpu` where TensorFlow's GPU allocator serves the CPU here (the emulated device)."""
    emulated = os.environ.get("TF_CPU_ALLOCATOR_USE_BFC", "").lower() in ("1", "true")
    return "cpu" if emulated else "gpu"


def peak_bytes(value: Any) -> int | None:
    """What `try_batch` returned, as the peak that it stands for.

    Raises:
        UsageError: It is neither a whole number nor None.
    """
    if value is None:
        return None
    with contextlib.suppress(TypeError):
        peak = operator.index(value)
        if peak >= 0 and not isinstance(value, bool):
            return peak
    raise UsageError(
        "try_batch must return the most bytes that were in use, as a whole number, or None; "
        f"received {value!r:.80}. To have a result handed through, decorate the function with "
        "@autobatch.largest_batch."
    )


def free_memory() -> None:
    """Collect what nobody refers to any more, and have caching allocators give it back."""
    gc.collect()
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    for name in ("cuda", "xpu", "mps"):
        with contextlib.suppress(Exception):  # of a back end that is not there
            getattr(torch, name).empty_cache()
    if cupy is not None:
        with contextlib.suppress(Exception):
            cupy.get_default_memory_pool().free_all_blocks()


def _let_go(error: BaseException) -> None:
    """Empty the frames that an exception holds: their variables are what filled the memory."""
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
    error.__context__ = error.__cause__ = None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
