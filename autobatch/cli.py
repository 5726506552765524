"""The command: parse, call, print, exit code. Only this module prints."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from autobatch.errors import AutobatchError
    from autobatch.events import Event, Observer
    from autobatch.records import LearningRate, ProbeResult

_F = TypeVar("_F", bound=Callable[..., Any])
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EXIT_CODES = """Exit codes: 0 found; 2 wrong usage; 3 nothing fits; 4 the model failed; 5 no usable
device; 6 trials died for an unknown reason; 7 the device changed; 130 interrupted."""


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="keras-autobatch", prog_name="autobatch")
def main() -> None:
    """Find the largest safe training batch size of a Keras model, prove it, and scale the
    learning rate to it."""


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


@main.command(epilog=_EXIT_CODES)
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]")
@_option("--device", metavar="DEVICE", help="auto, cpu, gpu or gpu:N.  [default: auto]")
@_option(
    "--memory-limit",
    metavar="SIZE",
    help="What the training may use, such as 6GiB.  [default: all the GPU's allocator has; on the "
    "CPU 80% of the memory this process may use]",
)
@_option("--min", "minimum", type=int, help="The smallest batch size to consider.  [default: 1]")
@_option(
    "--max",
    "maximum",
    type=int,
    help="The largest batch size to consider.  [default: the data set's size]",
)
@_option("--multiple-of", type=int, help="Only multiples of this.  [default: 1]")
@click.option("--power-of-two", is_flag=True, default=None, help="Only powers of two.")
@_option(
    "--precision",
    type=float,
    help="Share of the answer that may be left on the table; 0 for the exact size.  [default: "
    "0.02]",
)
@_option(
    "--headroom",
    metavar="SHARE|SIZE",
    help="Least part of the budget to keep free, such as 5% or 512MiB.  [default: what the "
    "measured spread of the peaks asks for]",
)
@_option("--steps", type=int, help="Training steps of a trial near the answer.  [default: 6]")
@_option("--proof-steps", type=int, help="Training steps of the proof.  [default: 8]")
@click.option(
    "--validation/--no-validation",
    default=None,
    help="Validate in the proof, on training data where there is no other.  [default: validation]",
)
@_option("--timeout", type=float, metavar="SECONDS", help="Of a trial.  [default: 300]")
@_option(
    "--load-timeout",
    type=float,
    metavar="SECONDS",
    help="Of loading the model, a script's own code included.  [default: 600]",
)
@_option("--total-timeout", type=float, metavar="SECONDS", help="Of the probe.  [default: 3600]")
@click.option(
    "--dataset-cap/--no-dataset-cap",
    default=None,
    help="Bound the batch size by the data set's size.  [default: dataset-cap]",
)
@_option(
    "--input-shape",
    "input_shapes",
    type=_Shape(),
    multiple=True,
    help="Shape of an input with unknown dimensions, without the batch's. Repeatable.",
)
@_option("--sequence-length", type=int, help="Length of inputs whose length is unknown.")
@_option(
    "--base-batch-size",
    type=int,
    help="What the learning rate was chosen for.  [default: what the script trains with, else 32]",
)
@_option(
    "--base-lr",
    "base_learning_rate",
    type=float,
    help="The learning rate at that size.  [default: the optimizer's]",
)
@_option(
    "--lr-rule",
    "learning_rate_rule",
    metavar="RULE",
    help="auto, linear, sqrt or none.  [default: auto, by the optimizer]",
)
@_option(
    "--as",
    "run_as",
    metavar="KIND",
    help="script (run up to fit) or module (imported).  [default: auto: run, then searched]",
)
@_option(
    "--fit", "fit_call", type=int, help="Which call of fit in a script to probe.  [default: 1]"
)
@_option(
    "--backend",
    metavar="NAME",
    help="tensorflow: overrides the back end that a script asks for.",
)
@click.option(
    "--safe-mode/--no-safe-mode",
    default=None,
    help="Refuse code inside a .keras file.  [default: safe-mode]",
)
@_option("--optimizer", help="For a model that is not compiled.  [default: adam]")
@_option("--loss", help="For a model that is not compiled.  [default: by its last activation]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing while it runs.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the workers print.")
@click.option(
    "--log-file", type=click.Path(dir_okay=False), help="Write what the workers print to a file."
)
def probe(
    target: str,
    arguments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    log_file: str | None,
    **options: Any,
) -> None:
    """Find the largest safe batch size of TARGET, and prove it in a fresh process.

    TARGET is a training script as it is (train.py: run up to its model.fit), a function that
    returns a model (model.py:build_model, package.module:factory), a file with a build_model,
    or a saved model (model.keras). ARGUMENTS reach the script.

    The answer goes to stdout, everything else to stderr. TARGET's code runs with your rights.

    \b
    autobatch probe train.py
    autobatch probe train.py --memory-limit 6GiB -- --data big
    autobatch probe model.py:build_model --json > result.json
    """
    from autobatch.errors import AutobatchError, UsageError

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "input_shapes" in given:
        given["input_shapes"] = dict(given["input_shapes"])
    try:
        with _watching(quiet, verbose, log_file) as observer, _ended_by_signals():
            from autobatch.probing import probe as run

            result = run(target, arguments=arguments, observer=observer, **given)
    except AutobatchError as error:
        _fail(error, as_json=as_json, verbose=verbose)
    except OSError as error:
        failed = UsageError(f"{error.filename or 'The system'}: {error.strerror or error}.")
        _fail(failed, as_json=as_json, verbose=verbose)
    else:
        _show(result, as_json=as_json, quiet=quiet)


@main.command("scale-lr")
@click.option("--base-lr", type=float, required=True, help="The rate to scale.")
@click.option("--base-batch-size", type=int, required=True, help="What it was chosen for.")
@click.option("--batch-size", type=int, required=True, help="What to scale it to.")
@click.option(
    "--optimizer", default="SGD", show_default=True, help="Keras's name of it; chooses the rule."
)
@click.option("--lr-rule", default="auto", show_default=True, help="auto, linear, sqrt or none.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def scale_lr(
    base_lr: float,
    base_batch_size: int,
    batch_size: int,
    optimizer: str,
    lr_rule: str,
    as_json: bool,
) -> None:
    """Scale a learning rate from one batch size to another; no model is run.

    \b
    autobatch scale-lr --base-lr 0.05 --base-batch-size 16 --batch-size 96 --optimizer SGD
    """
    from autobatch.errors import AutobatchError
    from autobatch.learning_rate import scale_learning_rate
    from autobatch.records import OptimizerInfo

    try:
        scaled = scale_learning_rate(
            OptimizerInfo(class_name=optimizer, learning_rate=base_lr),
            base_batch_size=base_batch_size,
            batch_size=batch_size,
            rule=lr_rule,
        )
    except AutobatchError as error:
        _fail(error, as_json=as_json, verbose=False)
    else:
        _print_scaled(scaled, as_json=as_json)


def _print_scaled(scaled: LearningRate, *, as_json: bool) -> None:
    import msgspec

    if as_json:
        _print(msgspec.json.encode(scaled).decode())
        return
    _print(f"{scaled.learning_rate:.6g}")
    notes = (f"{scaled.rule} rule: {scaled.reason}", *scaled.advice)
    for note in notes:
        click.echo(note, err=True)


# -- what is shown -------------------------------------------------------------------------------


def _look(stream: IO[str]) -> dict[str, Any]:
    """Width, colour and characters that suit the stream."""
    import shutil

    terminal = stream.isatty()
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return {
        "width": max(40, min(shutil.get_terminal_size((80, 24)).columns, 100)),
        "color": terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "unicode": encoding.startswith("utf"),
    }


@contextlib.contextmanager
def _watching(quiet: bool, verbose: bool, log_file: str | None) -> Iterator[Observer]:
    """An observer that shows what happens on stderr and keeps the workers' output."""
    from autobatch.report.live import LiveView

    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    mode = "quiet" if quiet else "live" if terminal else "plain"
    look = _look(sys.stderr)
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(
            LiveView(
                sys.stderr,
                mode=mode,  # type: ignore[arg-type]
                color=look["color"],
                unicode=look["unicode"],
                verbose=verbose,
            )
        )
        if log_file is None:
            yield view
            return
        log = _Log(stack.enter_context(open(log_file, "w", encoding="utf-8")), view)
        yield log


class _Log:
    """Keeps the workers' output in a file, as long as the file takes it."""

    def __init__(self, file: IO[str], then: Observer) -> None:
        self._file, self._then, self._broken = file, then, False

    def __call__(self, event: Event) -> None:
        from autobatch.events import LogText, Notice

        if isinstance(event, LogText) and not self._broken:
            try:
                self._file.write(event.text)
                self._file.flush()
            except OSError as error:
                self._broken = True
                with contextlib.suppress(OSError):
                    self._file.close()
                self._then(Notice(f"The log file takes no more ({error.strerror}); going on."))
        self._then(event)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the probe as Ctrl-C does: no worker is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _show(result: ProbeResult, *, as_json: bool, quiet: bool) -> None:
    from autobatch.report.summary import summary

    if not as_json:
        _print(summary(result, **_look(sys.stdout)))
        return
    if not quiet:
        _print(summary(result, **_look(sys.stderr)), sys.stderr)
    _print(result.to_json())


def _fail(error: AutobatchError, *, as_json: bool, verbose: bool) -> None:
    from autobatch.report.summary import failure

    if as_json:
        from autobatch.records import error_json

        _print(error_json(error))
    _print(failure(error, verbose=verbose, **_look(sys.stderr)), sys.stderr)
    sys.exit(error.exit_code)


def _print(text: str, stream: IO[str] | None = None) -> None:
    """Write to stdout or stderr; a reader that has gone is no error of ours."""
    stream = stream or sys.stdout
    try:
        stream.write(text.rstrip("\n") + "\n")
        stream.flush()
    except (BrokenPipeError, ValueError):
        # What is still buffered would fail again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
