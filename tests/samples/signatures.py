"""Prints the signatures of models and data that differ in one thing each, as JSON."""

import functools
import json

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine import signature
from autobatch.engine.training import from_data

FACTOR = 2.0


class Scaled(keras.layers.Layer):
    def call(self, x):
        return x * FACTOR


class ScaledTwice(Scaled):
    def call(self, x):
        return super().call(super().call(x))


def _scaled_anew():
    class Scaled(keras.layers.Layer):
        def call(self, x):
            """Documented, and on other lines."""
            # and commented
            return x * FACTOR

    return Scaled


def _scaled_otherwise():
    class Scaled(keras.layers.Layer):
        def call(self, x):
            return x * FACTOR + 1.0

    return Scaled


class Stepper(keras.Sequential):
    def train_step(self, *args):
        return super().train_step(*args)


class Opaque(keras.layers.Layer):
    """Has no configuration to give."""

    def __init__(self, handle):
        super().__init__()
        self.handle = handle

    def call(self, x):
        return x

    def get_config(self):
        raise RuntimeError("no configuration")


def my_loss(y, p):
    return keras.ops.mean(keras.ops.abs(y - p))


def model(*layers, units=3, kind=keras.Sequential, dtype=None, **compiling):
    built = kind([keras.Input((8,)), *layers, keras.layers.Dense(units, dtype=dtype)])
    built.compile(**{"optimizer": "adam", "loss": "mse", **compiling})
    return built


def arrays(rows=10, features=8, units=3, dtype="float32"):
    return np.zeros((rows, features), dtype), np.ones((rows, units), "float32")


def trained(*others, units=3):
    """A model some of whose weights have other values, in a process that has made others."""
    built = model(*others, units=units)
    built.fit(*arrays(units=units), verbose=0)
    return built


Renamed = _scaled_anew()
Otherwise = _scaled_otherwise()
for each in (Renamed, Otherwise):
    each.__qualname__ = Scaled.__qualname__
MODELS = {
    "plain": model,
    "again": model,
    "trained": trained,
    "rate": lambda: model(optimizer=keras.optimizers.Adam(0.5)),
    "seed": lambda: model(keras.layers.Dropout(0.0, seed=3)),
    "seed again": lambda: model(keras.layers.Dropout(0.0, seed=4)),
    "units": lambda: model(units=4),
    "loss": lambda: model(loss="mae"),
    "own loss": lambda: model(loss=my_loss),
    "metrics": lambda: model(metrics=["mae"]),
    "optimizer": lambda: model(optimizer="sgd"),
    "momentum": lambda: model(optimizer=keras.optimizers.SGD(momentum=0.9)),
    "precision": lambda: model(dtype="mixed_bfloat16"),
    "jit": lambda: model(jit_compile=True),
    "eager": lambda: model(run_eagerly=True),
    "steps": lambda: model(steps_per_execution=2),
    "step": lambda: model(kind=Stepper),
    "scaled": lambda: model(Scaled()),
    "scaled, documented": lambda: model(Renamed()),
    "scaled otherwise": lambda: model(Otherwise()),
    "scaled twice": lambda: model(ScaledTwice()),
    "opaque": lambda: model(Opaque(object())),
    "opaque again": lambda: model(Opaque(object())),
}
DATA = {
    "plain": arrays,
    "again": lambda: tuple(part + 1 for part in arrays()),
    "rows": lambda: arrays(rows=11),
    "kind": lambda: arrays(dtype="float64"),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(arrays()),
    "dataset again": lambda: tf.data.Dataset.from_tensor_slices(arrays()),
    "batched": lambda: tf.data.Dataset.from_tensor_slices(arrays()).batch(5),
    "batched otherwise": lambda: tf.data.Dataset.from_tensor_slices(arrays()).batch(2),
    "generator": lambda: iter([arrays(rows=4)] * 3),
    "generator again": lambda: iter([arrays(rows=4)] * 3),
}


def changed_constant():
    """`FACTOR` is of the module: a layer that reads it is another when it changes."""
    global FACTOR
    FACTOR = 3.0
    return model(Scaled())


if __name__ == "__main__":
    MODELS["constant"] = changed_constant  # the last, for it changes the others
    told = {"models": {}, "data": {}}
    for name, make in MODELS.items():
        told["models"][name] = signature.of(from_data(make(), arrays())).model
    plain = functools.partial(model)
    for name, make in DATA.items():
        told["data"][name] = signature.of(from_data(plain(), make())).data
    print(json.dumps(told))
