"""`autobatch run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from autobatch.cli.options import given, probe_options
from autobatch.cli.output import failing, write
from autobatch.cli.watching import ended_by_signals, watching

if TYPE_CHECKING:
    from autobatch.bucket_records import BucketResult
    from autobatch.records import ProbeResult

_EXIT_CODES = """Exit codes: the script's own, once it runs; before, those of autobatch probe."""


@click.command(epilog=_EXIT_CODES)
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]")
@click.option(
    "--batch-size-only",
    is_flag=True,
    help="Leave the learning rate alone.  [default: it is scaled to the batch size]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would be changed.  [default: the script is run]",
)
@probe_options()
@click.option(
    "-q", "--quiet", is_flag=True, help="Show nothing of the probe.  [default: off a terminal]"
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Show what the probe's workers print.  [default: not]"
)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False),
    help="Write what the probe's workers print to a file.  [default: nowhere]",
)
def run(
    script: str,
    arguments: tuple[str, ...],
    batch_size_only: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    log_file: str | None,
    **options: Any,
) -> None:
    """Probe SCRIPT, then run it with the batch size and the learning rate that were found.

    SCRIPT is a training script as it is. Its first model.fit is probed in workers; then the script
    runs, as python SCRIPT ARGUMENTS would run it, and its fit receives the batch size (its
    batch_size argument, or its dataset rebatched, validation too) and the scaled rate. One line on
    stderr says what was changed. Later calls of fit with the same kind of model train alike;
    another model is probed when its turn comes, but for a GPU, which the script then holds.

    \b
    autobatch run train.py
    autobatch run train.py --memory-limit 6GiB -- --epochs 10
    autobatch run train.py --dry-run
    """
    quiet = quiet or not (verbose or sys.stderr.isatty())
    with (
        failing(verbose=verbose),
        watching(quiet, verbose, log_file) as observer,
        ended_by_signals(),
    ):
        from autobatch.options import ProbeOptions
        from autobatch.run_plan import RunPlan, found, require_script
        from autobatch.run_probe import find

        require_script(script)
        checked = ProbeOptions.checked(**given(options))
        result = find(script, arguments, checked, observer=observer)
    if dry_run:
        write(sys.stderr, _would(result, batch_size_only))
        return
    from autobatch.run_main import become

    become(
        RunPlan(
            script=script,
            arguments=arguments,
            found=found(result),
            device=result.device.kind,
            options=checked,
            batch_size_only=batch_size_only,
        )
    )


def _would(result: ProbeResult | BucketResult, batch_size_only: bool) -> str:
    from autobatch.run_plan import describe, found

    rates = [
        (rate.learning_rate, rate.base_learning_rate, rate.rule) for rate in result.learning_rates
    ]
    scheduled = result.learning_rate_schedule is not None
    line = describe(
        found(result),
        () if batch_size_only else rates,
        scheduled=scheduled,
        would=True,
    )
    return f"autobatch: {line}."
