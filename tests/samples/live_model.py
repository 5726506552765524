"""What a notebook holds: classes and functions of its own in `__main__`, and a live model."""

import keras
import tensorflow as tf

import autobatch

OPTIONS = {
    "device": "cpu",
    "memory_limit": "128MiB",
    "maximum": 4,
    "steps": 2,
    "proof_steps": 2,
}


class Scale(keras.layers.Layer):
    """A layer of the notebook's own."""

    def build(self, shape):
        self.factor = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, x):
        return x * self.factor


def squash(x):
    return tf.tanh(x)


def absolute_error(truth, guess):
    return tf.reduce_mean(tf.abs(truth - guess), axis=-1)


def build(units):
    model = keras.Sequential(
        [keras.Input((8,)), Scale(), keras.layers.Dense(units, activation=squash)]
    )
    model.compile("sgd", loss=absolute_error, metrics=["mae"])
    return model


def closure(units):
    return lambda: build(units)


if __name__ == "__main__":
    live = build(2)
    live.fit(tf.zeros((4, 8)), tf.zeros((4, 2)), verbose=0)
    before = [w.numpy().copy() for w in live.weights]
    result = autobatch.probe(live, **OPTIONS)
    print("live", result.batch_size, result.proof.kind, flush=True)
    assert all((w.numpy() == b).all() for w, b in zip(live.weights, before, strict=True))
    result = autobatch.probe(closure(3), **OPTIONS)
    print("lambda", result.batch_size, result.proof.kind, flush=True)
