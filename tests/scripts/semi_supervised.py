"""Contrastive pretraining: each step takes many unlabelled images and a few labelled ones."""
import numpy as np
import keras
import tensorflow as tf
from keras import layers, ops

UNLABELLED, LABELLED, CLASSES, WIDTH = 40, 8, 5, 24

rng = np.random.default_rng(5)
images = rng.integers(0, 255, (400, 24, 24, 3), dtype="uint8")
labels = rng.integers(0, CLASSES, 80)

unlabelled = tf.data.Dataset.from_tensor_slices(images).shuffle(400).batch(UNLABELLED)
labelled = tf.data.Dataset.from_tensor_slices((images[:80], labels)).shuffle(80).batch(LABELLED)
train = tf.data.Dataset.zip((unlabelled, labelled)).prefetch(tf.data.AUTOTUNE)
test = tf.data.Dataset.from_tensor_slices((images[:50], labels[:50])).batch(LABELLED)

augment = keras.Sequential(
    [layers.Rescaling(1 / 255), layers.RandomFlip("horizontal"), layers.RandomZoom((-0.3, 0.0))]
)
encoder = keras.Sequential(
    [
        layers.Conv2D(WIDTH, 3, strides=2, activation="relu"),
        layers.Conv2D(WIDTH, 3, strides=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
    ]
)


class Contrastive(keras.Model):
    def __init__(self):
        super().__init__()
        self.augment, self.encoder = augment, encoder
        self.project = keras.Sequential([layers.Dense(WIDTH, activation="relu"), layers.Dense(16)])
        self.probe = layers.Dense(CLASSES)

    def compile(self, contrastive_optimizer, probe_optimizer):
        super().compile()
        self.contrastive_optimizer = contrastive_optimizer
        self.probe_optimizer = probe_optimizer
        self.from_labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy()

    def train_step(self, data):
        some, (few, classes) = data
        everything = ops.concatenate((some, few), axis=0)
        with tf.GradientTape() as tape:
            one, other = (
                ops.normalize(self.project(self.encoder(self.augment(everything))), axis=1)
                for _ in range(2)
            )
            alike = ops.matmul(one, ops.transpose(other)) / 0.1
            loss = self.from_labels(ops.arange(ops.shape(alike)[0]), alike)
        weights = self.encoder.trainable_weights + self.project.trainable_weights
        self.contrastive_optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        features = self.encoder(self.augment(few))
        with tf.GradientTape() as tape:
            logits = self.probe(features)
            probe_loss = self.from_labels(classes, logits)
        weights = self.probe.trainable_weights
        self.probe_optimizer.apply_gradients(zip(tape.gradient(probe_loss, weights), weights))
        self.accuracy.update_state(classes, logits)
        return {"loss": loss, "probe_loss": probe_loss, "accuracy": self.accuracy.result()}

    def test_step(self, data):
        few, classes = data
        self.accuracy.update_state(classes, self.probe(self.encoder(few / 255)))
        return {"accuracy": self.accuracy.result()}


model = Contrastive()
model.compile(contrastive_optimizer=keras.optimizers.Adam(), probe_optimizer=keras.optimizers.Adam())
history = model.fit(train, epochs=3, validation_data=test)
print(f"best accuracy {max(history.history['val_accuracy']):.3f}")
