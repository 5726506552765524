"""The group of all commands, and how wrong usage ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from autobatch.cli.output import bug, fail


class Commands(click.Group):
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
            fail(UsageError(_advised(error)), as_json=as_json)
        except click.Abort:
            from autobatch.errors import ProbeInterrupted

            fail(ProbeInterrupted(), as_json=as_json)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends like everything else
            fail(bug(error), as_json=as_json)


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
