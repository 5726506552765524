"""Says what it sees when it runs, then trains."""

import os

from helpers import surroundings

with open(os.environ["TEST_SEEN"], "w") as file:
    file.write(surroundings(__name__, __file__))

import keras
import numpy as np

model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(np.zeros((64, 8), "float32"), np.zeros((64, 1), "float32"), verbose=0)
