"""Models of sequences of any length, and data of unequal lengths."""

import keras
import numpy as np
import tensorflow as tf

LONGEST = 60


def build_model(length=None):
    """Attention over tokens: memory grows with the square of the length."""
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(50, 16)(tokens)
    x = keras.layers.Attention()([x, x])
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(tokens, keras.layers.Dense(1)(x))
    model.compile("adam", "mse")
    return model


def fixed_model():
    """The same for one length alone."""
    return build_model(LONGEST)


def unknown_twice():
    """Two dimensions that may be the sequence."""
    frames = keras.Input((None, None, 1), name="frames")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, padding="same")(frames))
    model = keras.Model(frames, keras.layers.Dense(1)(x))
    model.compile("adam", "mse")
    return model


def build_dataset():
    """Token ids, 5 to 60 of them, none of 21 to 30; and a target."""

    def generate():
        rng = np.random.default_rng(0)
        for number in range(1200):
            length = 5 + number % 16 if number % 3 else 31 + number // 3 % (LONGEST - 30)
            yield rng.integers(1, 50, length, dtype=np.int32), np.ones(1, np.float32)

    spec = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([1], tf.float32))
    return tf.data.Dataset.from_generator(generate, output_signature=spec)
