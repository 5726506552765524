"""Run this project and the tools people use today on the very same Keras training steps.

    scripts/bench/peers                  all that rows/ does not hold yet; goes on where it stopped
    scripts/bench/peers --quick          one model, under ten minutes; rows and table of its own
    scripts/bench/peers --table          no measuring: table and picture of the rows there are

Each tool searches in a process of its own, on the CPU behind the allocator that serves GPUs, with
a hard limit. Beside each search the floor is taken: one fresh process that imports, builds, traces
and proves autobatch's answer. The safe maximum is found by brute force. Then fresh trainings run
at every answer. Every measurement is a JSON line, written as it ends; the table in the README and
the picture are made of them. Several runs at once share the work.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import rows
import safe_maximum
from configurations import CONFIGURATIONS, REPEATS, ROWS
from referee import picture, table
from referee.claims import claim
from referee.measure import ROOT, row_of
from referee.tools import MODELS, OURS, TOOLS
from referee.work import TOOL, Store, Work, left
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PICTURE = ROOT / "scripts" / "bench" / "peers.svg"
README = ROOT / "README.md"
WAIT_SECONDS = 2.0
QUICK_MODEL = "contrastive-128"
QUICK_TOOLS = [name for name in TOOLS if name != "accelerate-8x"]
QUICK_REPEATS = 2


def do(work: Work, store: Store) -> str:
    """Do one piece of work and return what came of it, in a few words."""
    configuration = CONFIGURATIONS[work.configuration]
    if work.kind != TOOL:
        row = safe_maximum.train(configuration, work.what, store.fresh)
        return "went through" if row["exit"] == 0 else f"died: {row['why']}"
    measured = store.read()
    best = measured.safe_maximum(work.configuration)
    tool = TOOLS[work.what]
    floor = None if tool is OURS else measured.answer(work.configuration, OURS.name) or best
    beyond = measured.tools.get((work.configuration, OURS.name), {}).get("beyond_batch_size")
    row = row_of(tool, configuration, best, floor, beyond)
    rows.append(store.peers, row)
    return f"{row['batch_size'] or row['why']} in {row['seconds']:.0f} s"


def run(
    store: Store, models: list[str], tools: list[str], repeats: int, minutes: float = math.inf
) -> None:
    """Do all that is left, with a progress bar; begin nothing after so many minutes."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[doing]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[to_go]}"),
    )
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", doing="", to_go="")
        while works := left(store.read(), models, tools, repeats):
            to_go = sum(work.seconds for work in works)
            spent = time.monotonic() - began
            if spent > 60 * minutes:
                return
            progress.update(
                bar,
                completed=spent,
                total=spent + to_go,
                to_go=f"about {max(1, round(to_go / 60))} min to go",
            )
            for work in works:
                if not work.ready:
                    continue
                with claim(store.folder / ".claims", work.claim) as ours:
                    if not ours or not still_left(work, store, models, tools, repeats):
                        continue
                    progress.update(bar, doing=str(work))
                    console.print(f"{work}: {do(work, store)}", highlight=False)
                    break
            else:
                progress.update(bar, doing="the rest is being done by other runs")
                time.sleep(WAIT_SECONDS)


def still_left(work: Work, store: Store, models: list[str], tools: list[str], repeats: int) -> bool:
    """Whether nobody has done it since the plan was made."""
    return any(
        (other.kind, other.configuration, other.what) == (work.kind, work.configuration, work.what)
        for other in left(store.read(), models, tools, repeats)
    )


def publish(store: Store, models: list[str], tools: list[str]) -> str:
    """Draw the picture, put the table into the README where these are its rows; the table."""
    measured = store.read()
    lines = table.lines(measured, models, tools)
    if not lines:
        sys.exit("Nothing is measured yet.")
    text = table.markdown(lines, measured)
    drawn = picture.svg(lines, table.caption(measured))
    if store.folder == ROWS:
        PICTURE.write_text(drawn)
        README.write_text(table.put_into(README.read_text(), text))
    else:
        (store.folder / PICTURE.name).write_text(drawn)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--quick", action="store_true", help="one model, all but the slowest tool")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="fresh trainings an answer")
    parser.add_argument("--rows", type=Path, default=ROWS, help="folder of the rows")
    parser.add_argument(
        "--since", default="", help="an ISO date: measure again what was measured before it"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no search or training after so many"
    )
    given = parser.parse_args()
    if given.quick:
        given.models, given.tools, given.repeats = [QUICK_MODEL], QUICK_TOOLS, QUICK_REPEATS
        if given.rows == ROWS:
            now = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
            given.rows = ROOT / "build" / f"peers-quick-{now}"
    given.rows.mkdir(parents=True, exist_ok=True)
    store = Store(given.rows.resolve(), ROWS, given.since)
    if not given.table:
        try:
            run(store, given.models, given.tools, given.repeats, given.minutes)
        except KeyboardInterrupt:
            sys.exit("Stopped. The same command goes on from here.")
    print(publish(store, given.models, given.tools))
    print(f"Rows and picture: {store.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
