"""How to probe: every option, its default and what it may be."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from autobatch.errors import UsageError
from autobatch.learning_rate import RULES
from autobatch.sizes import LARGEST, SizeSpace
from autobatch.units import parse_bytes, parse_share_or_bytes

DEVICES = "auto, cpu, gpu, gpu:N or several of them such as gpu:0,gpu:1"
STRATEGIES = ("mirrored",)
SIZE, THROUGHPUT = "size", "throughput"  # what may be preferred

# The command's names of options, where they are not the fields' own.
FLAGS = {
    "minimum": "--min",
    "maximum": "--max",
    "base_learning_rate": "--base-lr",
    "learning_rate_rule": "--lr-rule",
    "input_shapes": "--input-shape",
    "run_as": "--as",
    "fit_call": "--fit",
}


def _named(field: str) -> str:
    """A field as it is called in Python and in the command."""
    return f"{field} ({FLAGS.get(field, '--' + field.replace('_', '-'))})"


class ProbeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe can be told; each field is an argument of `autobatch.probe`.

    Attributes:
        device: `auto`, `cpu` (behind TensorFlow's GPU allocator), `gpu` (those that a training
            sees), `gpu:N`, or several of them (`gpu:0,gpu:1`).
        strategy: `mirrored` builds the model under a `tf.distribute.MirroredStrategy` over the
            GPUs. A script that makes its own needs no such option.
        wait_for_idle: Seconds to wait at most for other processes to leave the GPU.
        memory_limit: What the training may use, such as `'512MiB'`. Defaults to all that the
            GPU's allocator has; on the CPU to 80 % of the memory that this process may use.
        minimum, maximum: The smallest and largest batch size to consider.
        multiple_of: Sizes are multiples of this.
        power_of_two: Sizes are powers of two.
        target_batch_size: The batch size of a step of the optimizer: the largest micro-batch is
            sought that divides it, and the gradients of several are added up.
        prefer: `size` for the largest safe batch; `throughput` for the one, of those that the
            search tried, with the best proven samples a second.
        precision: Share of the answer that may be left on the table; 0 for the exact size.
        headroom: Least share (`'5%'`) or bytes (`'256MiB'`) of the budget to keep free at the
            peak. Defaults to 2 % (where there are no loops 3.5 % for buckets in processes of
            their own, and 5 % where a step has few large allocations), and where no step could be
            replayed to as much as the spread of the peaks asks for, from 2.5 up to 6 %. Where it is
            given, that alone is kept: the proof does not begin with a larger size.
        steps: Training steps of a search trial near the answer.
        proof_steps: Training steps of a proof at the full size; as many at a size 2.5 % larger, a
            smaller last batch, validation and the beginning of a second epoch come on top.
        validation: Whether to validate in the proof, on training data where there is no other.
        timeout: Seconds a trial may take.
        load_timeout: Seconds a worker may take to load the model, a script's own code included.
        total_timeout: Seconds the probe may take; it settles for what is proven by then.
        device_wait: Seconds to wait for another probe on the same GPU to end.
        dataset_cap: Whether the data set's size bounds the batch size.
        base_batch_size: What the base learning rate was chosen for. Defaults to what the script
            trains with, else 32.
        base_learning_rate: Defaults to the optimizer's.
        learning_rate_rule: `auto`, `linear`, `sqrt` or `none`.
        input_shapes: Shapes of inputs with unknown dimensions, without the batch's, by input
            name; the name `''` stands for the only input.
        sequence_length: The length of inputs whose only unknown dimension is their length.
        run_as: `auto`, `script` (run as `__main__` up to `fit`) or `module` (imported).
        fit_call: Which call of `fit` in a script to probe, counted from 1.
        backend: `tensorflow` to override the Keras back end that a script asks for.
        safe_mode: Whether to refuse code inside a `.keras` file.
        optimizer, loss: For a model that is not compiled.
        cache: Whether to ask the results of earlier probes (the size is proven anew), and to keep
            this one. They lie in `AUTOBATCH_CACHE_DIR`, else in `~/.cache/autobatch`.
        journal: The file to which each trial is written as it ends. Defaults to one for the
            target in the folder of the cache, removed once the probe has its answer.
        resume: Whether to go on from the trials in the journal, where model, data, device,
            versions and options are the same.
    """

    device: str = "auto"
    strategy: str | None = None
    wait_for_idle: float | None = None
    memory_limit: str | None = None
    minimum: int = 1
    maximum: int | None = None
    multiple_of: int = 1
    power_of_two: bool = False
    target_batch_size: int | None = None
    prefer: str = SIZE
    precision: float = 0.02
    headroom: str | None = None
    steps: int = 8
    proof_steps: int = 8
    validation: bool = True
    timeout: float = 300.0
    load_timeout: float = 600.0
    total_timeout: float = 3600.0
    device_wait: float = 600.0
    dataset_cap: bool = True
    base_batch_size: int | None = None
    base_learning_rate: float | None = None
    learning_rate_rule: str = "auto"
    input_shapes: dict[str, tuple[int, ...]] = {}
    sequence_length: int | None = None
    run_as: str = "auto"
    fit_call: int = 1
    backend: str | None = None
    safe_mode: bool = True
    optimizer: str | None = None
    loss: str | None = None
    cache: bool = True
    journal: str | None = None
    resume: bool = False

    @classmethod
    def checked(cls, **options: Any) -> ProbeOptions:
        """Options from keyword arguments.

        Raises:
            UsageError: An option is unknown, of the wrong type, or out of its range.
        """
        unknown = set(options) - set(cls.__struct_fields__)
        if unknown:
            raise UsageError(
                f"Unknown option {sorted(unknown)[0]!r}; there are "
                f"{', '.join(cls.__struct_fields__)}."
            )
        try:
            made = msgspec.convert(options, cls, strict=True)
        except msgspec.ValidationError as error:
            said, _, path = str(error).partition(" - at `$.")
            name = next((n for n in options if path.rstrip("`").split("[")[0] == n), "an option")
            received = f"; received {options[name]!r}" if name in options else ""
            raise UsageError(f"{_named(name)}: {said.lower()}{received}.") from error
        made._check()
        return made

    def _check(self) -> None:
        counts = ("minimum", "maximum", "multiple_of", "steps", "proof_steps", "base_batch_size")
        for name in (*counts, "sequence_length", "fit_call", "target_batch_size"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= LARGEST:
                raise UsageError(
                    f"{_named(name)} must be a whole number from 1 on; received {value}."
                )
        positive = ("timeout", "load_timeout", "total_timeout", "wait_for_idle")
        for name in (*positive, "base_learning_rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{_named(name)} must be a positive number; received {value}.")
        if not (self.device_wait >= 0 and math.isfinite(self.device_wait)):
            raise UsageError(
                f"{_named('device_wait')} must be seconds from 0 on; received {self.device_wait}."
            )
        if not 0 <= self.precision < 1:
            raise UsageError(
                f"{_named('precision')} must be a share from 0 (exact) to below 1, such as 0.02; "
                f"received {self.precision}."
            )
        choices = {
            "learning_rate_rule": ("auto", *RULES),
            "run_as": ("auto", "script", "module"),
            "backend": (None, "tensorflow"),
            "strategy": (None, *STRATEGIES),
            "prefer": (SIZE, THROUGHPUT),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                words = ", ".join(str(a) for a in allowed if a is not None)
                raise UsageError(
                    f"{_named(name)} must be {words}; received {getattr(self, name)!r}."
                )
        if self.memory_limit is not None:
            parse_bytes(self.memory_limit, _named("memory_limit"))
        if self.headroom is not None:
            parse_share_or_bytes(self.headroom, _named("headroom"))
        # Makes no sense whatever the model is: said before a worker starts.
        largest = self.maximum or LARGEST
        try:
            SizeSpace(
                self.minimum,
                largest,
                self.multiple_of,
                power_of_two=self.power_of_two,
                divisor_of=self.target_batch_size,
            )
        except UsageError as error:
            flags = "--min, --max, --multiple-of, --power-of-two or --target-batch-size"
            raise UsageError(f"{error.message.rstrip('.')}. Change {flags}.") from error
        for name, shape in self.input_shapes.items():
            if not all(size >= 1 for size in shape):
                raise UsageError(
                    f"{_named('input_shapes')} must hold positive sizes; "
                    f"received {list(shape)} for {name!r}."
                )

    def headroom_bytes(self, budget_bytes: int) -> int | None:
        """The least headroom asked for, in bytes; None where none was."""
        if self.headroom is None:
            return None
        share, count = parse_share_or_bytes(self.headroom, "headroom")
        return int(share * budget_bytes) + count
