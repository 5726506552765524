"""What a probe tells whoever watches it, as it happens.

An observer is any callable that takes one event; it runs in the probe's own thread and must be
quick. `report.live` draws them; the library's users may pass an observer of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autobatch.records import Device, Trial


@dataclass(frozen=True, slots=True)
class WorkerStage:
    """A worker went on to its next stage.

    Attributes:
        worker: `search` or `proof`.
        stage: `starting`, `importing`, `loading`, `building`, `tracing`, `step`, `validation`.
        step, steps: Which training step of how many, in stage `step`; else 0.
        batch_size: Of the trial that is running; None between trials.
    """

    worker: str
    stage: str
    step: int = 0
    steps: int = 0
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The first worker has loaded the model and its data.

    Attributes:
        model: The model's name and size in a few words, such as `ResNet50, 23.8 M parameters`.
        device: What it trains on.
        samples: Samples in the data set; None where unknown.
        prelude_seconds: What loading took: a script's own code up to `fit` included.
    """

    model: str
    device: Device
    samples: int | None
    prelude_seconds: float


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial begins.

    Attributes:
        sequence_length: Of its samples; None where lengths are not told apart, and in a proof of
            several.
        buckets: How many sizes, each with a length of its own, are proven together; then
            `batch_size` is the largest.
    """

    batch_size: int
    proof: bool
    sequence_length: int | None = None
    buckets: int = 1


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial ended, one way or another.

    Attributes:
        trial: How.
        fits, fails: The bracket after it; `fails` is None while nothing has failed.
        estimate: Where the memory model now sees the largest safe size; None if it does not.
    """

    trial: Trial
    fits: int
    fails: int | None
    estimate: int | None


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence the user should read while the probe runs."""

    text: str


@dataclass(frozen=True, slots=True)
class LogText:
    """What a worker wrote on its stdout or stderr, as it came."""

    worker: str
    text: str


Event = WorkerStage | Prepared | TrialStarted | TrialEnded | Notice | LogText
Observer = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The observer of those who do not watch."""
