"""Bag of words sentiment with Keras on JAX."""
import os

os.environ["KERAS_BACKEND"] = "jax"  # must come before keras is imported

import keras
import numpy as np

vocabulary = 2000
rng = np.random.default_rng(123)
sequences = [rng.integers(1, vocabulary, size=rng.integers(20, 200)) for _ in range(1000)]
labels = rng.integers(0, 2, size=1000).astype("float32")


def vectorize(sequences):
    out = np.zeros((len(sequences), vocabulary), dtype="float32")
    for i, sequence in enumerate(sequences):
        out[i, sequence] = 1.0
    return out


x = vectorize(sequences)
x_val, partial_x_train = x[:200], x[200:]
y_val, partial_y_train = labels[:200], labels[200:]

model = keras.Sequential(
    [
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
history = model.fit(
    partial_x_train,
    partial_y_train,
    epochs=2,
    batch_size=512,
    validation_data=(x_val, y_val),
)
print(sorted(history.history))
