"""Gesture recognition from short clips: a small CNN for every frame, a GRU over the frames."""
import numpy as np
import tensorflow as tf
from tensorflow.keras import layers

BATCH_SIZE = 12
FRAMES = 8
HEIGHT = WIDTH = 32
CLASSES = 5


def load_clips(n):
    rng = np.random.RandomState(0)
    clips = rng.rand(n, FRAMES, HEIGHT, WIDTH, 3).astype(np.float32)
    gestures = rng.randint(0, CLASSES, size=(n,))
    return clips, gestures


clips, gestures = load_clips(192)
train_ds = (
    tf.data.Dataset.from_tensor_slices((clips, gestures))
    .shuffle(192)
    .batch(BATCH_SIZE, drop_remainder=True)  # the model needs full batches
    .prefetch(tf.data.AUTOTUNE)
)


class GestureNet(tf.keras.Model):
    def __init__(self):
        super(GestureNet, self).__init__()
        self.conv1 = layers.Conv2D(16, 3, strides=2, activation="relu")
        self.conv2 = layers.Conv2D(32, 3, strides=2, activation="relu")
        self.pool = layers.GlobalAveragePooling2D()
        self.gru = layers.GRU(64)
        self.head = layers.Dense(CLASSES, activation="softmax")

    def call(self, clips, training=False):
        frames = tf.reshape(clips, (BATCH_SIZE * FRAMES, HEIGHT, WIDTH, 3))
        x = self.pool(self.conv2(self.conv1(frames)))
        x = tf.reshape(x, (BATCH_SIZE, FRAMES, 32))
        return self.head(self.gru(x))


model = GestureNet()
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train_ds, epochs=2)
model.summary()
