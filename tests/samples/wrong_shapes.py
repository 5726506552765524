"""Data that does not go into the model."""

import keras
import numpy as np


def build_model():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def build_dataset():
    return np.zeros((64, 5), "float32"), np.zeros((64, 1), "float32")
