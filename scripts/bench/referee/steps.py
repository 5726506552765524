"""The Keras training steps that every peer drives, in a process of that peer's own.

A peer searches through `Steps.train(batch_size, count)`, which trains through `model.fit` and
raises what PyTorch raises on a GPU where memory runs out: it is what the peers are made for.
Every trial and what became of it is a line in a log, so that a process that dies has told.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

STEPS = 3  # of a trial: Lightning's default


class Log:
    """JSON lines, each on disk before the next thing happens."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def say(self, event: str, **what: Any) -> None:
        self._file.write(json.dumps({"event": event, **what}) + "\n")


class Steps:
    """A model and its data, built once, and training steps of any batch size.

    Args:
        path: A file with `build_model` and `build_dataset`.
        log: Told of every trial.
    """

    def __init__(self, path: Path, log: Log) -> None:
        import tensorflow as tf

        self._tf, self._log = tf, log
        spec = importlib.util.spec_from_file_location("example", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.build_model()
        self._dataset = module.build_dataset()
        self.samples = int(self._dataset.cardinality())

    def trial(self, batch_size: int, count: int = STEPS) -> None:
        """Begin a trial and train its steps."""
        self.begin(batch_size)
        self.train(batch_size, count)

    def begin(self, batch_size: int) -> None:
        """Tell that a trial begins: for a peer that counts the steps itself."""
        self._log.say("trial", batch_size=batch_size)

    def train(self, batch_size: int, count: int) -> None:
        """Train some steps.

        Raises:
            RuntimeError: Memory ran out; in words that each of the peers takes for that.
        """
        batches = self._dataset.repeat().batch(batch_size).prefetch(self._tf.data.AUTOTUNE)
        try:
            self.model.fit(batches, steps_per_epoch=count, verbose=0)
        except self._tf.errors.ResourceExhaustedError:
            self._log.say("out_of_memory", batch_size=batch_size)
        else:
            return
        raise RuntimeError("CUDA out of memory.")  # here: nothing holds on to TensorFlow's error

    def peak_bytes(self, batch_size: int) -> int:
        """The most bytes in use in a trial of this size."""
        memory = self._tf.config.experimental
        memory.reset_memory_stats("CPU:0")
        self.trial(batch_size)
        return memory.get_memory_info("CPU:0")["peak"]

    def digest(self) -> str:
        """Of the model's weights, to tell whether they changed."""
        whole = hashlib.sha256()
        for weights in self.model.get_weights():
            whole.update(weights.tobytes())
        return whole.hexdigest()
