"""Objects of the user's -> bytes that a worker process can read."""

from __future__ import annotations

import io
import sys
import types
from collections import ChainMap
from collections.abc import Sequence
from typing import Any, ClassVar


def pickled(content: Any) -> bytes:
    """What a worker process can read: modules of the user's are found by our own `sys.path`."""
    return _dumped(_WithPaths(content))


class _WithPaths:
    """A pickle that is read where its imports are found: with the `sys.path` of its writer."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (list(sys.path), _dumped(self._content))


def _revive(paths: Sequence[str], content: bytes) -> Any:
    import cloudpickle

    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    return cloudpickle.loads(content)


def _dumped(content: Any) -> bytes:
    """A pickle by value, whose functions know the files they are from: tracebacks show them.

    From 3.1.3 on cloudpickle itself forgets the names of files, for the sake of equal pickles.
    """
    import cloudpickle

    kinds = cloudpickle.CloudPickler.dispatch_table

    def with_file(code: types.CodeType) -> tuple[Any, ...]:
        make, arguments, *rest = kinds[types.CodeType](code)
        named = [code.co_filename if each == "<dynamic-code>" else each for each in arguments]
        return make, tuple(named), *rest

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        dispatch_table: ClassVar = ChainMap({types.CodeType: with_file}, kinds)

    with io.BytesIO() as file:
        Pickler(file).dump(content)
        return file.getvalue()
