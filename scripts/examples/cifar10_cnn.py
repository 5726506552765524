"""A small convolutional network on 32x32 colour images: the tutorial most people start from.

Train it:            python scripts/examples/cifar10_cnn.py
Size its batches:    autobatch probe scripts/examples/cifar10_cnn.py:build_model

The images are made up, in CIFAR-10's shapes, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 4096


def build_model():
    """A compiled classifier of 32x32x3 images into ten classes."""
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_dataset():
    """Images in [0, 1) and their classes, one sample an element."""
    rng = np.random.default_rng(0)
    images = rng.random((SAMPLES, 32, 32, 3), dtype=np.float32)
    classes = rng.integers(0, 10, SAMPLES, dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices((images, classes))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(64), epochs=1)
