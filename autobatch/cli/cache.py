"""`autobatch cache`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from autobatch.cli.output import answer, failing, write

if TYPE_CHECKING:
    from autobatch.result_cache import Entry


@click.group()
def cache() -> None:
    """Show or clear the answers of earlier probes.

    They lie in AUTOBATCH_CACHE_DIR, else in ~/.cache/autobatch, for their owner's eyes alone.
    """


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.  [default: as text]")
def list_(as_json: bool) -> None:
    """List the answers that are kept, the oldest first."""
    with failing(as_json=as_json):
        from autobatch.result_cache import open_cache

        found, damaged = open_cache().entries()
    for problem in damaged:
        write(sys.stderr, f"Warning: {_plain(problem.message)}")
    if as_json:
        from autobatch.records import to_json

        answer(to_json([_told(entry) for entry in found]))
    elif found:
        answer("\n".join(map(_line, found)))
    else:
        write(sys.stderr, "No answer is kept.")


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print how many as JSON.  [default: as text]")
def clear(as_json: bool) -> None:
    """Forget all answers, and the journals of probes that were stopped."""
    with failing(as_json=as_json):
        from autobatch.keeping import clear_journals
        from autobatch.result_cache import open_cache

        results, journals = open_cache().clear(), clear_journals()
    if as_json:
        answer(f'{{"results": {results}, "journals": {journals}}}')
        return
    answer(f"Removed: {results} results, {journals} journals.")


def _line(entry: Entry) -> str:
    from autobatch.units import format_bytes

    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.when))
    budget = format_bytes(entry.key.budget_bytes)
    what = f"{entry.target}  ({entry.model}; {budget} on {entry.device})"
    return f"{when}  batch size {entry.batch_size:>6}  {_plain(what)}"


def _told(entry: Entry) -> dict[str, object]:
    return {
        "when": entry.when,
        "target": entry.target,
        "model": entry.model,
        "device": entry.device,
        "budget_bytes": entry.key.budget_bytes,
        "batch_size": entry.batch_size,
        "versions": entry.key.versions,
    }


def _plain(text: str) -> str:
    from autobatch.report.text import one_line

    return one_line(text)
