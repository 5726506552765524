"""Who takes part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """One way to find a batch size.

    Attributes:
        name: As rows and the command line call it.
        label: As readers know it.
        package: The distribution it comes from; None for a rule that is described, not installed.
        tests_answer: Whether it ever trains at its answer, or at a larger size.
        start: It begins from above, at this many times the safe maximum; None for the others.
    """

    name: str
    label: str
    package: str | None
    tests_answer: bool = True
    start: int | None = None


OURS = Tool("autobatch", "autobatch", "keras-autobatch")
TOOLS = {
    each.name: each
    for each in (
        OURS,
        Tool("lightning-power", "Lightning, power", "lightning"),
        Tool("lightning-binsearch", "Lightning, binsearch", "lightning"),
        Tool("accelerate-2x", "accelerate, from 2×", "accelerate", start=2),
        Tool("accelerate-8x", "accelerate, from 8×", "accelerate", start=8),
        Tool("batch-probe", "batch-probe", "batch-probe"),
        Tool("straight-line", "Ultralytics' rule", None, tests_answer=False),
    )
}
MODELS = {
    "transformer-512": "transformer",
    "unet-256": "U-Net",
    "lstm_lm-128": "LSTM language model",
    "contrastive-128": "contrastive",
    "mixer_xla-256": "MLP-Mixer, XLA",
    "resnet50-768": "ResNet50",
}
