"""A text classifier of two transformer encoder blocks, written out layer by layer.

Train it:            python scripts/examples/transformer.py
Size its batches:    autobatch probe scripts/examples/transformer.py:build_model

The texts are made up, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 4096
LENGTH = 128
VOCABULARY = 5000
WIDTH = 128
HEADS = 4
CLASSES = 4


class TokenAndPosition(keras.layers.Layer):
    """The sum of a token's embedding and its position's."""

    def __init__(self, length, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self.tokens = keras.layers.Embedding(vocabulary, width)
        self.positions = keras.layers.Embedding(length, width)

    def call(self, ids):
        places = keras.ops.arange(keras.ops.shape(ids)[-1])
        return self.tokens(ids) + self.positions(places)


def encoder_block(x):
    """Self-attention and a feed-forward network, each with its residual and norm."""
    attended = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=0.1)(x, x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x + attended)
    hidden = keras.layers.Dense(4 * WIDTH, activation="gelu")(x)
    hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(WIDTH)(hidden))
    return keras.layers.LayerNormalization(epsilon=1e-6)(x + hidden)


def build_model():
    """A compiled classifier of 128 token ids into four classes, trained by AdamW."""
    ids = keras.Input((LENGTH,), dtype="int32")
    x = TokenAndPosition(LENGTH, VOCABULARY, WIDTH)(ids)
    x = encoder_block(encoder_block(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(ids, keras.layers.Dense(CLASSES, activation="softmax")(x))
    model.compile(
        optimizer=keras.optimizers.AdamW(3e-4, weight_decay=0.01),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def build_dataset():
    """Token ids and their classes, one sample an element."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, (SAMPLES, LENGTH), dtype=np.int32)
    classes = rng.integers(0, CLASSES, SAMPLES, dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices((tokens, classes))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(32), epochs=1)
