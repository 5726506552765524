"""A call of `fit` with AutoBatch and buckets of lengths; prints what came of it."""

import json

import keras
import numpy as np
import tensorflow as tf
from lengths import build_model

import autobatch

LONGEST = 40
rng = np.random.default_rng(0)
lengths = np.where(np.arange(600) % 3, rng.integers(4, 12, 600), rng.integers(20, LONGEST + 1, 600))
lengths[:60] = np.minimum(lengths[:60], 30)  # the longest come late
lengths[300] = LONGEST
tokens = tf.RaggedTensor.from_row_lengths(rng.integers(1, 50, lengths.sum(), np.int32), lengths)
samples = tf.data.Dataset.from_tensor_slices((tokens, np.arange(600, dtype=np.float32)[:, None]))
samples = samples.map(lambda x, y: (tf.ensure_shape(x, [None]), y))
seen = []


def told(shape, numbers):
    seen.append((list(map(int, shape)), numbers.ravel().astype(int).tolist()))
    return np.int32(0)


class Model(keras.Model):
    """Notes each batch that it trains on."""

    def train_step(self, data):
        x, y = data
        with tf.control_dependencies([tf.numpy_function(told, [tf.shape(x), y], tf.int32)]):
            return super().train_step((tf.identity(x), y))


def refused(data=samples, **options):
    try:
        finder = autobatch.AutoBatch(**options)
        build_model().fit(finder.batch(data), callbacks=[finder], verbose=0)
    except autobatch.AutobatchError as error:
        print(json.dumps([error.message]))


plain = build_model()
finder = autobatch.AutoBatch(
    16,
    bucket_boundaries=[12, 30],
    isolation="worker",
    memory_limit="96MiB",
    maximum=64,
    steps=3,
)
model = Model(plain.inputs, plain.outputs)
model.compile(keras.optimizers.SGD(0.01), "mse")
history = model.fit(finder.batch(samples.shuffle(600)), epochs=2, callbacks=[finder], verbose=0)
result = finder.result
print(json.dumps([result.boundaries, result.max_length, result.batch_sizes]))
print(json.dumps([result.proof.kind, [each.samples for each in result.buckets]]))
print(json.dumps([float(model.optimizer.learning_rate), result.mean_batch_size]))
places = [int(np.searchsorted([12, 30], shape[1], side="right")) for shape, _ in seen]
largest = [max(s[0] for (s, _), p in zip(seen, places, strict=True) if p == b) for b in range(3)]
print(json.dumps([largest, max(shape[1] for shape, _ in seen)]))
rows = sorted(number for _, numbers in seen for number in numbers)
print(json.dumps([rows == sorted([*range(600), *range(600)]), len(history.history["loss"])]))
refused(samples.padded_batch(4), bucket_boundaries=[12, 30])
refused(bucket_boundaries=[12, 30], target_batch_size=64)
refused(bucket_boundaries=[12, 12])
refused(bucket_boundaries=[12, 30], isolation="process")
