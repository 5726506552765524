"""A recurrent classifier of film reviews, all padded to 500 tokens.

Train it:            python scripts/examples/imdb_lstm.py
Size its batches:    autobatch probe scripts/examples/imdb_lstm.py:build_model

The reviews are made up, in the shapes of the IMDB data set, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 2048
LENGTH = 500
VOCABULARY = 10000


def build_model():
    """A compiled classifier of 500 token ids into two classes."""
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 128),
            keras.layers.LSTM(64),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def build_dataset():
    """Token ids, zero-padded at the front to 500, and a label of 0 or 1."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(5.3, 0.7, SAMPLES).astype(int) + 10, LENGTH)
    tokens = rng.integers(1, VOCABULARY, (SAMPLES, LENGTH), dtype=np.int32)
    tokens[np.arange(LENGTH) < LENGTH - lengths[:, None]] = 0
    labels = rng.integers(0, 2, (SAMPLES, 1)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((tokens, labels))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(64), epochs=1)
