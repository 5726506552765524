"""The options that every command with a probe in it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


class _Shape(click.ParamType):  # type: ignore[type-arg]
    """`224,224,3` or `NAME=224,224,3`."""

    name = "[NAME=]SIZES"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, tuple[int, ...]]:
        name, _, sizes = str(value).rpartition("=")
        try:
            return name, tuple(int(size) for size in sizes.split(","))
        except ValueError:
            self.fail(f"expected sizes like 224,224,3 or image=224,224,3; received {value!r}")


def _option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """An option whose default is that of `ProbeOptions`: none is passed on unless given."""
    return click.option(*names, default=None, **settings)


_PROBE = (
    _option(
        "--device",
        "--devices",
        "device",
        metavar="DEVICE",
        help="auto, cpu, gpu, gpu:N, or several such as gpu:0,gpu:1.  [default: auto]",
    ),
    _option(
        "--strategy",
        metavar="NAME",
        help="mirrored builds the model under a MirroredStrategy over the GPUs.  [default: what "
        "the script makes]",
    ),
    _option(
        "--wait-for-idle",
        type=float,
        metavar="SECONDS",
        help="Wait so long at most for other processes to leave the GPU.  [default: no waiting]",
    ),
    _option(
        "--memory-limit",
        metavar="SIZE",
        help="What the training may use, such as 6GiB.  [default: all the GPU's allocator has; "
        "on the CPU 80% of the memory this process may use]",
    ),
    _option(
        "--min", "minimum", type=int, help="The smallest batch size to consider.  [default: 1]"
    ),
    _option(
        "--max",
        "maximum",
        type=int,
        help="The largest batch size to consider.  [default: the data set's size, if any]",
    ),
    _option("--multiple-of", type=int, help="Only multiples of this.  [default: 1]"),
    click.option(
        "--power-of-two",
        is_flag=True,
        default=None,
        help="Only powers of two.  [default: any size]",
    ),
    _option(
        "--precision",
        type=float,
        help="Share of the answer that may be left on the table; 0 for the exact size.  [default: "
        "0.02]",
    ),
    _option(
        "--headroom",
        metavar="SHARE|SIZE",
        help="Least part of the budget to keep free, such as 5% or 512MiB; where given, the proof "
        "begins with no larger size.  [default: 2%; where there are no loops 3.5% with buckets, "
        "and 5% where a step has few large allocations; by the peaks' spread, up to 6%, where no "
        "step could be replayed; 13% where memory is sampled]",
    ),
    _option("--steps", type=int, help="Training steps of a trial near the answer.  [default: 8]"),
    _option("--proof-steps", type=int, help="Training steps of the proof.  [default: 8]"),
    click.option(
        "--validation/--no-validation",
        default=None,
        help="Validate in the proof, on training data where there is no other.  [default: "
        "validation]",
    ),
    _option("--timeout", type=float, metavar="SECONDS", help="Of a trial.  [default: 300]"),
    _option(
        "--load-timeout",
        type=float,
        metavar="SECONDS",
        help="Of loading the model, a script's own code included.  [default: 600]",
    ),
    _option(
        "--total-timeout", type=float, metavar="SECONDS", help="Of the probe.  [default: 3600]"
    ),
    _option(
        "--device-wait",
        type=float,
        metavar="SECONDS",
        help="For another probe on the same GPU to end.  [default: 600]",
    ),
    click.option(
        "--dataset-cap/--no-dataset-cap",
        default=None,
        help="Bound the batch size by the data set's size.  [default: dataset-cap]",
    ),
    _option(
        "--input-shape",
        "input_shapes",
        type=_Shape(),
        multiple=True,
        help="Shape of an input with unknown dimensions, without the batch's. Repeatable.  "
        "[default: what the model says]",
    ),
    _option(
        "--base-batch-size",
        type=int,
        help="What the learning rate was chosen for.  [default: what the script trains with, "
        "else 32]",
    ),
    _option(
        "--base-lr",
        "base_learning_rate",
        type=float,
        help="The learning rate at that size.  [default: the optimizer's]",
    ),
    _option(
        "--lr-rule",
        "learning_rate_rule",
        metavar="RULE",
        help="auto, linear, sqrt or none.  [default: auto, by the optimizer]",
    ),
    _option(
        "--as",
        "run_as",
        metavar="KIND",
        help="module imports the file instead of running it.  [default: auto: run, then searched]",
    ),
    _option(
        "--fit", "fit_call", type=int, help="Which call of fit in a script to probe.  [default: 1]"
    ),
    _option(
        "--backend",
        metavar="NAME",
        help="tensorflow: overrides the back end that a script asks for.  [default: the script's]",
    ),
    click.option(
        "--safe-mode/--no-safe-mode",
        default=None,
        help="Refuse code inside a .keras file.  [default: safe-mode]",
    ),
    _option("--optimizer", help="For a model that is not compiled.  [default: adam]"),
    _option("--loss", help="For a model that is not compiled.  [default: by its last activation]"),
)

# Those that make sense of one batch size only.
_ONE_SIZE = (
    _option(
        "--target-batch-size",
        type=int,
        help="Of a step of the optimizer: find the largest micro-batch that divides it, and add "
        "gradients up.  [default: none; a step takes one batch]",
    ),
    _option(
        "--prefer",
        metavar="WHAT",
        help="size: the largest safe batch; throughput: the size tried with the best proven "
        "samples a second.  [default: size]",
    ),
    _option(
        "--sequence-length",
        type=int,
        help="Length of inputs whose length is unknown.  [default: what the model says]",
    ),
    click.option(
        "--cache/--no-cache",
        default=None,
        help="Take the answer of an earlier probe of the same, proven anew, and keep this one.  "
        "[default: cache]",
    ),
    _option(
        "--journal",
        metavar="FILE",
        help="Write each trial there as it ends.  [default: a file in the cache's folder, removed "
        "with the answer]",
    ),
    click.option(
        "--resume",
        is_flag=True,
        default=None,
        help="Go on from the trials in the journal of a probe that was stopped.  [default: start "
        "anew]",
    ),
)

_OUTPUT = (
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print the result as JSON on stdout.  [default: as text]",
    ),
    click.option(
        "--output",
        metavar="FILE",
        help="Write the same JSON, also that of a failure, to a file: whole, or not at all.  "
        "[default: nowhere]",
    ),
    click.option(
        "-q", "--quiet", is_flag=True, help="Show nothing while it runs.  [default: what goes on]"
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Show what the workers print, and whole tracebacks.  [default: neither]",
    ),
    click.option(
        "--log-file",
        type=click.Path(dir_okay=False),
        help="Write what the workers print to a file.  [default: nowhere]",
    ),
)


def probe_options(*, one_size: bool = True) -> Callable[[_F], _F]:
    """Give a command the options of a probe; `given` makes keywords of `probe` of them.

    Args:
        one_size: Those too that make sense of one batch size only. Defaults to all.
    """
    return lambda command: _all(_PROBE + (_ONE_SIZE if one_size else ()), command)


def output_options(command: _F) -> _F:
    """Give a command `as_json`, `output`, `quiet`, `verbose` and `log_file`."""
    return _all(_OUTPUT, command)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as `autobatch.probe` takes them."""
    named = {name: value for name, value in options.items() if value not in (None, ())}
    if "input_shapes" in named:
        named["input_shapes"] = dict(named["input_shapes"])
    return named


def _all(options: tuple[Callable[[_F], _F], ...], command: _F) -> _F:
    for option in reversed(options):  # decorators apply from the last to the first
        command = option(command)
    return command
