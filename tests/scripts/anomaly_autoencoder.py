"""Convolutional autoencoder that flags odd windows in a sensor's readings.

The reconstruction error is added inside the model with add_loss, so fit() gets x and nothing else.
"""
import numpy as np
import keras
from keras import layers, ops

TIME_STEPS = 144


def sensor_readings(n):
    t = np.arange(n)
    daily = np.sin(2 * np.pi * t / 288)
    return (daily + 0.1 * np.random.RandomState(1).randn(n)).astype("float32")


def create_sequences(values, time_steps=TIME_STEPS):
    windows = [values[i : i + time_steps] for i in range(len(values) - time_steps + 1)]
    return np.stack(windows)[..., np.newaxis]


class ReconstructionLoss(layers.Layer):
    """Passes the reconstruction through and charges its error to the model."""

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, inputs):
        original, reconstruction = inputs
        self.add_loss(self.weight * ops.mean(ops.square(original - reconstruction)))
        return reconstruction


readings = sensor_readings(1643)
readings = (readings - readings.mean()) / readings.std()
x_train = create_sequences(readings)
print("Training input shape:", x_train.shape)

inputs = keras.Input(shape=x_train.shape[1:])
x = layers.Conv1D(32, kernel_size=7, padding="same", strides=2, activation="relu")(inputs)
x = layers.Dropout(0.2)(x)
x = layers.Conv1D(16, kernel_size=7, padding="same", strides=2, activation="relu")(x)
x = layers.Conv1DTranspose(16, kernel_size=7, padding="same", strides=2, activation="relu")(x)
x = layers.Dropout(0.2)(x)
x = layers.Conv1DTranspose(32, kernel_size=7, padding="same", strides=2, activation="relu")(x)
x = layers.Conv1DTranspose(1, kernel_size=7, padding="same")(x)
outputs = ReconstructionLoss()([inputs, x])

model = keras.Model(inputs, outputs)
model.compile(optimizer=keras.optimizers.Adam(learning_rate=0.001))
model.fit(
    x_train,
    epochs=1,
    batch_size=100,
    validation_split=0.2,
    callbacks=[keras.callbacks.EarlyStopping(monitor="val_loss", patience=5, mode="min")],
)

reconstructed = model.predict(x_train[:256], verbose=0)
threshold = np.max(np.mean(np.abs(reconstructed - x_train[:256]), axis=1))
print("Reconstruction error threshold:", threshold)
