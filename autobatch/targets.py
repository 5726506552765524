"""TARGET as the user wrote it -> what a worker is to load. Finds what can be found without one."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autobatch.errors import ModelError, UsageError
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
    if not callable(target):
        raise UsageError(
            "target must be a path, 'file.py:function', a callable that returns a Keras model, or "
            f"a compiled Keras model; received {type(target).__name__}."
        )
    return Target(kind="pickle", pickle=_pickled(target), arguments=tuple(arguments))


def _from_text(text: str, arguments: tuple[str, ...], run_as: str) -> Target:
    where, colon, name = text.rpartition(":")
    if not colon or (Path(text).exists() and not Path(where).exists()):
        where, name = text, ""
    path = Path(where)
    if path.suffix == ".keras":
        _require_file(path)
        return Target(kind="saved", path=str(path.resolve()), arguments=arguments)
    if path.suffix == ".py" or os.sep in where or path.exists():
        _check_python(path)
        kind = "factory" if name else "module" if run_as == "module" else "script"
        absolute = str(path.absolute())
        return Target(kind=kind, path=absolute, name=name or None, arguments=arguments)
    if name and all(part.isidentifier() for part in where.split(".")):
        return Target(kind="factory", module=where, name=name, arguments=arguments)
    raise UsageError(
        f"There is no file {where!r}. TARGET is a Python file (train.py), a function in one "
        "(model.py:build_model), a function in a module (package.module:build_model), or a saved "
        "model (model.keras)."
    )


def _require_file(path: Path) -> None:
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}; expected a Python file or a saved .keras model.")


def _check_python(path: Path) -> None:
    _require_file(path)
    try:
        source = importlib.util.decode_source(path.read_bytes())
        compile(source, str(path), "exec", dont_inherit=True)
    except (UnicodeDecodeError, ValueError) as error:
        if isinstance(error, SyntaxError):
            raise
        raise UsageError(
            f"{path} is not a Python file ({error}); expected a training script, a file with a "
            "build_model function, or a saved .keras model."
        ) from error
    except OSError as error:
        raise UsageError(f"{path} could not be read: {error.strerror}.") from error
    except SyntaxError as error:
        if path.suffix != ".py":
            raise UsageError(f"{path} is not a Python file.") from error
        shown = f"{path}, line {error.lineno}: {error.msg}"
        line = (error.text or "").rstrip()
        raise ModelError(f"The file has a syntax error: {shown}.", details=line) from error


def literal_environment(target: Target) -> dict[str, str]:
    """Variables that the file itself sets, plainly and at its top level, for TensorFlow to read.

    A worker that has imported TensorFlow before the file runs needs them from the start. What
    this does not see, the worker notices and says.
    """
    if target.path is None or target.kind == "saved":
        return {}
    source = importlib.util.decode_source(Path(target.path).read_bytes())
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
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


def _pickled(target: Any) -> bytes:
    import cloudpickle

    what = f"the {type(target).__name__} {getattr(target, '__name__', '')!r}"
    keras = sys.modules.get("keras")
    try:
        if keras is not None and isinstance(target, keras.Model):
            what = f"the model {target.name!r}"
            if not target.compiled:
                raise UsageError(f"{what} is not compiled; call its compile() first.")
            target = _pickled_model(target)
        return bytes(cloudpickle.dumps(target))
    except UsageError:
        raise
    except Exception as error:
        raise ModelError(
            f"{what[0].upper()}{what[1:]} cannot be sent to a worker process ({error}). Pass a "
            "function without arguments that builds and compiles the model, or name one in a file: "
            "autobatch.probe('model.py:build_model')."
        ) from error


def _pickled_model(model: Any) -> PickledModel:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="autobatch-") as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        saved = path.read_bytes()
    parts = [model, model.optimizer, model.loss, *model._flatten_layers()]
    own = {
        kind.__name__: kind
        for part in parts
        for kind in type(part).__mro__
        if kind.__module__.split(".")[0] not in ("keras", "builtins", "tensorflow")
    }
    if callable(model.loss) and hasattr(model.loss, "__name__"):
        own[model.loss.__name__] = model.loss
    return PickledModel(saved, own)
