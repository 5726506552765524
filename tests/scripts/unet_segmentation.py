"""U-Net for binary masks, in mixed precision. Usage: python unet_segmentation.py"""
import os
import sys
import tempfile

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import layers
from tensorflow.keras import backend as K

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
import helpers_shapes

K.clear_session()
keras.mixed_precision.set_global_policy("mixed_float16")

IMG_SIZE = 64
BATCH_SIZE = 8
RUN_NAME = os.path.splitext(os.path.basename(__file__))[0]
LOG_DIR = tempfile.mkdtemp(prefix=RUN_NAME)


class ShapeSequence(keras.utils.Sequence):
    """Yields (images, masks, pixel weights), a batch at a time."""

    def __init__(self, count, batch_size, seed):
        self.images, self.masks, _ = helpers_shapes.draw_many(count, IMG_SIZE, seed)
        self.batch_size = batch_size

    def __len__(self):
        return int(np.ceil(len(self.images) / float(self.batch_size)))

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        masks = self.masks[rows].astype("float32")
        return self.images[rows], masks, 1.0 + 2.0 * masks


def dice_coef(y_true, y_pred, smooth=1.0):
    y_true = tf.cast(tf.reshape(y_true, [-1]), tf.float32)
    y_pred = tf.cast(tf.reshape(y_pred, [-1]), tf.float32)
    intersection = tf.reduce_sum(y_true * y_pred)
    return (2.0 * intersection + smooth) / (tf.reduce_sum(y_true) + tf.reduce_sum(y_pred) + smooth)


def double_conv(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal")(x)
        x = layers.Activation("relu")(x)
    return x


def unet(filters=(8, 16, 32)):
    inputs = layers.Input((IMG_SIZE, IMG_SIZE, 1))
    skips, x = [], inputs
    for f in filters[:-1]:
        x = double_conv(x, f)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = double_conv(x, filters[-1])
    for f, skip in zip(reversed(filters[:-1]), reversed(skips)):
        x = layers.Conv2DTranspose(f, 2, strides=2, padding="same")(x)
        x = double_conv(layers.concatenate([x, skip]), f)
    # softmax and sigmoid stay in float32
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(x))


model = unet()
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy", metrics=[dice_coef])

callbacks = [
    keras.callbacks.ModelCheckpoint(os.path.join(LOG_DIR, "best.keras"), save_best_only=True, verbose=1),
    keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
    keras.callbacks.ReduceLROnPlateau(factor=0.1, patience=3),
    keras.callbacks.CSVLogger(os.path.join(LOG_DIR, "history.csv")),
]
try:
    import tensorboard  # noqa: F401

    callbacks.append(keras.callbacks.TensorBoard(log_dir=os.path.join(LOG_DIR, "tb")))
except ImportError:
    print("no tensorboard, no graphs")

train_gen = ShapeSequence(132, BATCH_SIZE, seed=0)
val_gen = ShapeSequence(30, BATCH_SIZE, seed=1)
model.fit(train_gen, validation_data=val_gen, epochs=1, callbacks=callbacks)
print(os.listdir(LOG_DIR))
