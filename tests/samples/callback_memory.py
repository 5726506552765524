"""What a search in the process that trains leaves on the device, and in what a checkpoint saves."""

import gc
import json
import tempfile

import keras
import numpy as np
import tensorflow as tf

import autobatch
from autobatch.engine import snapshot

WIDTH = 1024  # a layer's weights are 4 MiB


def in_use():
    gc.collect()
    return tf.config.experimental.get_memory_info("CPU:0")["current"]


def peak():
    return tf.config.experimental.get_memory_info("CPU:0")["peak"]


class Begun(keras.callbacks.Callback):
    """Looks at what is there once the search has ended, before the first step."""

    def on_train_begin(self, logs=None):
        saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        with tempfile.TemporaryDirectory() as folder:
            saved.write(f"{folder}/begun")
        print(json.dumps({"begun": in_use()}))


model = keras.Sequential([keras.Input((WIDTH,)), *[keras.layers.Dense(WIDTH) for _ in range(4)]])
model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
rows = np.zeros((64, WIDTH), "float32")
finder = autobatch.AutoBatch(isolation="process", minimum=4, maximum=4)
data = finder.batch(tf.data.Dataset.from_tensor_slices((rows, rows)))
print(json.dumps({"before": in_use(), "weights": 4 * model.count_params()}))
model.fit(data, callbacks=[finder, Begun()], verbose=0)

weights = model.get_weights()
with snapshot.as_before(model):
    model.fit(rows, rows + 1, verbose=0)
    held = in_use()
    tf.config.experimental.reset_memory_stats("CPU:0")
same = all(map(np.array_equal, weights, model.get_weights()))
print(json.dumps({"held": held, "peak": peak(), "same": same}))


class Late(keras.Model):
    """Makes an optimizer of its own in its first training step."""

    own = None

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1)

    def call(self, x):
        return self.layer(x)

    def train_step(self, data):
        x, y = data
        self.own = self.own or keras.optimizers.Adam()
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        weights = self.trainable_variables
        self.own.apply(tape.gradient(loss, weights), weights)
        return {"own_loss": loss}


late = Late()
late.compile("sgd", "mse", run_eagerly=True)
few = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
late.predict(few[0], verbose=0)
with snapshot.as_before(late):
    late.fit(*few, verbose=0)
history = late.fit(*few, epochs=2, verbose=0).history["own_loss"]
print(json.dumps({"falls": history[1] < history[0]}))
