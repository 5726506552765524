"""`autobatch scale-lr`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from autobatch.cli.output import answer, failing, write

if TYPE_CHECKING:
    from autobatch.records import LearningRate


@click.command("scale-lr")
@click.option("--base-lr", type=float, required=True, help="The rate to scale.")
@click.option("--base-batch-size", type=int, required=True, help="What it was chosen for.")
@click.option("--batch-size", type=int, required=True, help="What to scale it to.")
@click.option(
    "--optimizer", default="SGD", show_default=True, help="Keras's name of it; chooses the rule."
)
@click.option("--lr-rule", default="auto", show_default=True, help="auto, linear, sqrt or none.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def scale_lr(
    base_lr: float,
    base_batch_size: int,
    batch_size: int,
    optimizer: str,
    lr_rule: str,
    as_json: bool,
) -> None:
    """Scale a learning rate from one batch size to another; no model is run.

    \b
    autobatch scale-lr --base-lr 0.05 --base-batch-size 16 --batch-size 96 --optimizer SGD
    """
    with failing(as_json=as_json):
        from autobatch.learning_rate import scale_learning_rate
        from autobatch.records import OptimizerInfo

        scaled = scale_learning_rate(
            OptimizerInfo(class_name=optimizer, learning_rate=base_lr),
            base_batch_size=base_batch_size,
            batch_size=batch_size,
            rule=lr_rule,
        )
    _print_scaled(scaled, as_json=as_json)


def _print_scaled(scaled: LearningRate, *, as_json: bool) -> None:
    import msgspec

    if as_json:
        answer(msgspec.json.encode(scaled).decode())
        return
    from autobatch.report.text import strip_controls

    answer(f"{scaled.learning_rate:.6g}")
    said = "\n".join((f"{scaled.rule} rule: {scaled.reason}", *scaled.advice))
    write(sys.stderr, strip_controls(said))
