"""The command: parse, call, print, exit code. Only this module prints."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from autobatch.errors import AutobatchError
    from autobatch.events import Event, Observer
    from autobatch.records import LearningRate, ProbeResult

_F = TypeVar("_F", bound=Callable[..., Any])
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EXIT_CODES = """Exit codes: 0 found; 2 wrong usage; 3 nothing fits; 4 the model failed; 5 no usable
device; 6 trials died for an unknown reason; 7 the device changed; 130 interrupted."""


class _Autobatch(click.Group):
    """A group of commands whose own errors of usage look, and end, as those of a probe do."""

    def main(
        self, args: Sequence[str] | None = None, *others: Any, **settings: Any
    ) -> Any:  # what click's own returns
        if not settings.get("standalone_mode", True):
            return super().main(args, *others, **settings)
        _open_standard_streams()
        given = list(sys.argv[1:] if args is None else args)
        ours = given[: given.index("--")] if "--" in given else given
        as_json = "--json" in ours
        try:
            sys.exit(super().main(given, *others, **{**settings, "standalone_mode": False}))
        except click.ClickException as error:
            from autobatch.errors import UsageError

            if not given:  # newer versions of click raise their help
                error.show()
                sys.exit(error.exit_code)
            _fail(UsageError(_advised(error)), as_json=as_json)
        except click.Abort:
            from autobatch.errors import ProbeInterrupted

            _fail(ProbeInterrupted("Interrupted."), as_json=as_json)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends like everything else
            import traceback

            from autobatch.errors import AutobatchError

            said = f"autobatch itself failed ({type(error).__name__}: {error})."
            asked = "That is a bug: please report it with what follows."
            bug = AutobatchError(f"{said} {asked}", details=traceback.format_exc())
            _fail(bug, as_json=as_json)


def _advised(error: click.ClickException) -> str:
    """What click found wrong, and what to do about it."""
    said = error.format_message().rstrip(".?")
    said += "?" if "Did you mean" in said else "."
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "autobatch"
    if isinstance(error, click.NoSuchOption) and command.endswith("probe"):
        said += f" Your script's own arguments go after --: {command} train.py -- --epochs 1."
    return f"{said} {command} --help lists what there is."


def _open_standard_streams() -> None:
    """Fill the places of closed standard streams, or the next pipe would take them."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


@click.group(cls=_Autobatch, context_settings=_CONTEXT)
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
    help="The largest batch size to consider.  [default: the data set's size, if any]",
)
@_option("--multiple-of", type=int, help="Only multiples of this.  [default: 1]")
@click.option(
    "--power-of-two",
    is_flag=True,
    default=None,
    help="Only powers of two.  [default: any size]",
)
@_option(
    "--precision",
    type=float,
    help="Share of the answer that may be left on the table; 0 for the exact size.  [default: "
    "0.02]",
)
@_option(
    "--headroom",
    metavar="SHARE|SIZE",
    help="Least part of the budget to keep free, such as 5% or 512MiB.  [default: 3.5%; up "
    "to 6% by the peaks' spread where no step could be replayed]",
)
@_option("--steps", type=int, help="Training steps of a trial near the answer.  [default: 4]")
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
    help="Shape of an input with unknown dimensions, without the batch's. Repeatable.  [default: "
    "what the model says]",
)
@_option(
    "--sequence-length",
    type=int,
    help="Length of inputs whose length is unknown.  [default: what the model says]",
)
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
    help="module imports the file instead of running it.  [default: auto: run, then searched]",
)
@_option(
    "--fit", "fit_call", type=int, help="Which call of fit in a script to probe.  [default: 1]"
)
@_option(
    "--backend",
    metavar="NAME",
    help="tensorflow: overrides the back end that a script asks for.  [default: the script's]",
)
@click.option(
    "--safe-mode/--no-safe-mode",
    default=None,
    help="Refuse code inside a .keras file.  [default: safe-mode]",
)
@_option("--optimizer", help="For a model that is not compiled.  [default: adam]")
@_option("--loss", help="For a model that is not compiled.  [default: by its last activation]")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the result as JSON on stdout.  [default: as text]",
)
@click.option(
    "-q", "--quiet", is_flag=True, help="Show nothing while it runs.  [default: what goes on]"
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Show what the workers print, and whole tracebacks.  [default: neither]",
)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False),
    help="Write what the workers print to a file.  [default: nowhere]",
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
    from autobatch.errors import AutobatchError

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "input_shapes" in given:
        given["input_shapes"] = dict(given["input_shapes"])
    try:
        with _watching(quiet, verbose, log_file) as observer, _ended_by_signals():
            from autobatch.probing import probe as run

            result = run(target, arguments=arguments, observer=observer, **given)
    except AutobatchError as error:
        _fail(error, as_json=as_json, verbose=verbose)
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
        _answer(msgspec.json.encode(scaled).decode())
        return
    _answer(f"{scaled.learning_rate:.6g}")
    _write(sys.stderr, "\n".join((f"{scaled.rule} rule: {scaled.reason}", *scaled.advice)))


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
        yield _Log(stack.enter_context(_log(log_file)), view)


def _log(path: str) -> IO[str]:
    from autobatch.errors import UsageError

    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"The log file {path} cannot be written ({error.strerror}). Name one in a folder that "
            "exists and may be written to."
        ) from error


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

    signals = (signal.SIGTERM, signal.SIGHUP)
    # What is ignored stays so: nohup asks for that.
    heard = [sign for sign in signals if signal.getsignal(sign) is not signal.SIG_IGN]
    before = {sign: signal.signal(sign, interrupt) for sign in heard}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _show(result: ProbeResult, *, as_json: bool, quiet: bool) -> None:
    from autobatch.report.summary import summary

    if not as_json:
        _answer(summary(result, **_look(sys.stdout or sys.stderr)))
        return
    if not quiet:
        _write(sys.stderr, summary(result, **_look(sys.stderr)))
    _answer(result.to_json())


def _fail(error: AutobatchError, *, as_json: bool, verbose: bool = False) -> NoReturn:
    from autobatch.report.summary import failure

    if as_json and sys.stdout is not None:
        from autobatch.records import error_json

        _write(sys.stdout, error_json(error))
    _write(sys.stderr, failure(error, verbose=verbose, **_look(sys.stderr)))
    sys.exit(error.exit_code)


def _answer(text: str) -> None:
    """Write to stdout; where that is closed or full, to stderr, for the answer was expensive."""
    if sys.stdout is None:
        _write(sys.stderr, text)
        return
    failed = _write(sys.stdout, text)
    if failed is not None:
        _write(sys.stderr, f"Stdout takes no more ({failed.strerror}); the answer was:\n{text}")
        sys.exit(1)


def _write(stream: TextIO, text: str) -> OSError | None:
    """Write a text and its line's end; returns why it could not be, if a reader still wants it.

    A reader that has gone, such as `head`, is no error.
    """
    data = (text.rstrip("\n") + "\n").encode(
        "utf-8" if text.startswith("{") else stream.encoding or "utf-8", "backslashreplace"
    )
    try:
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()
    except OSError as error:
        # What is still buffered would fail again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None
