"""What a search amounts to, in words: what limited the answer, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autobatch import leaks, protocol, throughput
from autobatch.endings import MEMORY, model_error
from autobatch.errors import AutobatchError, NothingFitsError, WorkerError
from autobatch.evidence import Evidence
from autobatch.records import LIMIT_OF, LimitedBy, LimitKind, Outcome, Trial
from autobatch.sizes import LARGEST
from autobatch.units import format_bytes

# Times that a sample takes at the answer: more than a busy machine makes of it. A GPU has its
# kernels to itself.
MUCH_SLOWER = {"cpu": 3.0, "gpu": 1.5}
LARGE_DATA = 0.2  # of the budget in use before the first step is worth a word
STEPS_THAT_TELL = 3  # of a trial, the first included, to say whether its memory rose
MANY_STEPS = 1_000_000  # a leak that takes longer than this is not worth a word


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a search could not go beyond, whatever the memory.

    Attributes:
        budget_bytes: What the training may use.
        samples: In the data set, where that bounds the answer.
        fixed_batch_size: Baked into the model's inputs.
        maximum: The user's own.
        total_timeout: Seconds, where they cut the search short.
    """

    budget_bytes: int
    samples: int | None = None
    fixed_batch_size: int | None = None
    maximum: int | None = None
    total_timeout: float | None = None


def limited_by(search: Evidence, size: int, bounds: Bounds) -> LimitedBy:
    """What keeps the answer `size` from being larger."""
    beyond = [t for t in search.trials if t.batch_size > size and not search.is_fit(t)]
    if beyond:
        return _stopped_by(min(beyond, key=lambda t: t.batch_size), search, size, bounds)
    if size == search.plan.space.last:
        if bounds.fixed_batch_size is not None:
            return LimitedBy(
                LimitKind.MODEL_ERROR, f"batch size {size} is baked into the model's inputs"
            )
        if bounds.samples is not None and bounds.samples <= (bounds.maximum or LARGEST):
            return LimitedBy(LimitKind.DATASET, f"the data set has {bounds.samples} samples")
        return LimitedBy(LimitKind.MAXIMUM, f"--max is {bounds.maximum}")
    model = search.model
    assert model is not None
    expected = max(size, search.estimate or 0)
    if bounds.total_timeout is not None and expected > size:
        return LimitedBy(
            LimitKind.TIMEOUT,
            f"--total-timeout ({bounds.total_timeout:g} s) left no time for larger sizes; about "
            f"{expected} is expected to fit",
        )
    more = expected + 1
    return LimitedBy(
        LimitKind.MEMORY,
        f"batch size {more} is expected to need {format_bytes(model.predict(more))} of "
        f"{_of_which(search, bounds)}",
    )


def _stopped_by(first: Trial, search: Evidence, size: int, bounds: Bounds) -> LimitedBy:
    """The limit that the smallest size too large was."""
    kind = LIMIT_OF.get(first.outcome, LimitKind.MEMORY)
    what = "its proof" if first.proof else "it"
    required = search.required_bytes(first)
    if first.outcome is Outcome.FITS and required is not None:
        why = f"{what} needs {format_bytes(required)} of {_of_which(search, bounds)}"
    else:
        why = f"{what} ended {first.outcome.replace('_', ' ')} ({first.why})"
    others = [t for t in search.trials if t.batch_size != size]
    smaller = any(t.batch_size < size for t in others)
    failed = all(t.outcome is Outcome.FAILED for t in others)
    if kind is LimitKind.MODEL_ERROR and smaller and failed:
        why += f"; no size but {size} could be trained: it seems baked into the model"
    return LimitedBy(kind, f"batch size {first.batch_size}: {why}")


def slower_beyond(search: Evidence, size: int, largest: int) -> LimitedBy:
    """Why the answer is not the largest safe size: that one is slower."""
    rates = throughput.proven_rates(search, {size, largest})
    return LimitedBy(
        LimitKind.THROUGHPUT,
        f"batch size {largest} is safe, too, and trains {rates[largest]:,.0f} samples a second; "
        f"{size} trains {rates[size]:,.0f}",
    )


def _of_which(search: Evidence, bounds: Bounds) -> str:
    kept = format_bytes(search.headroom_bytes)
    return f"{format_bytes(bounds.budget_bytes)}, of which {kept} are to stay free"


def nothing(
    search: Evidence, last: Trial, budget_bytes: int, failed: protocol.Failed | None
) -> AutobatchError:
    """Why there is no answer, as an error.

    Args:
        search: All that was tried.
        last: The trial that ended it.
        budget_bytes: What the training may use.
        failed: The last exception of a trial, if any.
    """
    trials = search.trials
    failing = [t for t in trials if t.outcome is Outcome.FAILED]
    size = min(t.batch_size for t in trials if t not in failing or len(failing) == len(trials))
    needs = [t.required_bytes for t in trials if t.batch_size == size and t.required_bytes]
    if last.outcome is Outcome.FAILED and failed is not None:
        return model_error(failed, "The model could not be trained", trials=trials)
    if last.outcome in (Outcome.FITS, Outcome.TOO_CLOSE, *MEMORY):
        needed = max(needs, default=None)
        at_least = f" It needs at least {format_bytes(needed)}" if needed else ""
        there = f"; there are {format_bytes(budget_bytes)}" if needed else ""
        less = search.headroom_bytes
        kept = f", less {format_bytes(less)} of headroom" if needed and less else ""
        host = " of the host" if last.outcome is Outcome.HOST_OUT_OF_MEMORY else ""
        why = f" ({last.why})" if last.why else ""
        smaller = ""
        if failing:
            smaller = f" Smaller ones fail for a reason of the model's own ({failing[-1].why})."
        return NothingFitsError(
            f"Even batch size {size} does not fit into the memory{host}{why}.{at_least}{there}"
            f"{kept}.{smaller} Raise --memory-limit if the device has more, or make the model or "
            "its inputs smaller (mixed precision, recomputation).",
            needed_bytes=needed,
            budget_bytes=budget_bytes,
        )
    return WorkerError(
        f"No batch size could be trained: at size {last.batch_size} the trial "
        f"{'hung' if last.outcome is Outcome.TIMED_OUT else 'died'} ({last.why}), and nothing "
        "says that it was for lack of memory. --verbose shows the worker's log.",
    )


def warnings(
    prepared: protocol.Prepared,
    budget_bytes: int,
    trials: Sequence[Trial],
    *,
    proof_steps: int,
    not_a_number: bool,
) -> tuple[str, ...]:
    """Sentences that the user should read beside the answer.

    Args:
        prepared: What the first worker said.
        budget_bytes: What the training may use.
        trials: All of them.
        proof_steps: Steps of a proof at its full size.
        not_a_number: The loss was no number in some step.
    """
    found = list(prepared.warnings)
    if prepared.resident_bytes > LARGE_DATA * budget_bytes:
        share = prepared.resident_bytes / budget_bytes
        found.append(
            f"Before the first step {format_bytes(prepared.resident_bytes)} are in use "
            f"({share:.0%} of the budget): the weights, and data that lies on the device."
        )
    if not_a_number:
        found.append(
            "The loss was not a number (NaN) in some trial step. That does not change the "
            "memory, but the training will not learn."
        )
    found += _leak(budget_bytes, trials, proof_steps)
    return tuple(found)


def slowdown(search: Evidence, size: int, kind: str) -> tuple[str, ...]:
    """Whether a sample takes much longer at the answer than at smaller sizes.

    So it goes where a convolution finds no room for its workspace and takes a slower algorithm,
    and where a driver spills into the host's memory (WSL, Windows), so that nothing ever fails.

    Args:
        search: All that was tried.
        size: The answer.
        kind: Of device, `cpu` or `gpu`.
    """
    rates = {t.batch_size: t.samples_per_second for t in search.trials if t.samples_per_second}
    proofs = [t.samples_per_second for t in search.trials if t.proof and t.batch_size == size]
    rate = next((each for each in reversed(proofs) if each), None)
    near = {b: each for b, each in rates.items() if size / 8 <= b < size and each}
    if rate is None or not near:
        return ()
    best = max(near, key=lambda each: near[each])
    times = near[best] / rate
    if times < MUCH_SLOWER[kind]:
        return ()
    return (
        f"A sample takes {times:.1f} times as long at batch size {size} as at {best}: near its "
        "limit the device may use slower algorithms, or the driver the host's memory (under WSL "
        "it does, so that nothing fails). If speed matters more than size, probe with --prefer "
        f"throughput, or with --max {best}.",
    )


def _leak(budget_bytes: int, trials: Sequence[Trial], proof_steps: int) -> list[str]:
    """The smallest size at which memory grew with each step, where most other trials agree."""
    by_size = sorted(trials, key=lambda t: t.batch_size)
    # After a proof's whole batches come a smaller one and others.
    steps = [t.step_peak_bytes[: proof_steps if t.proof else None] for t in by_size]
    told = [leaks.rises(peaks) for peaks in steps if len(peaks) >= STEPS_THAT_TELL and any(peaks)]
    if 2 * sum(told) <= len(told):
        return []  # near the limit peaks scatter, and in one trial they may rise by chance
    for trial, peaks in zip(by_size, steps, strict=True):
        rate = leaks.growth_per_step(peaks)
        if rate is None:
            continue
        left = (budget_bytes - peaks[-1]) // rate
        if left < MANY_STEPS:
            return [
                f"At batch size {trial.batch_size} memory grew with each step, by about "
                f"{format_bytes(rate)}: a leak. Something keeps tensors of earlier steps, such as "
                "a list that grows. At that rate the budget is used up after about "
                f"{max(0, left) + len(peaks)} steps, whatever the batch size."
            ]
    return []
