"""What autobatch raises. Every error of ours is one of these; this module imports nothing.

AutobatchError
├─ UsageError           an argument or a combination of arguments makes no sense
├─ NothingFitsError     even the smallest batch size ran out of memory
├─ ModelError           the model could not be loaded, built or trained at any size
├─ DeviceError          no usable device, or it could not be read
│  └─ NoGpuError        a GPU was asked for, and TensorFlow sees none
├─ WorkerError          trials died, hung or ended for a reason that is not known to be memory
├─ DeviceChangedError   the device's memory was taken or freed by others during the probe
├─ StorageError         a file of ours could not be read or written
└─ ProbeInterrupted     Ctrl-C, or a signal that asks the process to end

Each carries `kind`, the word that stands for it in JSON, and `exit_code`, the command's exit
status. `trials` holds what was tried before it was raised, where anything was.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AutobatchError(Exception):
    """Base of every error that autobatch raises on purpose.

    Args:
        message: One paragraph: what happened, what was received, what to do.
        details: Text worth showing below it, such as the end of a user's traceback.
        trials: The trials (`records.Trial`) that ran before.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, details: str = "", trials: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.trials = trials


class UsageError(AutobatchError, ValueError):
    """An argument, or a combination of them, makes no sense."""

    kind = "usage"
    exit_code = 2


class NothingFitsError(AutobatchError):
    """Even the smallest batch size does not fit into the budget.

    Attributes:
        needed_bytes: What it needs at least, as far as that was measured; None if unknown.
        budget_bytes: What there was; None if unknown.
    """

    kind = "nothing_fits"
    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        needed_bytes: int | None = None,
        budget_bytes: int | None = None,
        details: str = "",
        trials: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(message, details=details, trials=trials)
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes


class ModelError(AutobatchError):
    """The user's model could not be loaded, built or trained at any size.

    Attributes:
        traceback: The whole of the user's traceback; `details` holds it cut to the user's files.
    """

    kind = "model"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        details: str = "",
        traceback: str = "",
        trials: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(message, details=details, trials=trials)
        self.traceback = traceback


class DeviceError(AutobatchError):
    """There is no usable device, or it could not be read."""

    kind = "device"
    exit_code = 5


class NoGpuError(DeviceError):
    """A GPU was asked for, and TensorFlow sees none."""


class WorkerError(AutobatchError):
    """Trials died, hung or ended for a reason that is not known to be memory."""

    kind = "worker"
    exit_code = 6


class DeviceChangedError(AutobatchError):
    """Others took or freed the device's memory while the probe ran."""

    kind = "device_changed"
    exit_code = 7


class StorageError(AutobatchError):
    """A file of ours, or one that the user named, could not be read or written."""

    kind = "storage"
    exit_code = 1


class ProbeInterrupted(AutobatchError, KeyboardInterrupt):  # noqa: N818 - as KeyboardInterrupt
    """The probe was asked to end before it had an answer."""

    kind = "interrupted"
    exit_code = 130

    def __init__(
        self,
        message: str = "Asked to end before there was an answer.",
        *,
        details: str = "",
        trials: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(message, details=details, trials=trials)
