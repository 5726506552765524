"""Do something with a module as soon as somebody's code has imported it, and not before."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any


def when_imported(name: str, then: Callable[[Any], None]) -> None:
    """Call `then` with the module when, and if, it is imported."""

    class Finder(importlib.abc.MetaPathFinder):
        """Stays until the module is run: who asks for its spec may only want to look for it."""

        looking = False

        def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
            if fullname != name or self.looking:
                return None
            self.looking = True
            try:
                spec = importlib.util.find_spec(name)
            finally:
                self.looking = False
            if spec is not None and spec.loader is not None:
                load = spec.loader.exec_module

                def exec_module(module: types.ModuleType) -> None:
                    if self in sys.meta_path:
                        sys.meta_path.remove(self)
                    load(module)
                    then(module)

                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder())
