"""The search over the caller's own step: any framework, any training loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

from autobatch.calls import OwnCalls
from autobatch.errors import UsageError
from autobatch.own_options import Options
from autobatch.own_search import OwnSearch
from autobatch.records import SearchResult

_P = ParamSpec("_P")
_T = TypeVar("_T")


def search(try_batch: Callable[[int], Any], *, max_batch_size: int, **options: Any) -> SearchResult:
    """Find the largest batch size at which the caller's own step goes through.

    The sizes grow from below. Where one runs out of memory, the search closes in by bisection.
    Where `try_batch` returns its peak and `memory_limit` says what there is, a memory model
    foresees the limit instead, and most searches see no out-of-memory error at all: on TensorFlow
    each of those costs 10 s.

    Out-of-memory errors of TensorFlow, PyTorch, JAX, CuPy and Python (`MemoryError`) are known by
    their class names and texts. Any other error is the caller's own: it is raised as it is, unless
    a smaller size went through before; then it bounds the answer (`limited_by`).

    Args:
        try_batch: Runs a few steps at the batch size it is given, with everything that fills the
            memory in training: forward, backward, the optimizer with its slots. It may return the
            most bytes that were in use. Asynchronous devices must be synchronized in it.
        max_batch_size: The largest size to consider, such as that of the data set.
        **options: Of these.
            min_batch_size: The smallest size to consider. Defaults to 1.
            start: The size to try first. Defaults to the smallest.
            multiple_of, power_of_two: Which sizes are allowed. Default to 1 and False.
            precision: Share of the answer that may be left on the table; 0 for the exact size.
                Defaults to 0.02.
            memory_limit: What the steps may use, in bytes or as `'6GiB'`; `try_batch` must then
                return its peak. Defaults to None: until the memory is full.
            headroom: Least share (`'5%'`) or bytes of `memory_limit` to keep free at the peak.
                Defaults to 6 %: a peak does not tell how far the memory is fragmented.
            isolated: Run `try_batch` in a worker process (sent with cloudpickle), which may crash
                or hang; the answer is proven in a fresh one. Defaults to False.
            timeout: Seconds that a call may take; only with `isolated`. Defaults to 300.
            total_timeout: Seconds the search may take: after half of them it settles for what
                fits. Calls in this process cannot be cut short. Defaults to 3600.
            observer: Told each event (`autobatch.events`). Defaults to nobody.

    Returns:
        The answer. `batch_size` was run and went through, last of all (`proof.kind` is `caller`).

    Raises:
        UsageError: An argument makes no sense, or `try_batch` returned what is no peak.
        NothingFitsError: Even the smallest size ran out of memory.
        ModelError: With `isolated`: `try_batch` raised an error of its own.
        WorkerError: With `isolated`: it died or hung at every size.
        ProbeInterrupted: Ctrl-C.

    Example:
        def try_batch(batch_size):
            model, optimizer = build()
            for _ in range(3):
                train_step(model, optimizer, make_batch(batch_size))

        result = autobatch.search(try_batch, max_batch_size=65536)
        print(result.batch_size, result.limited_by.kind)
    """
    if not callable(try_batch):
        raise UsageError(
            f"try_batch must be a function of a batch size; received {type(try_batch).__name__}."
        )
    run = OwnSearch(_options(max_batch_size=max_batch_size, **options))
    with run.calls_of(try_batch) as calls:
        return run.run(calls, calls)


class LargestBatch(Generic[_P, _T]):
    """A function that finds its own batch size. Made by `largest_batch`.

    Attributes:
        result: The last search's `SearchResult`; None before the first call.
    """

    def __init__(
        self,
        function: Callable[..., _T],
        options: Options,
        try_batch: Callable[..., Any] | None,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function, self._options, self._try = function, options, try_batch
        self.result: SearchResult | None = None

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Find the size, and return what the function returned at it."""
        for each in (self._function, self._try):
            if each is not None:
                _check_call(each, args, kwargs)

        function, steps = self._function, self._try

        def call(batch_size: int) -> _T:
            return function(batch_size, *args, **kwargs)

        run = OwnSearch(self._options)
        if steps is None:
            own = OwnCalls(call, measures=False)
            self.result = run.run(own, own)
        else:

            def trial(batch_size: int) -> Any:
                return steps(batch_size, *args, **kwargs)

            own = OwnCalls(call, measures=False, strict=True)
            with run.calls_of(trial) as calls:
                self.result = run.run(calls, own)
        return cast(_T, own.value)


def largest_batch(
    *,
    start: int | None = None,
    max_batch_size: int | None = None,
    try_batch: Callable[..., Any] | None = None,
    **options: Any,
) -> Callable[[Callable[..., _T]], LargestBatch[..., _T]]:
    """Have a function called with the largest batch size at which it goes through.

    The function's first argument is the batch size; it is called without it, and what it returns
    is handed through. It is called several times, at growing sizes, and the call whose result is
    returned is the last one: so it must begin anew each time (build its model inside). Where it is
    a whole training, give `try_batch` with a few of its steps: the search then runs that, and the
    function once, at the answer; if even so it runs out of memory, at the next smaller ones.

    The function's own errors are raised as they are: always with `try_batch`, else unless a
    smaller size went through before.

    Args:
        start: The size to try first: the search goes up from there, and from below if it fails.
            Defaults to the smallest.
        max_batch_size: The largest size to consider. Defaults to `start`.
        try_batch: A few steps of the function, with the same arguments; it may return peak bytes.
            Defaults to the function itself.
        **options: Those of `autobatch.search`; `memory_limit` and `isolated` are for `try_batch`.

    Raises:
        UsageError: An argument makes no sense.

    Example:
        @autobatch.largest_batch(start=64, max_batch_size=4096)
        def train(batch_size, epochs):
            ...

        history = train(epochs=3)
        print(train.result.batch_size)
    """
    if max_batch_size is None and start is None:
        raise UsageError("largest_batch needs max_batch_size or start; received neither.")
    limit = cast(int, start if max_batch_size is None else max_batch_size)
    made = _options(max_batch_size=limit, start=start, **options)
    if try_batch is None and (made.isolated or made.memory_limit is not None):
        raise UsageError(
            "isolated and memory_limit need try_batch, a function of a few steps: what the "
            "decorated function returns is handed through, and is no peak."
        )

    def decorate(function: Callable[..., _T]) -> LargestBatch[..., _T]:
        if not callable(function):
            raise UsageError(
                "largest_batch decorates a function whose first argument is the batch size; "
                f"received {type(function).__name__}."
            )
        return LargestBatch(function, made, try_batch)

    return decorate


def _options(**options: Any) -> Options:
    known = Options.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"Unknown option {unknown[0]!r}; there are {', '.join(known)}.")
    made = Options(**options)
    made.plan()
    return made


def _check_call(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Say what is wrong with a call before it is made many times.

    Raises:
        UsageError: The arguments do not fit behind a batch size.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function written in C
        return
    try:
        signature.bind(1, *args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__name__", "the function")
        raise UsageError(
            f"{name}{signature} cannot be called with a batch size before the arguments given "
            f"({error}). Leave the batch size out of the call: largest_batch puts it first."
        ) from error
