"""A small model that runs out of memory from batch size 64 on, at the place `RUNS_OUT` names."""

import os
import resource
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

WAY = os.environ["RUNS_OUT"]
FROM = 64
MIB = 1 << 20


def spend(x):
    """`x`, by way of two MiB a sample."""
    wide = tf.tile(x[:, :1], [1, MIB // 2])
    return x + tf.reduce_mean(tf.nn.relu(wide)) * 0.0


@tf.custom_gradient
def spend_backwards(x):
    return tf.identity(x), spend


class Spend(keras.layers.Layer):
    def call(self, x, training=None):
        if WAY == "validation" and training:
            return x
        return spend_backwards(x) if WAY == "backward" else spend(x)

    def compute_output_shape(self, shape):
        return shape


def build_model():
    if WAY in ("tf.data", "C++"):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 1024 * MIB, resource.RLIM_INFINITY))
    inputs = keras.Input((4,))
    x = inputs
    if WAY == "optimizer":  # 18 MiB of weights, as much of gradients, and twice that of slots
        x = keras.layers.Dense(18 * MIB // 16)(x)
    elif WAY in ("forward", "backward", "validation", "XLA"):
        x = Spend()(keras.layers.Dense(4)(x))
    elif WAY == "oneDNN":
        x = keras.layers.Reshape((1, 1, 4))(x)
        x = keras.layers.UpSampling2D((256, 256))(x)
        x = keras.layers.Conv2D(8, 3, activation="relu")(x)
        x = keras.layers.GlobalMaxPooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("adam", "mse", jit_compile=WAY == "XLA")
    return model


def host_memory(x):
    """More of the host's memory than this process may have."""
    if x[0] >= FROM:
        np.ones((4 << 30,), np.int8)
    return x


def strings(x):
    """One string of 4 GiB, which C++ cannot allocate."""
    count = tf.where(x[0] >= FROM, 1 << 16, 1)
    long = tf.strings.reduce_join(tf.fill([count], "x" * (1 << 16)))
    return x + tf.cast(tf.strings.length(long), tf.float32) * 0.0


def build_dataset():
    numbers = np.arange(256, dtype="float32")
    data = tf.data.Dataset.from_tensor_slices((np.stack([numbers] * 4, 1), numbers[:, None]))
    if WAY == "tf.data":
        data = data.map(lambda x, y: (tf.numpy_function(host_memory, [x], tf.float32), y))
        data = data.map(lambda x, y: (tf.ensure_shape(x, (4,)), y))
    if WAY == "C++":
        data = data.map(lambda x, y: (strings(x), y))
    return data.batch(4)
