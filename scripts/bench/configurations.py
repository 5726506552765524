"""What the benches run: a model file, a device and its limit."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES.parent.parent / "tests"))  # where the emulated GPU lives
ROWS = Path(__file__).resolve().parent / "rows"
STEPS = 12
REPEATS = 10


@dataclass(frozen=True, slots=True)
class Configuration:
    """One model on one device.

    Attributes:
        limit_mib: On the CPU the allocator's limit, on the emulated GPU all that there is.
        reach: A size known to be far too large.
        gpu: It runs on the emulated GPU.
        xla: Keras chooses whether to compile, as it does by default; else it does not.
    """

    name: str
    example: str
    limit_mib: int
    reach: int
    gpu: bool = False
    xla: bool = True

    @property
    def path(self) -> Path:
        return EXAMPLES / f"{self.example}.py"

    def device_environment(self) -> dict[str, str]:
        """Variables for a probe and its workers: the emulated GPU's, or none."""
        if not self.gpu:
            return {}
        from emulated_gpu import build

        return {**build.environment(self.limit_mib), "EMULATED_GPU_XLA": str(int(self.xla))}

    def options(self) -> dict[str, str]:
        """What a probe is told of the device."""
        return {"device": "gpu:0"} if self.gpu else {"memory_limit": f"{self.limit_mib}MiB"}

    def environment(self) -> dict[str, str]:
        """The variables that make a fresh training's device one with this limit."""
        if self.gpu:
            return {**os.environ, **self.device_environment(), "TF_CPP_MIN_LOG_LEVEL": "2"}
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
        Configuration("gpu-cifar10_cnn-512", "cifar10_cnn", 512, 2048, gpu=True, xla=False),
        Configuration("gpu-transformer-512", "transformer", 512, 160, gpu=True, xla=False),
        Configuration("gpu-transformer-xla-1024", "transformer", 1024, 320, gpu=True),
        Configuration("gpu-resnet50-xla-1024", "resnet50", 1024, 256, gpu=True),
    )
}
