"""The command: parse, call, print, exit code. Only this package prints."""

from __future__ import annotations

import click

from autobatch.cli.buckets import buckets
from autobatch.cli.cache import cache
from autobatch.cli.devices import devices
from autobatch.cli.group import Commands
from autobatch.cli.probe import probe
from autobatch.cli.run import run
from autobatch.cli.scale_lr import scale_lr

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, context_settings=_CONTEXT)
@click.version_option(package_name="keras-autobatch", prog_name="autobatch")
def main() -> None:
    """Find the largest safe training batch size of a Keras model, prove it, and scale the
    learning rate to it."""


for _command in (probe, buckets, run, devices, scale_lr, cache):
    main.add_command(_command)
