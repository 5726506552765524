"""`autobatch devices`."""

from __future__ import annotations

import sys

import click

from autobatch.cli.output import answer, failing, look, write


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what was found as JSON on stdout.  [default: as text]",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Show what TensorFlow logs.  [default: nothing of it]"
)
def devices(as_json: bool, verbose: bool) -> None:
    """List the GPUs as TensorFlow and as the driver sees them: memory, who uses it, what is wrong.

    The two are matched by PCI bus, whatever CUDA_VISIBLE_DEVICES says.

    \b
    autobatch devices
    autobatch devices --json
    """
    with failing(as_json=as_json, verbose=verbose):
        from autobatch import survey

        found, log = survey.survey()
    if verbose and log:
        write(sys.stderr, log)
    if as_json:
        from autobatch.records import to_json

        answer(to_json(found))
    else:
        from autobatch.report.devices import devices as render

        answer(render(found, **look(sys.stdout or sys.stderr)))
