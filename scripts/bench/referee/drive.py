"""One peer's search over the Keras steps, as its documentation shows it, from import to answer.

    drive.py TOOL MODEL_FILE LIMIT_MIB SAFE_MAXIMUM LOG

It runs in the peers' virtual environment, where autobatch is not installed. The caller sets the
device's limit in the environment, and takes the time. The peer's own defaults are left as they
are, but for the upper bounds: no peer is asked to look beyond the size of the data set.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from referee.steps import Log, Steps
from referee.tools import TOOLS, Tool


def lightning(steps: Steps, mode: str) -> int:
    """`Tuner.scale_batch_size` on a module whose training step is a Keras step.

    Its checkpoint holds the Keras weights, as it would hold a PyTorch model's.
    """
    import lightning as pl
    import torch
    from lightning.pytorch.tuner import Tuner

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 2
            self.anchor = torch.nn.Parameter(torch.zeros(1))

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.arange(steps.samples), self.batch_size)

        def configure_optimizers(self):
            return torch.optim.SGD([self.anchor], 0.0)

        def on_train_start(self) -> None:
            steps.begin(self.batch_size)

        def training_step(self, samples):
            steps.train(len(samples), 1)
            return self.anchor.sum()

        def on_save_checkpoint(self, checkpoint) -> None:
            checkpoint["keras"] = [torch.tensor(each) for each in steps.model.get_weights()]

        def on_load_checkpoint(self, checkpoint) -> None:
            steps.model.set_weights([each.numpy() for each in checkpoint["keras"]])

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return Tuner(trainer).scale_batch_size(Module(), mode=mode)


def accelerate(steps: Steps, start: int) -> int:
    """`find_executable_batch_size` around a training of a few steps."""
    from accelerate.utils import find_executable_batch_size

    @find_executable_batch_size(starting_batch_size=start)
    def train(batch_size: int) -> int:
        steps.trial(batch_size)
        return batch_size

    return train()


def batch_probe(steps: Steps) -> int:
    """`batch_probe.probe`, for any workload."""
    from batch_probe import probe

    return probe(steps.trial, high=steps.samples, verbose=False)


def straight_line(steps: Steps, limit_mib: int) -> int:
    """Ultralytics' rule; a size that does not fit is left out of the line."""
    from referee.straight_line import SIZES, answer

    peaks = {}
    for size in SIZES:
        try:
            peaks[size] = steps.peak_bytes(size)
        except RuntimeError:
            break
    return answer(peaks, limit_mib << 20)


def search(tool: Tool, steps: Steps, limit_mib: int, safe_maximum: int) -> int:
    """The answer of a tool."""
    if tool.package == "lightning":
        return lightning(steps, tool.name.partition("-")[2])
    if tool.start is not None:
        return accelerate(steps, tool.start * safe_maximum)
    if tool.package == "batch-probe":
        return batch_probe(steps)
    return straight_line(steps, limit_mib)


def main(tool: Tool, path: Path, limit_mib: int, safe_maximum: int, log: Log) -> None:
    steps = Steps(path, log)
    before = steps.digest()
    batch_size = search(tool, steps, limit_mib, safe_maximum)
    log.say("answer", batch_size=batch_size, weights_changed=steps.digest() != before)


if __name__ == "__main__":
    log = Log(Path(sys.argv[5]))
    main(TOOLS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), log)
