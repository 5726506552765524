"""A word-level language model: an LSTM that foretells the next of 64 tokens at every place.

The texts are made up, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 2048
LENGTH = 64
VOCABULARY = 2000
WIDTH = 128


def build_model():
    """A compiled model of 64 token ids into the logits of 64 next ones, trained by Adam."""
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, WIDTH),
            keras.layers.LSTM(WIDTH, return_sequences=True),
            keras.layers.Dense(VOCABULARY),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3, clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def build_dataset():
    """Token ids and the same ids one place on."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, (SAMPLES, LENGTH + 1), dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices((tokens[:, :-1], tokens[:, 1:]))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(32), epochs=1)
