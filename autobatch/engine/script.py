"""Run a training script as `__main__`, up to the call of `fit` that is asked for.

`fit` is replaced on the class that defines it, so that methods of subclasses which call
`super().fit(...)` reach the replacement too. The replacement never returns: trials run from
inside it, below the script's own frames, in whatever scopes the script has opened. So nothing
after `fit` ever runs.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from autobatch.engine import notebook
from autobatch.engine import training as trainings
from autobatch.errors import ModelError, UsageError
from autobatch.import_hooks import when_imported
from autobatch.protocol import Target


class FitTrap:
    """Catches one call of `fit`, counted from 1; those before it are cut to one step.

    Args:
        call_number: Which.
        on_fit: Takes what reads the training that the call asks for, and does not return.
        on_loop: Called when the script begins to train in a loop of its own, outside of `fit`.

    Attributes:
        calls: Of `fit` so far.
        has_loop: The script trains in a loop of its own.
    """

    def __init__(
        self,
        call_number: int,
        on_fit: Callable[[Callable[[], trainings.Training]], None],
        on_loop: Callable[[], None],
    ) -> None:
        self._wanted, self._on_fit, self._on_loop = call_number, on_fit, on_loop
        self.calls = 0
        self.has_loop = False
        self._inside = False

    def install(self) -> None:
        """Replace `fit` and `train_on_batch` while the script runs; watch for a loop of its own."""
        owner = _owner(keras.Model, "fit")
        original = vars(owner)["fit"]
        self._replaced = owner, {name: vars(owner)[name] for name in ("fit", "train_on_batch")}
        self._watch()
        signature = inspect.signature(original)

        @functools.wraps(original)
        def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return original(model, *args, **kwargs)
            bound = signature.bind(model, *args, **kwargs)
            bound.apply_defaults()
            call = {name: value for name, value in bound.arguments.items() if name != "self"}
            self.calls += 1
            self._inside = True
            if self.calls < self._wanted:
                try:
                    return original(model, **_one_step(call))
                finally:
                    self._inside = False
            self._unwatch()
            # Read where nothing of the script's can catch what goes wrong with it.
            self._on_fit(lambda: trainings.from_fit_call(model, original.__get__(model), call))
            raise AssertionError("on_fit returned")

        owner.fit = fit
        owner.train_on_batch = self._refuse_train_on_batch
        when_imported("tf_keras", _refuse_legacy_keras)

    def _watch(self) -> None:
        """See an optimizer's first step outside of `fit`."""
        optimizer = _owner(keras.optimizers.Optimizer, "apply")
        original = vars(optimizer)["apply"]
        self._watched = optimizer, original

        @functools.wraps(original)
        def apply(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                self._unwatch()
                self.has_loop = True
                self._on_loop()
            return original(*args, **kwargs)

        optimizer.apply = apply

    def _unwatch(self) -> None:
        optimizer, original = self._watched
        optimizer.apply = original

    def remove(self) -> None:
        """Put them back: the script ended without the call, and trials will call them."""
        self._unwatch()
        owner, originals = self._replaced
        for name, original in originals.items():
            setattr(owner, name, original)

    def _refuse_train_on_batch(self, *_: Any, **__: Any) -> None:
        raise _RefusedError(
            "The script trains with a loop of its own around train_on_batch, where autobatch can "
            "set no batch size. Put the model into a function and probe that "
            "(autobatch probe model.py:build_model)."
        )


def _owner(kind: type, name: str) -> Any:
    """The class that defines this method of `kind`."""
    return next(c for c in kind.__mro__ if name in vars(c))


class _RefusedError(ModelError, SystemExit):
    """A ModelError that `except Exception` in the user's script does not swallow."""


class _FirstStep(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends a training after its first step.

    (`steps_per_epoch=1` would make one batch of all the data that no batch size is given for.)
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = True


def _one_step(call: dict[str, Any]) -> dict[str, Any]:
    """The same call for one step of training and one of validation.

    The script's own callbacks stay out: they could write over the files of a real training.
    """
    epochs = call["initial_epoch"] + 1
    cut = dict(call, epochs=epochs, callbacks=[_FirstStep()], verbose=0, validation_freq=1)
    if call["validation_data"] is not None or call["validation_split"]:
        cut["validation_steps"] = 1
    return cut


OWN_LOOP = (
    "The script trains in a loop of its own (an optimizer stepped outside of fit), where autobatch "
    "can set no batch size; autobatch.search finds that of any loop's step."
)


def run(
    target: Target,
    fit_call: int,
    on_fit: Callable[[Callable[[], trainings.Training]], None],
    on_loop: Callable[[], None],
) -> tuple[dict[str, Any], bool]:
    """Run a script that may reach `fit`, and then does not come back.

    Args:
        target: The script.
        fit_call, on_fit, on_loop: See `FitTrap`.

    Returns:
        The names of a script that ran to its end, and whether it trained in a loop of its own.

    Raises:
        ModelError: It ended by `sys.exit`, or trains in a way that is refused.
        UsageError: It calls `fit` fewer times than `fit_call`.
        Exception: Whatever it raises.
    """
    assert target.path is not None
    tree = ast.parse(importlib.util.decode_source(Path(target.path).read_bytes()), target.path)
    shell = notebook.Shell()

    def told(read: Callable[[], trainings.Training]) -> trainings.Training:
        training = read()
        training.warnings += shell.told
        return training

    trap = FitTrap(fit_call, lambda read: on_fit(lambda: told(read)), on_loop)
    trap.install()
    try:
        names = _run_as_main(
            target.path,
            compile(tree, target.path, "exec", dont_inherit=True),
            {"get_ipython": lambda: shell} if notebook.is_export(tree) else {},
        )
    except ModelError:
        raise
    except SystemExit as error:
        raise ModelError(
            f"{target.path} ended by sys.exit({error.code!r}) before it called model.fit. If it "
            "needs arguments, give them after --: autobatch probe train.py -- --epochs 1."
        ) from error
    except Exception as error:
        vars(error).setdefault("__notes__", []).extend(shell.told)
        raise
    trap.remove()
    if trap.calls:
        raise UsageError(
            f"{target.path} calls fit {trap.calls} times; --fit {fit_call} asks for "
            f"one more than there is. Give a number from 1 to {trap.calls}."
        )
    return names, trap.has_loop


def _run_as_main(path: str, code: types.CodeType, known: dict[str, Any]) -> dict[str, Any]:
    """Run compiled code as the module `__main__`, as `python path` does; returns its names.

    The module stays `__main__` afterwards: classes that it defines are looked up there.
    """
    os.environ["MPLBACKEND"] = "Agg"  # plt.show() would wait for somebody to close the window
    module = types.ModuleType("__main__")
    module.__dict__.update(known, __file__=path, __builtins__=__builtins__, __cached__=None)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)  # noqa: S102 - running the user's script is what we are for
    return module.__dict__


def _refuse_legacy_keras(module: Any) -> None:
    def fit(*_: Any, **__: Any) -> None:
        raise _RefusedError(
            "The model is a legacy tf_keras (Keras 2) model; autobatch works with Keras 3. "
            "Unset TF_USE_LEGACY_KERAS and import keras instead of tf_keras."
        )

    module.Model.fit = fit
