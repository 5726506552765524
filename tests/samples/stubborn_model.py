"""Live models that cannot be sent elsewhere, in a process that has Keras; says what it is told."""

import threading

import keras

import autobatch
from autobatch import targets


class Locked(keras.layers.Layer):
    """Has an argument that no configuration can hold."""

    def __init__(self, lock, **kwargs):
        super().__init__(**kwargs)
        self.lock = lock

    def call(self, x):
        return x


def told(target):
    try:
        targets.resolve(target)
    except autobatch.AutobatchError as error:
        return f"{error.kind}: {error.message}"
    return "nothing"


if __name__ == "__main__":
    model = keras.Sequential([keras.Input((8,)), Locked(threading.Lock())])
    print(told(model))
    model.compile("sgd", "mse")
    print(told(model))
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("sgd", "mse")
    print(told(unbuilt))
    lock = threading.Lock()
    print(told(lambda: lock))
    print(told(42))
