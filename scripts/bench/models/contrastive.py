"""Two encoders taught to agree: each sample against every other of its batch.

The loss compares all pairs of a batch, so memory grows with the square of the batch size. The
vectors are made up, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 8192
FEATURES = 128
WIDTH = 64
TEMPERATURE = 0.1


def contrast(_, pairs):
    """Cross-entropy of finding one's own partner among all of the batch, both ways.

    Args:
        pairs: Embeddings of both views, (batch, 2, width).

    Returns:
        A loss for every sample, (batch,).
    """
    left, right = tf.unstack(tf.math.l2_normalize(pairs, axis=-1), axis=1)
    similarity = tf.matmul(left, right, transpose_b=True) / TEMPERATURE
    partner = tf.range(tf.shape(pairs)[0])
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    return (
        cross_entropy(partner, similarity) + cross_entropy(partner, tf.transpose(similarity))
    ) / 2


def encoder(x):
    """A perceptron of two layers."""
    hidden = keras.layers.Dense(2 * WIDTH, activation="relu")(x)
    return keras.layers.Dense(WIDTH)(hidden)


def build_model():
    """A compiled pair of encoders, trained by Adam."""
    views = keras.Input((FEATURES,)), keras.Input((FEATURES,))
    embeddings = [keras.layers.Reshape((1, WIDTH))(encoder(view)) for view in views]
    model = keras.Model(views, keras.layers.Concatenate(axis=1)(embeddings))
    model.compile(optimizer="adam", loss=contrast)
    return model


def build_dataset():
    """Two noisy views of a vector; the target is not looked at."""
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((SAMPLES, FEATURES), dtype=np.float32)
    left, right = (whole + 0.1 * rng.standard_normal(whole.shape, dtype=np.float32) for _ in "lr")
    targets = np.zeros((SAMPLES, 1), np.float32)
    return tf.data.Dataset.from_tensor_slices(((left, right), targets))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(256), epochs=1)
