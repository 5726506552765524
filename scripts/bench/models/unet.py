"""A small U-Net that segments 64x64 colour images into three classes.

The images are made up, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 1024
SIZE = 64
WIDTHS = (8, 16, 32)
CLASSES = 3


def double_convolution(x, width):
    """Two convolutions, each normalised over the batch."""
    for _ in range(2):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return x


def build_model():
    """A compiled U-Net of three levels, trained by Adam."""
    image = x = keras.Input((SIZE, SIZE, 3))
    skipped = []
    for width in WIDTHS[:-1]:
        x = double_convolution(x, width)
        skipped.append(x)
        x = keras.layers.MaxPooling2D()(x)
    x = double_convolution(x, WIDTHS[-1])
    for width in reversed(WIDTHS[:-1]):
        x = keras.layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = double_convolution(keras.layers.Concatenate()([x, skipped.pop()]), width)
    classes = keras.layers.Conv2D(CLASSES, 1, activation="softmax")(x)
    model = keras.Model(image, classes)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_dataset():
    """8-bit images, scaled to [0, 1) as they are read, and a class for every pixel."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, SIZE, SIZE, 3), dtype=np.uint8)
    masks = rng.integers(0, CLASSES, (SAMPLES, SIZE, SIZE), dtype=np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((images, masks))
    return dataset.map(lambda image, mask: (tf.cast(image, tf.float32) / 256.0, mask))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(16), epochs=1)
