"""What became of a worker, in words and values: an end becomes a `Trial` or an error. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from autobatch import device_faults, oom, protocol
from autobatch.errors import (
    AutobatchError,
    DeviceError,
    ModelError,
    NoGpuError,
    NothingFitsError,
    UsageError,
    WorkerError,
)
from autobatch.records import Outcome, Trial
from autobatch.units import format_bytes

MEMORY = (Outcome.OUT_OF_MEMORY, Outcome.HOST_OUT_OF_MEMORY)
_OURS = (UsageError, NoGpuError, DeviceError, ModelError)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a worker's work ended, and what is known of it.

    Attributes:
        phase: What it was doing.
        device: Kind of device, `cpu` or `gpu`.
        log: The end of what it wrote.
        failed: The exception that it told; None where it died, or gave no answer.
        exit_status: What it died with; None where it did not.
        silent_seconds: How long it was waited for in vain; None where it answered or died.
        nonsense: What was wrong with what it wrote instead of an answer.
        limit_bytes: What the device's allocator could hand out; None if unknown.
        smaller_size_passed: A smaller batch size ran well before.
        host_oom_kills: Kills by the kernel's out-of-memory killer meanwhile.
    """

    phase: str
    device: str
    log: str = ""
    failed: protocol.Failed | None = None
    exit_status: int | None = None
    silent_seconds: float | None = None
    nonsense: str = ""
    limit_bytes: int | None = None
    smaller_size_passed: bool = False
    host_oom_kills: int = 0

    @property
    def diagnosis(self) -> oom.Diagnosis:
        """What ended it."""
        if self.silent_seconds is not None:
            why = f"no answer within {self.silent_seconds:g} s; it was in phase {self.phase}"
            return oom.Diagnosis(outcome=Outcome.TIMED_OUT, why=why, certainty="certain")
        if self.nonsense:
            why = f"{self.nonsense} It was in phase {self.phase}"
            return oom.Diagnosis(outcome=Outcome.CRASHED, why=why, certainty="certain")
        failed = self.failed
        return oom.diagnose(
            oom.Evidence(
                exception_types=failed.exception_types if failed else (),
                message=failed.message if failed else "",
                causes=failed.causes if failed else (),
                log=self.log,
                exit_status=self.exit_status,
                phase=failed.phase if failed else self.phase,
                device=self.device,
                device_free_bytes=failed.free_bytes if failed else None,
                device_limit_bytes=self.limit_bytes,
                smaller_size_passed=self.smaller_size_passed,
                host_oom_kills=self.host_oom_kills,
            )
        )


def device_fault(end: End) -> DeviceError | None:
    """What the end says of the GPU itself; None where that is not what failed."""
    if end.device != "gpu":
        return None
    told = () if end.failed is None else (end.failed.message, *(c[1] for c in end.failed.causes))
    died = end.exit_status is not None
    found = device_faults.find((*told, end.log) if died else told)
    if found is None:
        return None
    return DeviceError(f"The GPU failed while {doing(end.phase)}: {found}.")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a trial ended.

    Attributes:
        trial: For the search.
        answer: What whoever ran it said at its end; None if nothing.
        reusable: The process can be used for another trial.
        step: The training step that it had begun, counted from 1; 0 before the first.
    """

    trial: Trial
    answer: protocol.TrialDone | protocol.Failed | None
    reusable: bool
    step: int = 0

    @property
    def done(self) -> protocol.TrialDone | None:
        """What a trial that went through came to; None for one that did not."""
        return self.answer if isinstance(self.answer, protocol.TrialDone) else None

    def within(self, budget_bytes: int | None) -> Ending:
        """The same, or out of memory where it used more than the budget: not every allocator
        enforces one."""
        most = max(self.trial.peak_bytes or 0, self.trial.other_peak_bytes or 0)
        fits = self.trial.outcome is Outcome.FITS
        if budget_bytes is None or not fits or most <= budget_bytes:
            return self
        why = (
            f"it used {format_bytes(most)} of {format_bytes(budget_bytes)}, a limit that this "
            "allocator does not keep"
        )
        trial = msgspec.structs.replace(self.trial, outcome=Outcome.OUT_OF_MEMORY, why=why)
        return replace(self, trial=trial, answer=None)


class LoadingFailed(Exception):  # noqa: N818 - an event; `error` is what the user is told
    """A worker could not load the target.

    Attributes:
        outcome: Why, as an outcome.
        error: The same as an error.
    """

    def __init__(self, outcome: Outcome, error: AutobatchError) -> None:
        super().__init__(error.message)
        self.outcome, self.error = outcome, error


def ended(request: protocol.RunTrial, end: End) -> Trial:
    """The trial that did not."""
    found, failed = end.diagnosis, end.failed
    peaks = failed.step_peak_bytes if failed else ()
    return Trial(
        batch_size=request.batch_size,
        outcome=found.outcome,
        peak_bytes=max(peaks, default=None),
        step_peak_bytes=peaks,
        step_seconds=failed.step_seconds if failed else (),
        why=found.told,
        phase=failed.phase if failed else end.phase,
        proof=request.proof,
        sequence_length=request.sequence_length,
    )


def not_loaded(request: protocol.RunTrial, failure: LoadingFailed) -> Trial:
    """The trial that lack of memory did not let begin."""
    return Trial(
        batch_size=request.batch_size,
        outcome=failure.outcome,
        why=failure.error.message,
        phase="loading",
        proof=request.proof,
        sequence_length=request.sequence_length,
    )


def loading_failed(end: End, budget_bytes: int | None) -> LoadingFailed:
    """Why a worker could not load the target.

    Args:
        end: How it ended.
        budget_bytes: What the training may use; None for all there is.
    """
    tail, failed = end.log[-2000:], end.failed
    if failed is not None and failed.ours:
        kind = next((k for k in _OURS if k.__name__ in failed.exception_types), ModelError)
        details = tail if "sys.exit" in failed.message else ""
        return LoadingFailed(Outcome.FAILED, kind(failed.message, details=details))
    found, fault = end.diagnosis, device_fault(end)
    error: AutobatchError
    if found.outcome in MEMORY:
        error = _nothing_fits(found, end.phase, budget_bytes)
    elif fault is not None:
        error = fault
    elif failed is not None:
        error = model_error(failed, "The model could not be loaded")
    elif end.silent_seconds is not None:
        error = WorkerError(
            f"A worker was still {doing(end.phase)} after {end.silent_seconds:g} s. If the script "
            "does long work before fit, raise --load-timeout; if it trains with a loop of its own "
            "and never calls fit, probe a function that returns its model.",
            details=tail,
        )
    else:
        early = end.phase in ("starting", "importing")
        advice = (
            "Run the command again; --verbose shows all that it wrote."
            if early
            else "Run the file by itself to see whether it dies there too. If its data lies on the "
            "device (arrays, from_tensor_slices), it may be larger than the memory limit."
        )
        error = WorkerError(
            f"A worker died while {doing(end.phase)}, and nothing says that it was for lack of "
            f"memory: {found.why.rstrip('.')}. {advice}",
            details=tail,
        )
    return LoadingFailed(found.outcome, error)


def only_once(error: AutobatchError) -> AutobatchError:
    """What loading raised the second time, though it had gone well before."""
    if isinstance(error, ModelError):
        error.message += (
            " It had loaded before, in the search's process: each process runs what is before fit, "
            "so that has to be repeatable (folders that may exist, files that stay)."
        )
    return error


def _nothing_fits(found: oom.Diagnosis, phase: str, budget: int | None) -> NothingFitsError:
    if found.outcome is Outcome.HOST_OUT_OF_MEMORY:
        return NothingFitsError(
            f"The host's memory ran out while {doing(phase)}, before the first training step "
            f"({found.why}). The device's limit does not matter for that: read the data in "
            "pieces, or free memory on this machine.",
            needed_bytes=found.allocation_bytes,
        )
    of = f" of {format_bytes(budget)}" if budget else ""
    return NothingFitsError(
        f"Memory ran out while {doing(phase)}, before the first training step: the data "
        f"and the model alone exceed the limit{of} ({found.why}). Data given as arrays or "
        "through from_tensor_slices lies in the device's memory: read it in batches, or raise "
        "the limit.",
        needed_bytes=found.allocation_bytes,
        budget_bytes=budget,
    )


def model_error(
    failed: protocol.Failed, what: str, *, trials: tuple[Trial, ...] = ()
) -> ModelError:
    """The user's own error, with their traceback."""
    return own_error(failed, f" while {doing(failed.phase)}", what, "probe", trials=trials)


def own_error(
    failed: protocol.Failed,
    when: str,
    what: str,
    again: str,
    *,
    trials: tuple[Trial, ...] = (),
) -> ModelError:
    """An exception of the user's code as an error, with its traceback as text.

    Args:
        failed: What a worker told of it.
        when: Where it came up, to follow its name; may be empty.
        what: What could not be done.
        again: What to do anew once it is corrected: probe, or search.
        trials: Before it.
    """
    kind = failed.exception_types[0] if failed.exception_types else "an error"
    said = (failed.message.strip().splitlines() or [""])[0][:300].rstrip(".")
    return ModelError(
        f"{what}: it raised {kind}{when}{f': {said}' if said else ''}. Correct that, and {again} "
        "again.",
        details=failed.user_traceback,
        traceback=failed.traceback,
        trials=trials,
    )


def doing(phase: str) -> str:
    """A worker's stage as it follows `while`."""
    words = {
        "own_loop": "training in a loop of its own",
        "step": "training",
        "validation": "validating",
        "tracing": "tracing its first step",
    }
    return words.get(phase, phase)


def wrong_backend(backend: str) -> ModelError:
    """The script asks for another back end than TensorFlow."""
    return ModelError(
        f"The script sets KERAS_BACKEND to {backend!r}; autobatch measures TensorFlow's memory. "
        "If the model allows it, --backend tensorflow overrides the script's choice."
    )
