"""What the benches run: a model file, a device and its limit."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES.parent.parent / "tests"))  # where the emulated GPU lives
MODELS = Path(__file__).resolve().parent / "models"
ROWS = Path(__file__).resolve().parent / "rows"
STEPS = 12
REPEATS = 10


@dataclass(frozen=True, slots=True)
class Configuration:
    """One model on one device.

    Attributes:
        example: A file of the examples, or of the models that are there for the benches alone.
        limit_mib: On the CPU the allocator's limit, on the emulated GPU all that there is.
        reach: A size known to be far too large.
        gpus: Emulated GPUs, by their memory in MiB; several of them under a MirroredStrategy,
            where sizes are those of one replica.
        xla: Keras chooses whether to compile, as it does by default; else it does not.
    """

    name: str
    example: str
    limit_mib: int
    reach: int
    gpus: tuple[int, ...] = ()
    xla: bool = True

    @property
    def path(self) -> Path:
        example = EXAMPLES / f"{self.example}.py"
        return example if example.exists() else MODELS / example.name

    def device_environment(self) -> dict[str, str]:
        """Variables for a probe and its workers: the emulated GPU's, or none."""
        if not self.gpus:
            return {}
        from emulated_gpu import build

        memory = ",".join(map(str, self.gpus))
        xla = {"EMULATED_GPU_XLA": str(int(self.xla))}
        return {**build.environment(memory, len(self.gpus)), **xla}

    def options(self) -> dict[str, str]:
        """What a probe is told of the device."""
        if not self.gpus:
            return {"memory_limit": f"{self.limit_mib}MiB"}
        devices = {"device": ",".join(f"gpu:{number}" for number in range(len(self.gpus)))}
        return {**devices, **({"strategy": "mirrored"} if len(self.gpus) > 1 else {})}

    def environment(self) -> dict[str, str]:
        """The variables that make a fresh training's device one with this limit."""
        if self.gpus:
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
        Configuration("unet-256", "unet", 256, 512),
        Configuration("lstm_lm-128", "lstm_lm", 128, 1024),
        Configuration("contrastive-128", "contrastive", 128, 8192),
        Configuration("mixer_xla-256", "mixer_xla", 256, 2048),
        Configuration("gpu-cifar10_cnn-512", "cifar10_cnn", 512, 2048, gpus=(512,), xla=False),
        Configuration("gpu-transformer-512", "transformer", 512, 160, gpus=(512,), xla=False),
        Configuration("gpu-transformer-xla-1024", "transformer", 1024, 320, gpus=(1024,)),
        Configuration("gpu-resnet50-xla-1024", "resnet50", 1024, 256, gpus=(1024,)),
        Configuration(
            "gpu-mirrored-cifar10_cnn-512-768", "cifar10_cnn", 512, 2048, gpus=(512, 768)
        ),
    )
}
