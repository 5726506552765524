"""Trains under a MirroredStrategy with the AutoBatch callback; says what it found as JSON."""

import json

import keras
import numpy as np
import tensorflow as tf

import autobatch

strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((256,)),
            keras.layers.Dense(4096, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")

rng = np.random.default_rng(0)
x = rng.normal(size=(8192, 256)).astype("float32")
y = rng.integers(0, 10, 8192, dtype="int32")
finder = autobatch.AutoBatch(steps=3, proof_steps=3, maximum=512)
model.fit(finder.batch((x, y)), epochs=1, callbacks=[finder], verbose=0)
result = finder.result
steps = int(model.optimizer.iterations.numpy())
print(
    json.dumps(
        {
            "size": result.batch_size,
            "whole": result.global_batch_size,
            "replicas": result.device.replicas,
            "limit": result.device.limit_bytes,
            "kind": result.proof.kind,
            "steps": steps,
        }
    )
)
