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
    buckets = {"maximum": 8} if "bucket_boundaries" in options else {}
    return original(*arguments, **{**options, **SMALL, **buckets})


def head(width):
    """Layers before the last: for samples of any length, what makes them one."""
    if width is not None:
        return []
    return [keras.layers.Reshape((-1, 1)), keras.layers.GlobalAveragePooling1D()]


rng = np.random.default_rng(0)
x, y = rng.random((120, 8), "float32"), rng.random((120, 1), "float32")
x_val, y_val = x[:20], y[:20]
dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(120)
original, autobatch.AutoBatch = autobatch.AutoBatch, small

samples = tf.data.Dataset.from_tensor_slices((x, y))
samples = samples.map(lambda a, b: (tf.gather(a, tf.range(tf.cast(b[0] * 7, tf.int32) + 1)), b))

section = README.read_text().split("## The Keras callback\n")[1].split("\n## ")[0]
for snippet in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
    width = None if "bucket_boundaries" in snippet else 8
    model = keras.Sequential([keras.Input((width,)), *head(width), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    exec(compile(snippet, "README.md", "exec"))
    result = finder.result  # noqa: F821 - the snippet's
    if isinstance(result, autobatch.BucketResult):
        sys.stdout.write(f"{list(result.batch_sizes)}\n")
    else:
        sys.stdout.write(f"[{result.batch_size}, {result.gradient_accumulation_steps}]\n")
