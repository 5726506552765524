"""TARGET as the user wrote it -> what a worker is to load. Finds what can be found without one."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autobatch.errors import ModelError, UsageError
from autobatch.pickles import pickled
from autobatch.protocol import Target

_READ_AT_IMPORT = ("TF_", "XLA_", "CUDA_", "KERAS_BACKEND")


def resolve(target: Any, arguments: Sequence[str] = (), *, run_as: str = "auto") -> Target:
    """What a worker is to load.

    Args:
        target: `model.py`, `model.py:name`, `package.module:name`, `model.keras`, a callable that
            returns a model, or a compiled Keras model.
        arguments: For the script's `sys.argv`.
        run_as: See `ProbeOptions.run_as`.

    Raises:
        UsageError: There is no such file, or it is of a kind that is not known.
        ModelError: The file has a syntax error, or the object cannot be sent to a worker.
    """
    if isinstance(target, (str, os.PathLike)):
        return _from_text(os.fspath(target), tuple(arguments), run_as)
    if isinstance(target, LiveTraining):
        return Target(kind="pickle", pickle=_sent(target))
    if not callable(target):
        raise UsageError(
            "target must be a path, 'file.py:function', a callable that returns a Keras model, or "
            f"a compiled Keras model; received {type(target).__name__}."
        )
    return Target(kind="pickle", pickle=_sent(target), arguments=tuple(arguments))


def _from_text(text: str, arguments: tuple[str, ...], run_as: str) -> Target:
    for each in (text, *arguments):
        if not each.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in each):
            raise UsageError(f"{each!r} is not valid UTF-8; rename the file or the argument.")
    where, colon, name = text.rpartition(":")
    if not colon or (Path(text).exists() and not Path(where).exists()):
        where, name, colon = text, "", ""
    if not where or (colon and not name):
        raise UsageError(f"TARGET is incomplete; received {text!r}. {_FORMS}")
    path = Path(where)
    if path.suffix == ".keras":
        _require_file(path)
        if name:
            raise UsageError(
                f"{where} is a saved model and holds no {name!r}; leave out what follows the colon."
            )
        return Target(kind="saved", path=str(path.resolve()), arguments=arguments)
    if name and path.is_dir() and where.isidentifier():
        return Target(kind="factory", module=where, name=name, arguments=arguments)
    if path.suffix == ".py" or os.sep in where or path.exists():
        _check_python(path)
        kind = "factory" if name else "module" if run_as == "module" else "script"
        absolute = str(path.absolute())
        return Target(kind=kind, path=absolute, name=name or None, arguments=arguments)
    if name and all(part.isidentifier() for part in where.split(".")):
        return Target(kind="factory", module=where, name=name, arguments=arguments)
    raise UsageError(f"There is no file {where!r}. {_FORMS}")


_FORMS = (
    "TARGET is a Python file (train.py), a function in one (model.py:build_model), a function in a "
    "module (package.module:build_model), or a saved model (model.keras)."
)


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if (path / "saved_model.pb").exists():
        raise UsageError(f"{path} is a TensorFlow SavedModel. {_SAVE_AS_KERAS}")
    what = "is a directory" if path.is_dir() else "does not exist" if not path.exists() else ""
    raise UsageError(
        f"{path} {what or 'is no regular file'}; expected a Python file or a saved .keras model."
    )


_SAVE_AS_KERAS = "Load it where it was made and save it anew, compiled: model.save('model.keras')."


def _check_python(path: Path) -> None:
    _require_file(path)
    if path.suffix in (".h5", ".hdf5"):
        raise UsageError(f"{path} is a model in the old HDF5 format. {_SAVE_AS_KERAS}")
    if path.suffix == ".ipynb":
        raise UsageError(
            f"{path} is a notebook. Call autobatch.probe(build_model) in it, or make a script of "
            "it: jupyter nbconvert --to script."
        )
    expected = (
        "expected a training script, a file with a build_model function, or a saved .keras model."
    )
    if path.suffix not in ("", ".py", ".pyw"):
        raise UsageError(f"{path} is not a Python file, by its name; {expected}")
    try:
        raw = path.read_bytes()
        # A null byte is a ValueError to some versions of Python, and a syntax error to others.
        source = "" if b"\0" in raw else importlib.util.decode_source(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the worker will compile it again, and say them
            compile(source, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise UsageError(f"{path} could not be read: {error.strerror}.") from error
    except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, SyntaxError) and error.lineno is not None and path.suffix:
            shown = f"{path}, line {error.lineno}: {error.msg}"
            line = (error.text or "").rstrip()
            raise ModelError(
                f"The file has a syntax error: {shown}. Correct it; this is Python "
                f"{platform.python_version()}.",
                details=line,
            ) from error
        raise UsageError(f"{path} is not a Python file ({error}); {expected}") from error
    if b"\0" in raw:
        raise UsageError(f"{path} is not a Python file (it holds null bytes); {expected}")


def literal_environment(target: Target) -> dict[str, str]:
    """Variables that the file itself sets, plainly and at its top level, for TensorFlow to read.

    A worker that has imported TensorFlow before the file runs needs them from the start. What
    this does not see, the worker notices and says.
    """
    if target.path is None or target.kind == "saved":
        return {}
    source = importlib.util.decode_source(Path(target.path).read_bytes())
    found: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = ast.parse(source).body
    for node in body:
        name, value, always = _assignment(node)
        if name.startswith(_READ_AT_IMPORT) and (always or name not in os.environ):
            found[name] = value
    return found


def _assignment(node: ast.stmt) -> tuple[str, str, bool]:
    """`os.environ[NAME] = VALUE` and `os.environ.setdefault(NAME, VALUE)`, else blanks."""
    if (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Subscript)
        and _is_environ(node.targets[0].value)
        and isinstance(key := node.targets[0].slice, ast.Constant)
        and isinstance(node.value, ast.Constant)
    ):
        return str(key.value), str(node.value.value), True
    if (
        isinstance(node, ast.Expr)
        and isinstance(call := node.value, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "setdefault"
        and _is_environ(call.func.value)
        and len(call.args) == 2
        and all(isinstance(argument, ast.Constant) for argument in call.args)
    ):
        name, value = (str(argument.value) for argument in call.args)  # type: ignore[attr-defined]
        return name, value, False
    return "", "", False


def _is_environ(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )


class PickledModel:
    """A live model on its way to a worker: Keras's own form of it, and the classes it needs.

    Args:
        saved: The bytes of a `.keras` file.
        custom_objects: The user's own classes and functions in it, by name.
    """

    def __init__(self, saved: bytes, custom_objects: Mapping[str, Any]) -> None:
        self._saved, self._custom_objects = saved, dict(custom_objects)

    def restore(self) -> Any:
        """The model, in a process of its own."""
        import tempfile

        import keras

        with tempfile.TemporaryDirectory(prefix="autobatch-") as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(self._saved)
            # Not from a file that anybody else could have written: from the live model itself.
            return keras.models.load_model(
                path, custom_objects=self._custom_objects, safe_mode=False
            )


class LiveTraining:
    """A live model, and what is to be known of its data where that cannot go to a worker.

    Args:
        model: A compiled and built Keras model.
        sample: Some rows of its training data, as nested numpy arrays.
        samples: Rows in an epoch; None where unknown.
        batch_size: The user's own; None where there is none.
        lengths: Of its sequences (`length_buckets.Lengths`); None where unknown.
        keeps: The training is to keep what each step begins with until it has ended.
    """

    def __init__(
        self,
        model: Any,
        sample: Any,
        *,
        samples: int | None,
        batch_size: int | None,
        lengths: Any = None,
        keeps: bool = False,
    ) -> None:
        self.model, self.sample, self.lengths = model, sample, lengths
        self.samples, self.batch_size, self.keeps = samples, batch_size, keeps


def _sent(target: Any) -> bytes:
    live = target if isinstance(target, LiveTraining) else None
    if live is not None:
        target = live.model
    what = f"the {type(target).__name__} {getattr(target, '__name__', '')}".rstrip()
    keras = sys.modules.get("keras")
    homes = {kind.__module__.split(".")[0] for kind in type(target).__mro__}
    if "tf_keras" in homes:
        raise ModelError(
            "The target is a legacy tf_keras (Keras 2) model; autobatch works with Keras 3. "
            "Unset TF_USE_LEGACY_KERAS and import keras instead of tf_keras."
        )
    try:
        if keras is not None and isinstance(target, keras.Model):
            what = f"the model {target.name!r}"
            if not target.compiled:
                raise UsageError(f"The{what[3:]} is not compiled; call its compile() first.")
            if not target.built:
                raise UsageError(
                    f"The{what[3:]} is not built: nothing says the shape of its inputs. Give it a "
                    "keras.Input or call its build(), or pass a function that makes it."
                )
            target = _pickled_model(target)
        if live is not None:
            target = LiveTraining(
                target,
                live.sample,
                samples=live.samples,
                batch_size=live.batch_size,
                lengths=live.lengths,
                keeps=live.keeps,
            )
        return pickled(target)
    except UsageError:
        raise
    except Exception as error:
        said = (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(".")
        raise ModelError(
            f"{what[0].upper()}{what[1:]} cannot be sent to a worker process ({said}). Pass a "
            "function without arguments that builds and compiles the model, or name one in a file: "
            "autobatch.probe('model.py:build_model').",
            details=str(error),
        ) from error


def _pickled_model(model: Any) -> PickledModel:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="autobatch-") as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        saved = path.read_bytes()
    return PickledModel(saved, _own_objects(model))


def _own_objects(model: Any) -> dict[str, Any]:
    """The user's classes and functions in a model, by the names that Keras looks them up under.

    Layers and what they hold (activations, initializers, regularizers), the optimizer, and what
    was given to `compile`.
    """
    import keras

    compiled = getattr(model, "_compile_config", None)
    holders = [*model._flatten_layers(), model.optimizer]
    parts = [*holders, *keras.tree.flatten(getattr(compiled, "config", {}))]
    for holder in holders:  # Keras wraps methods such as build; they are no objects of the model's
        parts += [part for name, part in vars(holder).items() if not hasattr(type(holder), name)]
    own: dict[str, Any] = {}
    for part in parts:
        kinds = (part,) if inspect.isfunction(part) else type(part).__mro__
        for kind in kinds:
            known = kind.__module__.split(".")[0] in ("keras", "builtins")
            if not known and (inspect.isfunction(kind) or hasattr(kind, "from_config")):
                own[kind.__name__] = own[keras.saving.get_registered_name(kind)] = kind
    return own
