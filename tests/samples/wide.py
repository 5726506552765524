"""A model of 1.1 M weights whose activations, not its weights, fill a device. JIT=0 keeps XLA off,
and POLICY sets the precision.

As a script it sets its GPU up as SETUP asks, and trains.
"""

import contextlib
import os

import keras
import numpy as np
import tensorflow as tf

SETUP = os.environ.get("SETUP", "")


def build_model():
    keras.config.set_dtype_policy(os.environ.get("POLICY", "float32"))
    model = keras.Sequential(
        [
            keras.Input((256,)),
            keras.layers.Dense(4096, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        jit_compile="auto" if os.environ.get("JIT", "1") == "1" else False,
    )
    return model


def build_dataset():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8192, 256)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, rng.integers(0, 10, 8192, dtype="int32")))


if __name__ == "__main__":
    gpus = tf.config.list_physical_devices("GPU")
    scope = tf.distribute.get_strategy().scope
    if SETUP == "growth":
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    elif SETUP == "limit":
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=96)
        tf.config.set_logical_device_configuration(gpus[0], [limit])
    elif SETUP in ("session", "share"):  # as scripts of TensorFlow 1 have it
        config = tf.compat.v1.ConfigProto()
        if SETUP == "session":
            config.gpu_options.allow_growth = True
        else:
            config.gpu_options.per_process_gpu_memory_fraction = 0.25
        session = tf.compat.v1.InteractiveSession(config=config)
    elif SETUP == "two on one":
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=96)
        tf.config.set_logical_device_configuration(gpus[0], [limit, limit])
        scope = tf.distribute.MirroredStrategy().scope
    elif SETUP == "mirrored":
        scope = tf.distribute.MirroredStrategy().scope
    elif SETUP == "multi worker":
        with contextlib.suppress(Exception):  # a script that would swallow it
            scope = tf.distribute.MultiWorkerMirroredStrategy().scope
    with scope():
        model = build_model()
    model.fit(build_dataset().batch(64), epochs=1, verbose=0)
