"""Messages between the parent and its workers: typed, and one codec for both ends.

The parent writes `Prepare`, then any number of `RunTrial`, then closes. The worker writes `Stage`
whenever it goes on to something new, `Imported` once TensorFlow is there, `Prepared` (or `Failed`)
after `Prepare`, and `TrialDone` or `Failed` after each `RunTrial`. A worker that dies writes
nothing more: that is the normal case that this project exists for, and the parent's affair.

A worker that calls a function of the user's instead (`function_worker`) reads `Load`, then any
number of `Call`, and writes `Loaded`, and `Called` or `Failed` after each `Call`.

A message is four bytes of length, big-endian, and that much JSON, on a pipe of its own. The
worker's stdout and stderr belong to the user's model.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from autobatch import records
from autobatch.errors import WorkerError
from autobatch.length_buckets import Lengths
from autobatch.records import OptimizerInfo, Outcome, Trial
from autobatch.units import format_bytes

MAX_MESSAGE_BYTES = 1 << 30  # a pickled closure may hold data; more than this is no message


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What to train, and how it is found.

    Attributes:
        kind: `script` (run as `__main__` up to `fit`, else searched for a model), `module`
            (imported under its own name and searched), `factory` (`path` or `module`, and
            `name`), `saved` (a `.keras` file) or `pickle` (a cloudpickled callable or model).
        path: The file, absolute.
        module: A dotted module name instead of a file.
        name: The factory's name in it.
        arguments: What follows the script's name in `sys.argv`.
        pickle: The pickled callable or model.
    """

    kind: str
    path: str | None = None
    module: str | None = None
    name: str | None = None
    arguments: tuple[str, ...] = ()
    pickle: bytes | None = None


class DeviceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The device that a worker is to use.

    Attributes:
        kind: `gpu`, or `cpu` (the environment then holds its limit).
        indices: TensorFlow's numbers of the GPUs; none of them for those that a training sees.
        limit_bytes: Limit of each GPU's allocator; None for all that TensorFlow gives itself.
        budget_bytes: What the training may use of each; None for the allocator's limit.
        strategy: `mirrored`, to build the model under a `MirroredStrategy` over the GPUs.
        fail_fast: Raise an OOM at once rather than after the 10 s that TensorFlow waits for
            memory to come back.
    """

    kind: str
    indices: tuple[int, ...] = ()
    limit_bytes: int | None = None
    budget_bytes: int | None = None
    strategy: str | None = None
    fail_fast: bool = False


class SequenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Trials will be at sequence lengths of their own: make rows of any length of the data.

    Attributes:
        max_length: The greatest length of a trial; None for the data's own longest.
        inputs: `NAME` or `NAME:AXIS` of inputs, where their shapes do not say which dimension
            is the sequence.
    """

    max_length: int | None = None
    inputs: tuple[str, ...] = ()


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load the model and the data, and say what they are.

    Attributes:
        accumulates: Trials add the gradients of micro-batches up, which takes memory.
        sequences: What trials at sequence lengths need; None where lengths are not told apart.
    """

    target: Target
    device: DeviceRequest
    fit_call: int = 1
    input_shapes: dict[str, tuple[int, ...]] = {}
    sequence_length: int | None = None
    safe_mode: bool = True
    optimizer: str | None = None
    loss: str | None = None
    accumulates: bool = False
    sequences: SequenceRequest | None = None


class RunTrial(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Train for some steps at one batch size.

    Attributes:
        batch_size: Samples a step, of one replica.
        steps: Training steps.
        validation: Validate afterwards.
        proof: Also run what else a training does: a smaller last batch, and the beginning of a
            second epoch.
        trace: Also say what the first steps need once fragmentation is counted; in a proof only
            whether that is more than `enough_bytes`.
        trace_steps: How many steps to trace; 0 for as many as tell it as a rule, and are read soon.
        foretell: Also trace the first steps to say which batch size `enough_bytes` of
            `limit_bytes` would do for, or to let a later trial say so.
        careful: The pool is the one that will train: a step's peak counts beside what replays
            say that it needs.
        enough_bytes: Stop early where steps use clearly more than this, or clearly less: then more
            steps tell nothing that is asked for. With sequences of one length, a few steps and
            their replay tell enough. A proof goes on.
        limit_bytes: What the training will have, under which its steps are replayed; None where
            that is not known.
        sequence_length: Of every sample; None where lengths are not told apart.
        shapes: Batch size and sequence length of each step in turn, where they are to differ.
    """

    batch_size: int
    steps: int
    validation: bool = False
    proof: bool = False
    trace: bool = False
    trace_steps: int = 0
    foretell: bool = False
    careful: bool = False
    enough_bytes: int | None = None
    limit_bytes: int | None = None
    sequence_length: int | None = None
    shapes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_shapes(
        cls,
        shapes: tuple[tuple[int, int], ...],
        *,
        validation: bool,
        limit_bytes: int | None = None,
    ) -> RunTrial:
        """The proof of batches of these sizes and lengths, one step each; and where there is a
        limit, whether they need more than that once fragmentation is counted."""
        largest = max(size for size, _ in shapes)
        return cls(
            batch_size=largest,
            steps=len(shapes),
            shapes=shapes,
            validation=validation,
            proof=True,
            trace=limit_bytes is not None,
            enough_bytes=limit_bytes,
            limit_bytes=limit_bytes,
        )

    @property
    def lengths(self) -> int:
        """How many sequence lengths its steps have, where these are to differ; else 0."""
        return len({length for _, length in self.shapes})

    @property
    def extent(self) -> int:
        """Samples, or tokens where lengths are told apart: of two trials, which is the larger."""
        each = self.shapes or ((self.batch_size, self.sequence_length or 1),)
        return max(size * length for size, length in each)


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Read this cloudpickled function."""

    pickle: bytes


class Call(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Call it with this batch size."""

    batch_size: int


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What the worker turns to now. See `events.WorkerStage` for the words."""

    stage: str
    step: int = 0
    steps: int = 0


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """TensorFlow is imported; no device has been touched."""

    versions: dict[str, str]


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has loaded, in digests: equal ones stand for equal trainings.

    Attributes:
        model: Of the model's structure, compile settings, precision and own code.
        data: Of the data's shapes, kinds and number of samples.
        device: The GPU's address on the PCI bus, or the number of the CPU's cores.
    """

    model: str
    data: str
    device: str = ""


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The model and the data are there.

    Attributes:
        model: Its name and size in a few words.
        device_name: The device as TensorFlow describes it.
        limit_bytes: The allocator's limit.
        resident_bytes: In use on the device now, and by the arrays that `fit` will put there.
        samples: Samples in the training data; None where unknown.
        script_batch_size: What the script trains with; None where nothing says.
        fixed_batch_size: A batch size that is baked into the model's inputs; None as a rule.
        optimizers: What there is to scale.
        jit_compile: The model is compiled by XLA.
        environment: Variables that the user's code set after TensorFlow was imported, where that
            is too late: the worker has to start again with them.
        warnings: Sentences the user should read.
        prelude_seconds: What loading took.
        signature: What was loaded; None where it cannot be told.
        replicas: Copies of the model that train at once, each on a device of its own.
        user_limit_bytes: A memory limit that the user's code sets on a GPU.
        allocator: The GPU's, and whether it grows; empty for the CPU.
        bus_ids: PCI bus ids of the GPUs in use, as far as TensorFlow tells them.
        lengths: Of the data's sequences; None where it was made up, or they were not asked for.
        max_length: The greatest length that trials can have; None where lengths are not told apart.
        sequence_axes: The axis of the sequence in each array of a sample, as in a `BucketResult`.
        bucket_boundaries, bucket_batch_sizes: The script's own, where it buckets its data by
            length.
        unsized_buckets: Why it does, and they cannot have sizes of their own; else empty.
        coarse: Memory is sampled by NVML, as the allocator keeps no statistics.
        accelerators: Kinds of devices there that are neither CPUs nor GPUs, such as `TPU`.
    """

    model: str
    device_name: str
    limit_bytes: int
    resident_bytes: int
    samples: int | None = None
    script_batch_size: int | None = None
    fixed_batch_size: int | None = None
    optimizers: tuple[OptimizerInfo, ...] = ()
    jit_compile: bool = False
    environment: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    prelude_seconds: float = 0.0
    signature: Signature | None = None
    replicas: int = 1
    user_limit_bytes: int | None = None
    allocator: str = ""
    bus_ids: tuple[str, ...] = ()
    lengths: Lengths | None = None
    max_length: int | None = None
    sequence_axes: tuple[int | None, ...] = ()
    bucket_boundaries: tuple[int, ...] = ()
    bucket_batch_sizes: tuple[int, ...] = ()
    unsized_buckets: str = ""
    coarse: bool = False
    accelerators: tuple[str, ...] = ()


class TrialDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The trial went through.

    Attributes:
        step_peak_bytes: Most bytes in use during each training step.
        step_seconds: Wall time of each training step.
        other_peak_bytes: Most bytes in use outside the steps: while data is moved or validated.
        resident_bytes: In use after it.
        needed_bytes: What the first steps need once fragmentation is counted; None where they were
            not traced, and in a proof where they need no more than is there.
        foretold: The largest batch size that `enough_bytes` do for, by replays of what this trial
            allocated as it would be at other sizes; None where that was not asked for or cannot
            be told.
        compiled, loops, few_tensors: See `Trial`.
        process_bytes: By NVML, all that the worker holds of a GPU; None where it does not say.
        validation_steps: Validation steps that ran.
        last_batch_size: Samples in the smaller last batch; None where there was none.
        not_a_number: The loss was no number at some step.
        optimizers: Attributes of the optimizers that the steps apply.
    """

    step_peak_bytes: tuple[int, ...]
    step_seconds: tuple[float, ...]
    other_peak_bytes: int
    resident_bytes: int
    needed_bytes: int | None = None
    foretold: int | None = None
    compiled: bool = False
    loops: bool = False
    few_tensors: bool = False
    process_bytes: int | None = None
    validation_steps: int = 0
    last_batch_size: int | None = None
    not_a_number: bool = False
    optimizers: tuple[str, ...] = ()

    def as_trial(self, request: RunTrial) -> Trial:
        """The same as a record."""
        beyond = self.needed_bytes if request.proof else None
        return Trial(
            batch_size=request.batch_size,
            outcome=Outcome.FITS if beyond is None else Outcome.TOO_CLOSE,
            why=None
            if beyond is None
            else "it went through, and would not have in another order of its threads: by replays "
            f"it needs {format_bytes(beyond)}",
            peak_bytes=max(self.step_peak_bytes, default=None),
            other_peak_bytes=self.other_peak_bytes,
            step_peak_bytes=self.step_peak_bytes,
            resident_bytes=self.resident_bytes,
            needed_bytes=self.needed_bytes,
            foretold=self.foretold,
            compiled=self.compiled,
            loops=self.loops,
            few_tensors=self.few_tensors,
            process_bytes=self.process_bytes,
            step_seconds=self.step_seconds,
            proof=request.proof,
            sequence_length=request.sequence_length,
        )


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The function is there."""


class Called(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The function returned.

    Attributes:
        peak_bytes: What it returned; None for None.
        seconds: Wall time of the call.
    """

    peak_bytes: int | None
    seconds: float


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An exception ended the work.

    Attributes:
        exception_types: Class names along its method resolution order.
        message: Its text.
        causes: Type names and text of its notes, causes and contexts.
        traceback: The whole traceback.
        user_traceback: The same, cut to the user's files.
        phase: The stage it came up in.
        ours: It is ours, with a message for the user; no traceback is worth showing.
        step_peak_bytes, step_seconds: Of the steps before it.
        free_bytes: Of the device's limit, when it came up.
    """

    exception_types: tuple[str, ...]
    message: str
    causes: tuple[tuple[tuple[str, ...], str], ...] = ()
    traceback: str = ""
    user_traceback: str = ""
    phase: str = ""
    ours: bool = False
    step_peak_bytes: tuple[int, ...] = ()
    step_seconds: tuple[float, ...] = ()
    free_bytes: int | None = None


Request = Prepare | RunTrial | Load | Call
Answer = Stage | Imported | Prepared | TrialDone | Loaded | Called | Failed

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {
    Request: msgspec.json.Decoder(Request),
    Answer: msgspec.json.Decoder(Answer),
}


def encode(message: Request | Answer) -> bytes:
    """The message as it goes over the pipe."""
    body = records.encode(message)
    return len(body).to_bytes(4, "big") + body


class Inbox:
    """Takes bytes as they come and gives messages as they are whole.

    Args:
        expected: `Request` or `Answer`: what may come.
    """

    def __init__(self, expected: Any) -> None:
        self._decode = _decoders[expected].decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what was read from the pipe."""
        self._buffer += data

    def next(self) -> Any:
        """The next whole message, or None.

        Raises:
            WorkerError: What came is no message.
        """
        if len(self._buffer) < 4:
            return None
        size = int.from_bytes(self._buffer[:4], "big")
        if size > MAX_MESSAGE_BYTES:
            raise WorkerError(f"A worker's message claims {size} bytes: the channel is corrupt.")
        if len(self._buffer) < 4 + size:
            return None
        body = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WorkerError(f"A worker's message could not be read: {error}.") from error


class Channel:
    """The worker's end: blocking, one message at a time.

    Args:
        read_fd, write_fd: The pipes' ends that the parent passed.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._inbox = Inbox(Request)

    def send(self, message: Answer) -> None:
        """Write the whole message."""
        rest = memoryview(encode(message))
        while rest:
            rest = rest[os.write(self._write_fd, rest) :]

    def receive(self) -> Request | None:
        """The next request; None when the parent has closed its end."""
        while (message := self._inbox.next()) is None:
            data = os.read(self._read_fd, 1 << 16)
            if not data:
                return None
            self._inbox.feed(data)
        return message  # type: ignore[no-any-return]
