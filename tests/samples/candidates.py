"""Two functions that could be meant."""

import keras


def build_model():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])


def get_model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
