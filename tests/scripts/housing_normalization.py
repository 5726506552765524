"""House prices from a CSV file: normalise, two dense layers, done."""
import csv
import os
import tempfile

import numpy as np
import tensorflow as tf

COLUMNS = ["rooms", "age", "area", "distance", "tax", "crime", "price", "survey_year"]


def write_sample_csv(path, rows=3000):
    rng = np.random.RandomState(3)
    features = rng.gamma(2.0, size=(rows, 6))
    price = features @ np.array([40.0, -2.0, 9.0, -5.0, -1.0, -8.0]) + rng.randn(rows) * 5 + 100
    year = rng.randint(1990, 2024, size=rows)
    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(COLUMNS)
        for values, p, y in zip(features, price, year):
            writer.writerow([f"{v:.4f}" for v in values] + [f"{p:.2f}", y])


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)  # everything below uses relative names
    write_sample_csv("housing.csv")
    table = np.genfromtxt("housing.csv", delimiter=",", skip_header=1)
    os.chdir(os.path.dirname(folder))

train = table[:2400]
test = table[2400:]
x_train, y_train = train[:, :6], train[:, 6]
x_test, y_test = test[:, :6], test[:, 6]
# old surveys are less reliable
weights = 0.98 ** (2024 - train[:, 7])

normalizer = tf.keras.layers.Normalization(axis=-1)
normalizer.adapt(x_train)
print("means:", np.array(normalizer.mean).round(2))

model = tf.keras.Sequential([
    normalizer,
    tf.keras.layers.Dense(64, activation="relu"),
    tf.keras.layers.Dense(64, activation="relu"),
    tf.keras.layers.Dense(1),
])
model.compile(tf.keras.optimizers.RMSprop(0.001), "mse", metrics=["mae"])

# x, y, batch size, epochs, verbose
history = model.fit(x_train, y_train, 40, 2, 2, sample_weight=weights)

print("test:", model.evaluate(x_test, y_test, verbose=0))
