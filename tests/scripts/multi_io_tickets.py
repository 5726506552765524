"""Customer tickets in, priority and department out: several inputs, several outputs."""
import numpy as np
import keras
from keras import layers

num_tags = 12
num_words = 3000
num_departments = 4
rows = 1280

title_input = keras.Input(shape=(10,), name="title", dtype="int32")
body_input = keras.Input(shape=(100,), name="body", dtype="int32")
tags_input = keras.Input(shape=(num_tags,), name="tags")

title_features = layers.Embedding(num_words, 32)(title_input)
body_features = layers.Embedding(num_words, 32)(body_input)
title_features = layers.LSTM(64)(title_features)
body_features = layers.LSTM(32)(body_features)
x = layers.concatenate([title_features, body_features, tags_input])

priority_pred = layers.Dense(1, name="priority")(x)
department_pred = layers.Dense(num_departments, name="department")(x)

model = keras.Model(
    inputs={"title": title_input, "body": body_input, "tags": tags_input},
    outputs={"priority": priority_pred, "department": department_pred},
)

model.compile(
    optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.004),
    loss={
        "priority": keras.losses.BinaryCrossentropy(from_logits=True),
        "department": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    },
    loss_weights={"priority": 1.0, "department": 0.2},
    metrics={"department": ["accuracy"]},
)

# Dummy input data
title_data = np.random.randint(num_words, size=(rows, 10))
body_data = np.random.randint(num_words, size=(rows, 100))
tags_data = np.random.randint(2, size=(rows, num_tags)).astype("float32")
# Dummy target data
priority_targets = np.random.random(size=(rows, 1))
dept_targets = np.random.randint(num_departments, size=(rows,))

# no batch size here: 48 steps an epoch, whatever the size of the data
model.fit(
    {"title": title_data, "body": body_data, "tags": tags_data},
    {"priority": priority_targets, "department": dept_targets},
    epochs=1,
    steps_per_epoch=48,
    validation_split=0.25,
)
