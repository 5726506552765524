"""`autobatch buckets`."""

from __future__ import annotations

from typing import Any

import click

from autobatch.cli.options import given, output_options, probe_options
from autobatch.cli.output import failing, require_output, show
from autobatch.cli.probe import EXIT_CODES
from autobatch.cli.watching import ended_by_signals, watching


@click.command(epilog=EXIT_CODES)
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]")
@click.option(
    "--boundaries",
    metavar="LENGTHS",
    help="The first length of each bucket but the first, such as 100,200,300; or auto, those that "
    "leave the least padding in the data.  [default: the script's own, else auto]",
)
@click.option(
    "--buckets",
    type=int,
    help="How many there are to be at most; boundaries are then chosen, as by --boundaries auto.  "
    "[default: 5 where they are]",
)
@click.option(
    "--max-length",
    type=int,
    help="The greatest length there will be.  [default: the data's longest]",
)
@click.option(
    "--on-too-long",
    metavar="WHAT",
    default="error",
    help="error, truncate or drop: what becomes of longer samples.  [default: error]",
)
@click.option(
    "--tokens-per-batch",
    is_flag=True,
    help="Find the largest number of tokens a batch, and the sizes that follow from it.  [default: "
    "a size of its own for each bucket]",
)
@click.option(
    "--sequence-input",
    multiple=True,
    metavar="NAME[:AXIS]",
    help="Which dimension of an input is the sequence; the batch is axis 0. Repeatable.  [default: "
    "the unknown one]",
)
@probe_options(one_size=False)
@output_options
def buckets(
    target: str,
    arguments: tuple[str, ...],
    boundaries: str | None,
    buckets: int | None,
    max_length: int | None,
    on_too_long: str,
    tokens_per_batch: bool,
    sequence_input: tuple[str, ...],
    as_json: bool,
    output: str | None,
    quiet: bool,
    verbose: bool,
    log_file: str | None,
    **options: Any,
) -> None:
    """Find the largest safe batch size of TARGET for each bucket of sequence lengths.

    Sequences are grouped by length, as tf.data.Dataset.bucket_by_sequence_length groups them, and
    each bucket gets a size of its own, found at its longest sequence. One fresh process proves
    them all. TARGET and ARGUMENTS are those of autobatch probe; its data comes unpadded, one
    sample an element.

    \b
    autobatch buckets train.py --boundaries 100,200,300,400 --max-length 500
    autobatch buckets model.py --boundaries auto --buckets 8 --json > buckets.json
    """
    with failing(as_json=as_json, verbose=verbose, output=output):
        require_output(output)
        with watching(quiet, verbose, log_file) as observer, ended_by_signals():
            from autobatch.bucket_probing import probe_buckets
            from autobatch.report.answers import found, page

            result = probe_buckets(
                target,
                _lengths(boundaries),
                buckets=buckets,
                max_length=max_length,
                on_too_long=on_too_long,
                tokens_per_batch=tokens_per_batch,
                sequence_input=sequence_input,
                arguments=arguments,
                observer=observer,
                **given(options),
            )
    show(
        result,
        lambda **look: page(result, **look),
        found=found(result),
        as_json=as_json,
        quiet=quiet,
        output=output,
    )


def _lengths(text: str | None) -> tuple[int, ...] | str | None:
    if text is None:
        return None
    try:
        return tuple(int(each) for each in text.split(",") if each.strip())
    except ValueError:
        return text  # a word, which is refused unless it is one that is known
