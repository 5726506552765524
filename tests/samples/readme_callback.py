"""Runs the README's snippets on the callback, one after the other, on a model that is there."""

import re
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import autobatch

README = Path(__file__).resolve().parent.parent.parent / "README.md"
SMALL = {"maximum": 24, "steps": 1, "proof_steps": 1, "isolation": "process"}


def small(*arguments, **options):
    """The callback, with a search that a test can wait for."""
    return original(*arguments, **{**options, **SMALL})


rng = np.random.default_rng(0)
x, y = rng.random((120, 8), "float32"), rng.random((120, 1), "float32")
x_val, y_val = x[:20], y[:20]
dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(120)
original, autobatch.AutoBatch = autobatch.AutoBatch, small

section = README.read_text().split("## The Keras callback\n")[1].split("\n## ")[0]
for snippet in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    exec(compile(snippet, "README.md", "exec"))
    result = finder.result  # noqa: F821 - the snippet's
    sys.stdout.write(f"[{result.batch_size}, {result.gradient_accumulation_steps}]\n")
