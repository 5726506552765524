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
    if WAY == "tf.data":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 1024 * MIB, resource.RLIM_INFINITY))
    inputs = keras.Input((4,))
    x = inputs
    if WAY == "optimizer":  # 14 MiB of weights, as much of gradients, and twice that of slots
        x = keras.layers.Dense(14 * MIB // 16, kernel_initializer="zeros", use_bias=False)(x)
        x = keras.layers.Reshape((-1, 1))(x)
        x = keras.layers.GlobalAveragePooling1D()(x)
    elif WAY in ("forward", "backward", "validation", "XLA"):
        x = Spend()(keras.layers.Dense(4)(x))
    elif WAY == "oneDNN":
        x = keras.layers.Reshape((1, 1, 4))(x)
        x = keras.layers.UpSampling2D((64, 64))(x)
        x = keras.layers.Conv2D(128, 3, padding="same")(x)  # two MiB a sample
        x = keras.layers.GlobalMaxPooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("adam", "mse", jit_compile=WAY == "XLA")
    return model


def host_memory(x):
    """More of the host's memory than this process may have."""
    if x[0] >= FROM:
        np.ones((4 << 30,), np.int8)
    return x


def build_dataset():
    numbers = np.arange(256, dtype="float32")
    data = tf.data.Dataset.from_tensor_slices((np.stack([numbers] * 4, 1), numbers[:, None]))
    if WAY == "tf.data":
        data = data.map(lambda x, y: (tf.numpy_function(host_memory, [x], tf.float32), y))
        data = data.map(lambda x, y: (tf.ensure_shape(x, (4,)), y))
    return data.batch(4)
