"""Trains two models, each by a call of fit of its own; the second one twice."""

import sys

import keras
import numpy as np

keras.utils.set_random_seed(1)
inputs, targets = np.ones((64, 8), "float32"), np.ones((64, 1), "float32")


class Count(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        print("iterations", int(self.model.optimizer.iterations), *sys.argv[1:])


def build(width):
    layers = [keras.Input((8,)), keras.layers.Dense(width), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    return model


teacher, student = build(16), build(4)
teacher.fit(inputs, targets, batch_size=4, verbose=0, callbacks=[Count()])
student.fit(inputs, targets, batch_size=8, verbose=0, callbacks=[Count()])
student.fit(inputs, targets, batch_size=8, verbose=0, callbacks=[Count()])
print("rates", float(teacher.optimizer.learning_rate), float(student.optimizer.learning_rate))
print("evaluated", len(teacher.evaluate(inputs, targets, verbose=0, return_dict=True)))
sys.exit(7)
