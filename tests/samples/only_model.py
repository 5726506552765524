"""A model at the top level, under a name of its own."""

import keras

inputs = keras.Input((8,))
regressor = keras.Model(inputs, keras.layers.Dense(1)(inputs))
regressor.compile("sgd", "mse")
