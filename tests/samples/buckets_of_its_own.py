"""A script that buckets its data by length, a boundary above its samples; argument: what else.

Its samples are dictionaries: only the map behind the bucketing makes of them what the model takes.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

WHAT = sys.argv[1]
LONGEST = 54
# Where it trains, a sample comes that was not there when it was probed.
GROWN = WHAT == "grown" and "autobatch.run_main" in sys.modules


def samples():
    for number in range(240):
        length = 5 + 7 * number % (LONGEST - 4)
        yield {"tokens": np.full(length, number % 50, np.int32), "target": np.ones(1, np.float32)}
    if GROWN:
        yield {"tokens": np.ones(70, np.int32), "target": np.ones(1, np.float32)}


spec = {"tokens": tf.TensorSpec([None], tf.int32), "target": tf.TensorSpec([1], tf.float32)}
bucketed = tf.data.Dataset.from_generator(samples, output_signature=spec).bucket_by_sequence_length(
    lambda sample: tf.shape(sample["tokens"])[0], [20, 40, 90], [16, 16, 16, 16]
)
if WHAT == "taken":
    bucketed = bucketed.take(9)
batches = bucketed.map(lambda batch: (batch["tokens"], batch["target"])).repeat(2).prefetch(1)

tokens = keras.Input((None,), dtype="int32", name="tokens")
x = keras.layers.Embedding(50, 16)(tokens)
x = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(64, activation="relu")(x))
model = keras.Model(tokens, keras.layers.Dense(1)(x))
model.compile("adam", "mse")
model.fit(batches, epochs=2, steps_per_epoch=15, verbose=0)
