"""The process that trains under `autobatch run`: the script as `__main__`, with `fit` changed.

It replaces the process that probed (`exec`), so its exit code, its signals and its standard
streams are the script's own. Nothing of TensorFlow or Keras is imported before the script does it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from autobatch.import_hooks import when_imported
from autobatch.run_plan import VARIABLE, Found, RunPlan, found

_failed: list[str] = []  # the error that ended the script, if one did
_BOOT = (
    "import sys; sys.path[:1] = [p for p in sys.path[:1] if p]; sys.path.append({root!r}); "
    "from autobatch.run_main import main; main()"
)


def become(plan: RunPlan) -> NoReturn:
    """Replace this process by the training."""
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    root = str(Path(__file__).resolve().parent.parent)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    environment = {**os.environ, VARIABLE: msgspec.json.encode(plan).decode()}
    command = [sys.executable, *_args_from_interpreter_flags(), "-c", _BOOT.format(root=root)]
    os.execve(sys.executable, [*command, plan.script, *plan.arguments], environment)  # noqa: S606


def main() -> None:
    """Run the script that the plan in the environment names."""
    plan = msgspec.json.decode(os.environ.pop(VARIABLE), type=RunPlan)
    folder = os.getcwd()

    def find_other(fit_call: int) -> Found:
        from autobatch.run_probe import find

        with _in_folder(folder):
            result = find(plan.script, plan.arguments, plan.options, fit_call=fit_call)
        return found(result)

    when_imported("keras", lambda keras: _change_fit(keras, plan, find_other))
    _run(plan)


def _change_fit(keras: Any, plan: RunPlan, find_other: Any) -> None:
    owner = next(kind for kind in keras.Model.__mro__ if "fit" in vars(kind))
    original = vars(owner)["fit"]
    made: list[Any] = []

    @functools.wraps(original)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not made:
            from autobatch.engine.run_script import FitResizer  # TensorFlow is whole by now

            made.append(FitResizer(plan, find_other, _say))
        return made[0].fit(original, self, *args, **kwargs)

    owner.fit = fit
    process = os.getpid()

    def never_called() -> None:
        if not made and not _failed and os.getpid() == process:
            _say("the script did not call model.fit, so nothing was changed")

    atexit.register(never_called)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream that is closed
        print(f"autobatch: {line}.", file=sys.stderr, flush=True)


def _run(plan: RunPlan) -> None:
    """As `python script.py` does."""
    path = os.path.abspath(plan.script)
    sys.argv = [plan.script, *plan.arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    source = importlib.util.decode_source(Path(path).read_bytes())
    module = types.ModuleType("__main__")
    module.__dict__.update(
        __file__=path,
        __builtins__=__builtins__,
        __loader__=importlib.machinery.SourceFileLoader("__main__", path),
        __cached__=None,
        __annotations__={},
    )
    sys.modules["__main__"] = module
    _hide_our_frames()
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102


def _hide_our_frames() -> None:
    """Have an uncaught error's traceback begin in the script, as it would without us."""
    shown = sys.excepthook

    def excepthook(kind: Any, error: Any, trace: Any) -> None:
        _failed.append(kind.__name__)
        while trace is not None and trace.tb_frame.f_code.co_filename in ("<string>", __file__):
            trace = trace.tb_next
        shown(kind, error.with_traceback(trace), trace)

    sys.excepthook = excepthook


@contextlib.contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    """Be in a folder for a while: the script's path and data may be relative to where it began."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
