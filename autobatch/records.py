"""What a probe says: frozen records with versioned JSON both ways."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, TypeVar

import msgspec

from autobatch.errors import AutobatchError

SCHEMA_VERSION = 1


class Outcome(str, Enum):
    """How a trial ended. A value, never a bare exception."""

    FITS = "fits"
    TOO_CLOSE = "too_close"  # a proof that went through, and would not in another order of threads
    OUT_OF_MEMORY = "out_of_memory"  # the device's memory
    HOST_OUT_OF_MEMORY = "host_out_of_memory"
    CRASHED = "crashed"  # died without an answer; cause unknown
    TIMED_OUT = "timed_out"  # never counted as out of memory
    FAILED = "failed"  # the user's own error

    __str__ = str.__str__


class LimitKind(str, Enum):
    """What keeps the batch size from being larger."""

    MEMORY = "memory"
    HOST_MEMORY = "host_memory"
    DATASET = "dataset"
    MAXIMUM = "maximum"
    CRASH = "crash"
    TIMEOUT = "timeout"
    MODEL_ERROR = "model_error"
    THROUGHPUT = "throughput"  # larger sizes fit, and train fewer samples a second
    TOKENS = "tokens"  # a bucket's follows from the tokens a batch, which another bucket limits

    __str__ = str.__str__


# What stops a search whose next size ended so; anything else is the memory.
LIMIT_OF = {
    Outcome.HOST_OUT_OF_MEMORY: LimitKind.HOST_MEMORY,
    Outcome.CRASHED: LimitKind.CRASH,
    Outcome.TIMED_OUT: LimitKind.TIMEOUT,
    Outcome.FAILED: LimitKind.MODEL_ERROR,
}


class ProofKind(str, Enum):
    """Where the returned size was run and passed."""

    FRESH_PROCESS = "fresh_process"
    THIS_PROCESS = "this_process"
    CALLER = "caller"

    __str__ = str.__str__


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A few training steps at one batch size.

    Attributes:
        batch_size: Samples a step.
        sequence_length: Of every sample in it; None where lengths are not told apart.
        outcome: How it ended.
        peak_bytes: The largest of `step_peak_bytes`; None where no step ended.
        other_peak_bytes: Most bytes in use outside the training steps: while data is moved, and
            while validation runs.
        step_peak_bytes: Most bytes in use on the device during each step, in order.
        resident_bytes: In use between steps: weights, optimizer slots, data; None if unknown.
        needed_bytes: What its first steps need by replays of their allocations, with
            fragmentation counted; None where they were not traced. Of a proof, only where that is
            more than the budget, or by default than it without half the headroom.
        foretold: The largest batch size that the budget without the headroom does for, by replays
            of what this trial allocated as it would be at other sizes; None where that is not
            known.
        compiled: A program that XLA compiled takes most of what its steps need, which were replayed
            as those of a process that begins at this size. In one that has run others a larger size
            may die where a training would not.
        loops: Some of what was traced is a loop's, as a recurrent layer's.
        few_tensors: What was traced has few large allocations a step, in no loop's body and no
            program's that XLA compiled: then a training meets layouts that few replays do.
        process_bytes: What NVML counts for the process after the steps: the allocator's memory, and
            all that is outside of it (CUDA's context, workspaces of cuDNN and cuBLAS, NCCL). None
            where it does not say.
        step_seconds: Wall time of each step; the first includes tracing and compiling.
        tight: It ran under the budget itself. The allocator hands out a free chunk whole where
            little would be left over, so that its peaks then tell less than `needed_bytes`.
        why: The evidence for an outcome other than `fits`, in one line.
        phase: What the worker was doing when it ended otherwise than well.
        proof: It ran in a fresh process under the real limit.
        beyond_batch_size: A size a little larger that a proof's process trained at before. Where it
            did not go through, the outcome is of that. None where there was none.
    """

    batch_size: int
    outcome: Outcome
    peak_bytes: int | None = None
    step_peak_bytes: tuple[int, ...] = ()
    other_peak_bytes: int | None = None
    resident_bytes: int | None = None
    needed_bytes: int | None = None
    foretold: int | None = None
    compiled: bool = False
    loops: bool = False
    few_tensors: bool = False
    process_bytes: int | None = None
    step_seconds: tuple[float, ...] = ()
    tight: bool = False
    why: str | None = None
    phase: str | None = None
    proof: bool = False
    sequence_length: int | None = None
    beyond_batch_size: int | None = None

    @property
    def step_bytes(self) -> int | None:
        """What a step asks of a device: by replay where there was one, else by its peak.

        Where the pool is not the one that training will have, the peak may be the higher of the
        two: the allocator hands out a free chunk whole that is not twice as long as asked for.
        """
        return self.needed_bytes or self.peak_bytes

    @property
    def other_bytes(self) -> int | None:
        """What is asked of a device outside of steps, where that counts."""
        replayed_alone = self.tight and self.needed_bytes is not None
        return None if replayed_alone else self.other_peak_bytes

    @property
    def required_bytes(self) -> int | None:
        """What a training at this size asks of a device: a step, and what is outside of steps."""
        return max(self.step_bytes or 0, self.other_bytes or 0) or None

    @property
    def samples_per_second(self) -> float | None:
        """Median throughput of the steps after the first; None where there are none."""
        steady = sorted(self.step_seconds[1:])
        if not steady or steady[len(steady) // 2] <= 0:
            return None
        return self.batch_size / steady[len(steady) // 2]


class LimitedBy(msgspec.Struct, frozen=True):
    """What keeps the answer from being larger, and how that is known."""

    kind: LimitKind
    evidence: str


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds memory of a GPU, as NVML tells it.

    Attributes:
        pid: Its number, as the driver sees it.
        name: Of its program; empty where it cannot be told.
        used_bytes: Of the GPU's memory; None where the driver does not say.
    """

    pid: int
    name: str = ""
    used_bytes: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Where the trials ran.

    Attributes:
        name: What it is called, for a person.
        kind: `gpu`, or `cpu` for the CPU behind TensorFlow's GPU allocator.
        index: TensorFlow's number of the GPU, of the first one of several; None for the CPU.
        limit_bytes: What the allocator could hand out in the search's trials.
        budget_bytes: What the training may use: what the proof's allocator was limited to.
        replicas: How many of them train at once, each with a copy of the model; the one with the
            least room then decides.
        allocator: The GPU's, and whether it grows as it needs memory; empty for the CPU.
        neighbours: Other processes on the device when the probe began.
        memory_read_from: `allocator`, exact; or `nvml`, sampled, where the allocator keeps no
            statistics: all that the process holds, CUDA's own memory included.
    """

    name: str
    kind: str
    index: int | None = None
    limit_bytes: int
    budget_bytes: int
    replicas: int = 1
    allocator: str = ""
    neighbours: tuple[GpuProcess, ...] = ()
    memory_read_from: str = "allocator"


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The run that the answer rests on.

    Attributes:
        kind: Which process ran it.
        steps: Training steps at the full batch size; None where they are the caller's affair.
        validation_steps: Validation steps; 0 where validation was off.
        last_batch_size: Samples in the smaller last batch that it ran; None where there was none.
        peak_bytes: Most bytes in use during each training step.
        beyond_batch_size: A size larger by a margin, at which the same process trained as well,
            and before; None where that was not tried.
    """

    kind: ProofKind
    steps: int | None
    validation_steps: int = 0
    last_batch_size: int | None = None
    peak_bytes: tuple[int, ...] = ()
    beyond_batch_size: int | None = None


class OptimizerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An optimizer of the user's model, as far as the learning rate depends on it.

    Attributes:
        attribute: Where the model holds it: `optimizer`, or say `d_optimizer`.
        class_name: Keras's class name, such as `SGD` or `AdamW`.
        learning_rate: The rate as a number; of a schedule, its value at step 0.
        schedule: Keras's serialized schedule, `{"class_name": ..., "config": {...}}`; None where
            the rate is a number.
        momentum: SGD's momentum; None elsewhere.
        beta_1, beta_2, epsilon: Adam's, where the optimizer has them.
    """

    attribute: str = "optimizer"
    class_name: str
    learning_rate: float | None = None
    schedule: dict[str, Any] | None = None
    momentum: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None


class LearningRate(msgspec.Struct, frozen=True, kw_only=True):
    """A learning rate scaled from one batch size to another.

    Attributes:
        optimizer: The attribute it belongs to, `optimizer` as a rule.
        rule: `linear`, `sqrt` or `none`.
        reason: Why this rule, in a sentence.
        factor: What the base rate was multiplied by.
        base_batch_size, batch_size: From, and to; global sizes where there are replicas.
        base_learning_rate, learning_rate: From, and to; of a schedule, its value at step 0.
        schedule: The scaled schedule's configuration; None where the rate is a number.
        hyperparameters: Others that the rule scales, such as `{"beta_1": ..., "epsilon": ...}`.
        advice: Sentences on warm-up and on where the rule is known to hold.
    """

    optimizer: str = "optimizer"
    rule: str
    reason: str
    factor: float
    base_batch_size: int
    batch_size: int
    base_learning_rate: float
    learning_rate: float
    schedule: dict[str, Any] | None = None
    hyperparameters: dict[str, float] = {}
    advice: tuple[str, ...] = ()


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a probe: a batch size that was run and passed, and all that is known of it.

    Attributes:
        batch_size: The largest safe batch size of one replica.
        global_batch_size: Samples in a step of the optimizer: of all replicas together, and of
            all micro-batches.
        gradient_accumulation_steps: Micro-batches in a step of the optimizer.
        learning_rate: The rate scaled to `global_batch_size`; of a schedule, its scaled start.
            None where the model's optimizer has no rate to scale.
        learning_rate_rule: `linear`, `sqrt` or `none`.
        learning_rate_schedule: The scaled configuration where the rate is a schedule.
        learning_rates: The same in full for each optimizer of the model, with the reasons.
        base_batch_size, base_learning_rate: What the rate was scaled from.
        limited_by: What keeps the size from being larger.
        device: Where the trials ran, and what they could use.
        peak_bytes: The largest peak measured at `batch_size` with room to spare: in its search
            trials, else in its proof, where the allocator hands out free chunks whole.
        needed_bytes: What the first steps at `batch_size` need by their replays, with
            fragmentation counted; None where none was traced.
        headroom_bytes: Bytes of the budget asked to be kept free of the peak.
        samples_per_second: Throughput in the proof's steady steps.
        steps_per_epoch: Optimizer steps one pass over the data then takes; None if unknown.
        proof: The run that the answer rests on.
        trials: Everything tried, in order, proofs included.
        earlier_trials: How many of them, the first ones, an earlier probe of the same ran: this
            one went on from its journal or its cached answer.
        warnings: Sentences the user should read.
        seconds: Wall time of the probe.
        load_seconds: What loading took of it in the first worker, a script's own code up to `fit`
            included; None where nothing was loaded.
        versions: Of Python, TensorFlow, Keras and autobatch.
    """

    schema_version: int = SCHEMA_VERSION
    batch_size: int
    global_batch_size: int
    gradient_accumulation_steps: int = 1
    learning_rate: float | None = None
    learning_rate_rule: str | None = None
    learning_rate_schedule: dict[str, Any] | None = None
    learning_rates: tuple[LearningRate, ...] = ()
    base_batch_size: int | None = None
    base_learning_rate: float | None = None
    limited_by: LimitedBy
    device: Device
    peak_bytes: int | None
    needed_bytes: int | None = None
    headroom_bytes: int
    samples_per_second: float | None = None
    steps_per_epoch: int | None = None
    proof: Proof
    trials: tuple[Trial, ...]
    earlier_trials: int = 0
    warnings: tuple[str, ...] = ()
    seconds: float
    load_seconds: float | None = None
    versions: dict[str, str]

    def to_json(self, *, indent: int | None = None) -> str:
        """The whole result as one JSON object."""
        return to_json(self, indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> ProbeResult:
        """The result that `to_json` wrote.

        Raises:
            AutobatchError: The text is no such result, or of another schema version.
        """
        return decoded(text, cls, "a probe's result")


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `autobatch.search`, with what it rests on.

    Attributes:
        batch_size: The largest safe size that was run and passed.
        limited_by: What keeps it from being larger.
        budget_bytes: The memory limit asked for; None where there was none.
        peak_bytes: The largest peak that the caller's function told at this size; None where it
            told none.
        headroom_bytes: Bytes of the budget asked to be kept free of the peak.
        proof: The run that the answer rests on: the caller's own step.
        trials: Everything tried, in order, proofs included.
        seconds: Wall time of the search.
    """

    schema_version: int = SCHEMA_VERSION
    batch_size: int
    limited_by: LimitedBy
    budget_bytes: int | None = None
    peak_bytes: int | None = None
    headroom_bytes: int = 0
    proof: Proof
    trials: tuple[Trial, ...]
    seconds: float

    def to_json(self, *, indent: int | None = None) -> str:
        """The whole result as one JSON object."""
        return to_json(self, indent)


_Result = TypeVar("_Result", bound=Any)


def decoded(text: str | bytes, kind: type[_Result], called: str) -> _Result:
    """The result of this kind that `to_json` wrote.

    Args:
        text: As JSON.
        kind: With a `schema_version`, which is its own by default, and `versions`.
        called: What it is, for an error.

    Raises:
        AutobatchError: The text is no such result, or of another schema version.
    """
    try:
        result: _Result = msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise AutobatchError(f"This is not {called}: {error}.") from error
    if result.schema_version != SCHEMA_VERSION:
        raise AutobatchError(
            f"This result has schema version {result.schema_version}; this autobatch reads "
            f"version {SCHEMA_VERSION}. Probe again, or read it with the version of autobatch "
            f"that wrote it ({result.versions.get('autobatch', 'unknown')})."
        )
    return result


def error_json(error: AutobatchError) -> str:
    """`{"error": {"kind", "message", ...}, "trials": [...]}`, as `--json` prints a failure."""
    fields: dict[str, Any] = {"kind": error.kind, "message": error.message}
    if error.details:
        fields["details"] = error.details
    for name in ("needed_bytes", "budget_bytes"):
        if getattr(error, name, None) is not None:
            fields[name] = getattr(error, name)
    body = {"schema_version": SCHEMA_VERSION, "error": fields, "trials": error.trials}
    return to_json(body)


# DEL, C1 controls (some terminals obey them), marks that reorder text, and line separators.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def harmless(encoded: bytes) -> str:
    """JSON as text that steers no terminal: what JSON may hold as it is, but need not, escaped."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded.decode())


def encode(value: Any) -> bytes:
    """Any of our values as JSON. Halves of surrogate pairs, which the names of files that are not
    UTF-8 have and JSON cannot, are written out."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_written_out(msgspec.to_builtins(value)))


def to_json(value: Any, indent: int | None = None) -> str:
    """Any of our values as JSON that no terminal can be steered by."""
    encoded = encode(value)
    return harmless(msgspec.json.format(encoded, indent=indent) if indent else encoded)


def _written_out(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_written_out(key): _written_out(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written_out(each) for each in value]
    return value
