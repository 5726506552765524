"""Calls of `fit` with AutoBatch and buckets of lengths; prints what came of them."""

import json
import random
import sys

import keras
import numpy as np
import tensorflow as tf
from lengths import build_model

import autobatch

# What TensorFlow must know before the data is there.
if any(each.startswith("here") for each in sys.argv):  # the same bits each time
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_inter_op_parallelism_threads(1)
if "mirrored" in sys.argv:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
LONGEST, BOUNDARIES, EPOCHS = 40, [12, 30], 2
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


def noted(x, y):
    """The batch, once it has been noted."""
    with tf.control_dependencies([tf.numpy_function(told, [tf.shape(x), y], tf.int32)]):
        return tf.identity(x), y


class Model(keras.Model):
    """Notes each batch that it trains on."""

    def train_step(self, data):
        return super().train_step(noted(*data))


def largest():
    """The most samples in a batch of each bucket, the longest batch, and whether each sample came
    once in every epoch."""
    places = [int(np.searchsorted(BOUNDARIES, shape[1], side="right")) for shape, _ in seen]
    sizes = [max(s[0] for (s, _), p in zip(seen, places, strict=True) if p == b) for b in range(3)]
    rows = sorted(number for _, numbers in seen for number in numbers)
    return sizes, max(shape[1] for shape, _ in seen), rows == sorted([*range(600)] * EPOCHS)


def worker():
    """Trials run in workers, on a copy of the model."""
    plain = build_model()
    finder = autobatch.AutoBatch(
        16,
        bucket_boundaries=BOUNDARIES,
        isolation="worker",
        memory_limit="96MiB",
        maximum=64,
        steps=3,
    )
    model = Model(plain.inputs, plain.outputs)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    late = finder.batch(samples.shuffle(600))
    history = model.fit(late, epochs=EPOCHS, callbacks=[finder], verbose=0)
    result = finder.result
    print(json.dumps([result.boundaries, result.max_length, result.batch_sizes]))
    print(json.dumps([result.proof.kind, [each.samples for each in result.buckets]]))
    print(json.dumps([float(model.optimizer.learning_rate), result.mean_batch_size]))
    print(json.dumps(largest()))
    print(json.dumps([len(history.history["loss"])]))


def wide_model(learning_rate):
    """Attention over wide vectors, of which few sequences fit, and a dropout."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(50, 512)(inputs)
    x = keras.layers.Attention()([x, x])
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    return model


class Losses(keras.callbacks.Callback):
    """Every loss."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(logs["loss"])


def trained(finder, learning_rate, result=None):
    """Losses, final weights and slots, and what random numbers come next."""
    keras.utils.set_random_seed(7)
    model, data, losses = wide_model(learning_rate), samples.shuffle(600), Losses()
    if result is None:
        data = finder.batch(data)
    else:
        data = autobatch.bucket_by_sequence_length(data, result)
        # As Keras knows it of the finder's: it begins an iterator more at the end of an epoch.
        data = data.apply(tf.data.experimental.assert_cardinality(result.steps_per_epoch))
    seen.clear()
    callbacks = [losses] if finder is None else [losses, finder]
    model.fit(data.map(noted), epochs=EPOCHS, callbacks=callbacks, verbose=0)
    drawn = [random.random(), np.random.rand(), float(tf.random.uniform(()))]
    drawn.append(float(keras.random.uniform(())))
    state = [np.asarray(each) for each in [*model.variables, *model.optimizer.variables]]
    return losses.seen, state, drawn


def here(isolation):
    """Trials run in this process, and training is bit for bit what it would have been."""
    finder = autobatch.AutoBatch(
        16,
        bucket_boundaries=BOUNDARIES,
        isolation=isolation,
        dataset_cap=False,
        precision=0.1,
        steps=3,
        proof_steps=3,
    )
    found = trained(finder, 1e-3)
    result = finder.result
    print(json.dumps([result.proof.kind, result.device.kind, result.batch_sizes]))
    print(json.dumps(sorted({each.outcome for each in result.trials})))
    print(json.dumps([each.limited_by.kind for each in result.buckets]))
    print(json.dumps(largest()))
    plain = trained(None, result.learning_rate, result)
    same = [
        found[0] == plain[0],
        all(map(np.array_equal, found[1], plain[1])),
        found[2] == plain[2],
        result.learning_rate != 1e-3,
    ]
    print(json.dumps(same))


def refused(data=samples, model=None, **options):
    try:
        finder = autobatch.AutoBatch(**options)
        (model or build_model()).fit(finder.batch(data), callbacks=[finder], verbose=0)
    except autobatch.AutobatchError as error:
        print(json.dumps([error.message]))


def refusals():
    """What cannot be done is said."""
    refused(samples.padded_batch(4), bucket_boundaries=BOUNDARIES)
    refused(bucket_boundaries=BOUNDARIES, target_batch_size=64)
    refused(bucket_boundaries=[12, 12])
    refused(bucket_boundaries=BOUNDARIES, buckets=3)
    refused(max_length=60)


def mirrored():
    """Several replicas."""
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = build_model()
    refused(model=model, bucket_boundaries=BOUNDARIES)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, given = argument.partition("=")
        globals()[name](*filter(None, [given]))
