"""An MLP-Mixer on 32x32 colour images, compiled by XLA.

The images are made up, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 2048
PATCH = 4
WIDTH = 64
BLOCKS = 1
CLASSES = 10


def perceptron(x, hidden, width):
    """Two dense layers over the last axis."""
    return keras.layers.Dense(width)(keras.layers.Dense(hidden, activation="gelu")(x))


def mixer_block(x, patches):
    """Mix the patches, then the channels, each with its residual."""
    turned = keras.layers.Permute((2, 1))(keras.layers.LayerNormalization()(x))
    x = x + keras.layers.Permute((2, 1))(perceptron(turned, 2 * patches, patches))
    return x + perceptron(keras.layers.LayerNormalization()(x), 4 * WIDTH, WIDTH)


def build_model():
    """A compiled classifier of 32x32x3 images into ten classes, its steps compiled by XLA."""
    image = keras.Input((32, 32, 3))
    patches = (32 // PATCH) ** 2
    x = keras.layers.Conv2D(WIDTH, PATCH, strides=PATCH)(image)
    x = keras.layers.Reshape((patches, WIDTH))(x)
    for _ in range(BLOCKS):
        x = mixer_block(x, patches)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x))
    model = keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax")(x))
    model.compile(
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=True,
    )
    return model


def build_dataset():
    """Images in [0, 1) and their classes, one sample an element."""
    rng = np.random.default_rng(0)
    images = rng.random((SAMPLES, 32, 32, 3), dtype=np.float32)
    classes = rng.integers(0, CLASSES, SAMPLES, dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices((images, classes))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(64), epochs=1)
