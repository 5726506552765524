# Credit card fraud: very few positives, so the batches are drawn in a generator that weighs the rows.
import numpy as np
import tensorflow as tf
from tensorflow.keras.layers import BatchNormalization, Dense, Dropout
from tensorflow.keras.models import Sequential

np.random.seed(2019)
tf.random.set_seed(2019)

BS = 256
N, FEATURES = 6000, 29

X = np.random.randn(N, FEATURES)
y = (np.random.rand(N) < 0.03).astype(int)
X[y == 1] += 1.5

X_train, X_valid = X[:5000], X[5000:]
y_train, y_valid = y[:5000], y[5000:]
print("positives: {} of {}".format(y_train.sum(), len(y_train)))

neg, pos = np.bincount(y_train)
weight_of = np.array([len(y_train) / (2.0 * neg), len(y_train) / (2.0 * pos)])


def batch_generator(X, y, batch_size, shuffle=True):
    order = np.arange(len(X))
    while True:
        if shuffle:
            np.random.shuffle(order)
        for start in range(0, len(X) - batch_size + 1, batch_size):
            rows = order[start:start + batch_size]
            # class_weight does not work with generators, so the weights come along
            yield X[rows], y[rows], weight_of[y[rows]]


def build():
    model = Sequential()
    model.add(Dense(256, activation="relu"))
    model.add(BatchNormalization())
    model.add(Dropout(0.3))
    model.add(Dense(256, activation="relu"))
    model.add(BatchNormalization())
    model.add(Dropout(0.3))
    model.add(Dense(1, activation="sigmoid"))
    model.compile(optimizer="adam", loss="binary_crossentropy",
                  metrics=[tf.keras.metrics.AUC(name="auc")])
    return model


clf = build()
hist = clf.fit(batch_generator(X_train, y_train, BS),
               steps_per_epoch=len(X_train) // BS,
               epochs=2,
               validation_data=batch_generator(X_valid, y_valid, BS, shuffle=False),
               validation_steps=len(X_valid) // BS)
print("best auc", max(hist.history["val_auc"]))
