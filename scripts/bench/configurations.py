"""What the benches run: a model file, a device and its limit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ROWS = Path(__file__).resolve().parent / "rows"
STEPS = 12
REPEATS = 10


@dataclass(frozen=True, slots=True)
class Configuration:
    """One model on one device; `reach` is a size known to be far too large."""

    name: str
    example: str
    limit_mib: int
    reach: int

    @property
    def path(self) -> Path:
        return EXAMPLES / f"{self.example}.py"

    def environment(self) -> dict[str, str]:
        """The variables that make TensorFlow's CPU a device with this limit."""
        return {
            **os.environ,
            "TF_CPU_ALLOCATOR_USE_BFC": "true",
            "TF_CPU_BFC_MEM_LIMIT_IN_MB": str(self.limit_mib),
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }


CONFIGURATIONS = {
    each.name: each
    for each in (
        Configuration("cifar10_cnn-256", "cifar10_cnn", 256, 512),
        Configuration("cifar10_cnn-1024", "cifar10_cnn", 1024, 4096),
        Configuration("imdb_lstm-512", "imdb_lstm", 512, 1024),
        Configuration("resnet50-768", "resnet50", 768, 256),
        Configuration("transformer-512", "transformer", 512, 160),
    )
}
