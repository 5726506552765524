"""A model that takes its time where it is told to: in building, in tracing or in its steps, there
in batches of SLOW_FROM samples and more."""

import os
import time

import keras
import tensorflow as tf

WHERE = os.environ.get("SLOW_AT", "step")


class Nap(keras.layers.Layer):
    """Sleeps while it is traced, or at each step."""

    def call(self, x):
        if WHERE == "tracing":
            print(f"napping in {os.getpid()}", flush=True)
            time.sleep(600)
        if WHERE == "step":
            x = tf.ensure_shape(tf.numpy_function(self._sleep, [x], tf.float32), x.shape)
        return x

    def _sleep(self, x):
        if len(x) >= int(os.environ.get("SLOW_FROM", "0")):
            print(f"napping in {os.getpid()}", flush=True)
            time.sleep(float(os.environ.get("SLOW_SECONDS", "0.5")))
        return x

    def compute_output_shape(self, shape):
        return shape


def build_model():
    if WHERE == "building":
        print(f"napping in {os.getpid()}", flush=True)
        time.sleep(600)
    model = keras.Sequential([keras.layers.Dense(8), Nap(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def build_dataset():
    return tf.zeros((64, 8)), tf.zeros((64, 1))
