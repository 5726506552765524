"""ResNet50, as published, on 64x64 images of a hundred classes.

Train it:            python scripts/examples/resnet50.py
Size its batches:    autobatch probe scripts/examples/resnet50.py:build_model

The images are made up and the weights random, so that nothing has to be downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 2048
CLASSES = 100


def build_model():
    """A compiled ResNet50 for 64x64x3 images, trained by SGD with momentum."""
    model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=CLASSES)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def build_dataset():
    """8-bit images, scaled to [0, 1) as they are read, and their classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, 64, 64, 3), dtype=np.uint8)
    classes = rng.integers(0, CLASSES, SAMPLES, dtype=np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((images, classes))
    return dataset.map(lambda image, c: (tf.cast(image, tf.float32) / 256.0, c))


if __name__ == "__main__":
    build_model().fit(build_dataset().shuffle(SAMPLES).batch(16), epochs=1)
