"""What a notebook exported as a script (`jupyter nbconvert --to script`) still asks of IPython.

Its magics are calls of `get_ipython()`, which Python does not know. Those that time or capture code
run that code; the others steer a notebook that is not there; commands for the shell, such as
`pip install`, are left out and told.
"""

from __future__ import annotations

import ast
import sys
from typing import Any

_RUN_CODE = ("time", "timeit", "prun", "capture")
_FOR_THE_SHELL = ("bash", "sh", "script", "pip", "conda", "cd", "writefile")


def is_export(tree: ast.Module) -> bool:
    """Whether the file's top level calls magics, as no script for Python alone does."""
    values = (node.value for node in tree.body if isinstance(node, (ast.Expr, ast.Assign)))
    return any(
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and isinstance(shell := value.func.value, ast.Call)
        and isinstance(shell.func, ast.Name)
        and shell.func.id == "get_ipython"
        for value in values
    )


class Shell:
    """Stands for IPython's shell, in the module `__main__`.

    Attributes:
        left_out: Commands that were not run.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []

    def run_line_magic(self, name: str, line: str, *_: Any) -> None:
        """`%name line`."""
        self._magic(name, line, line)

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        """`%%name line`, and the cell below it."""
        self._magic(name, cell, f"{line} ...")

    def magic(self, text: str) -> None:
        """`%text`, as older exports write it."""
        name, _, line = text.partition(" ")
        self._magic(name, line, line)

    def system(self, command: str) -> None:
        """`!command`."""
        self.left_out.append(f"!{command}")

    def getoutput(self, command: str) -> list[str]:
        """`lines = !command`."""
        self.left_out.append(f"!{command}")
        return []

    def _magic(self, name: str, code: str, shown: str) -> None:
        if name in _RUN_CODE:
            exec(code, sys.modules["__main__"].__dict__)  # noqa: S102 - a part of the user's script
        elif name in _FOR_THE_SHELL:
            self.left_out.append(f"%{name} {shown}".rstrip())

    @property
    def told(self) -> tuple[str, ...]:
        """What the user should know of it: a sentence, or none."""
        if not self.left_out:
            return ()
        return (
            "The script was exported from a notebook; what is for the shell in it was not run "
            f"({'; '.join(self.left_out)[:300]}). Install and download beforehand what it needs.",
        )
