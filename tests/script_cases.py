"""Looks at the engine's own pieces inside TensorFlow; prints what it saw as JSON, by case.

`test_scripts.py` runs this once, as one process.
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

from autobatch import devices
from autobatch.units import MIB

os.environ |= devices.DeviceChoice("cpu", (), 512 * MIB, 512 * MIB).environment(proof=False)

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine import dataset_chain, device_settings, failures, optimizers, script, training
from autobatch.engine.batches import ArrayBatches, DatasetBatches
from autobatch.engine.device import open_memory
from autobatch.engine.iterable_batches import IterableBatches
from autobatch.engine.runner import Runner
from autobatch.protocol import DeviceRequest, RunTrial

Dataset = tf.data.Dataset
SEEN: dict[str, Any] = {}


def shapes(batches: Any, size: int, count: int = 3) -> list[list[int]]:
    """Shapes of the first leaf of some batches."""
    data = batches.fit_arguments(size)["x"]
    if isinstance(data, Dataset):
        leaves = [tf.nest.flatten(b)[0] for b in data.take(count)]
    else:
        leaves = [keras.tree.flatten(data[i])[0] for i in range(count)]
    return [list(leaf.shape) for leaf in leaves]


# -- what a dataset does not say aloud: batch size, samples, whether its shapes fix the size

rows = Dataset.range(10)
chains = {
    "plain": rows.batch(4).prefetch(1),
    "mapped": rows.shuffle(10).batch(4).map(lambda x: x + 1).cache(),
    "dropped": rows.batch(4, drop_remainder=True),
    "repeated_outside": rows.batch(4).repeat(),
    "repeated_inside": rows.repeat().batch(4),
    "twice": rows.batch(4).repeat(2),
    "taken": rows.batch(4).take(1),
    "skipped": rows.batch(4).skip(1),
    "filtered": rows.filter(lambda x: x > 2).batch(4),
    "zipped": Dataset.zip((rows.batch(4), rows.batch(4))),
    "generated": Dataset.from_generator(
        lambda: iter([np.zeros((4, 2), "float32")]), output_signature=tf.TensorSpec((None, 2))
    ),
    "parallel": rows.batch(4, num_parallel_calls=2),
    "padded": rows.map(lambda x: tf.ones([3])).padded_batch(4),
}
SEEN["chains"] = {
    name: [
        dataset_chain.batch_size(data),
        dataset_chain.samples(data, dataset_chain.batch_size(data)),
        dataset_chain.static_batch_size(data),
    ]
    for name, data in chains.items()
}

# -- unequal shapes, and ragged ones


def sentences() -> Any:
    for length in (3, 3, 9, 9, 5, 5):
        yield np.ones(length, "int32")


bucketed = Dataset.from_generator(sentences, output_signature=tf.TensorSpec((None,), tf.int32))
bucketed = bucketed.bucket_by_sequence_length(lambda x: tf.shape(x)[0], [4, 6], [2, 2, 2])
batches: Any = DatasetBatches(bucketed, batched=True)
SEEN["bucketed"] = [shapes(batches, 5), batches.samples, batches.warnings]
batches = DatasetBatches(bucketed, batched=True, lengths_vary=False)
SEEN["bucketed_model_of_one_length"] = [batches.longest is None, batches.warnings]
ROUNDS: list[int] = []


def counted() -> Any:
    ROUNDS.append(1)
    yield from sentences()


endless = Dataset.from_generator(counted, output_signature=tf.TensorSpec((None,), tf.int32))
endless = endless.padded_batch(2).repeat().prefetch(1)
batches = DatasetBatches(endless, batched=True)
SEEN["endless"] = [len(ROUNDS) < 5, batches.longest is not None, batches.samples]
ragged = Dataset.from_tensor_slices(tf.ragged.constant([[1], [2], [3, 4, 5, 6], [7, 8, 9]]))
batches = DatasetBatches(ragged.batch(2), batched=True)
first = next(iter(batches.fit_arguments(3)["x"]))
SEEN["ragged"] = [first.row_lengths().numpy().tolist(), batches.warnings]

# -- batches whose parts have different numbers of rows


def parts(data: Any, count: int) -> list[list[int]]:
    return [[len(part) for part in tf.nest.flatten(batch)] for batch in data.take(count)]


labelled = Dataset.range(7).batch(2, drop_remainder=True)
zipped = Dataset.zip((rows.shuffle(9).batch(4), labelled)).prefetch(1)
batches = DatasetBatches(zipped, batched=True)
SEEN["zipped"] = [
    batches.batch_size,
    batches.samples,
    parts(batches.fit_arguments(6)["x"], 4),
    batches.warnings,
]
merged = rows.shuffle(9).batch(4).map(lambda n: (tf.repeat(n, 3), n), 2).cache().repeat(2)
batches = DatasetBatches(merged.take(3).prefetch(1), batched=True)
wide = keras.Sequential([keras.Input((), dtype="int32"), keras.layers.Embedding(10, 2)])
wide.compile("sgd", lambda y, p: tf.reduce_sum(p) + 0.0 * tf.reduce_sum(tf.cast(y, "float32")))
found = training.Training(wide, wide.fit, batches, {})
done = Runner(found, open_memory(DeviceRequest(kind="cpu")), lambda *_: None).run(
    RunTrial(batch_size=6, steps=2)
)
SEEN["merged"] = [
    batches.batch_size,
    len(done.step_seconds),
    parts(batches.fit_arguments(6)["x"], 4),
]

# -- batches from Python


class Sequence(keras.utils.PyDataset):
    def __init__(self, lengths: tuple[int, ...]) -> None:
        super().__init__()
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Any:
        count = 2 if index == len(self) - 1 else 4  # the last batch is the smaller one
        return np.full((count, self.lengths[index]), index), np.zeros(count)


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index: int) -> Any:
        return np.full((4, 1), index), None


batches = IterableBatches(Sequence((3, 3, 3)))
SEEN["py_dataset"] = [batches.batch_size, batches.samples, shapes(batches, 5, 4)]
batches = IterableBatches(Sequence((3, 7, 3)), lengths_vary=True)
SEEN["py_dataset_bucketed"] = [batches.samples, shapes(batches, 5), batches.warnings]
batches = IterableBatches(Endless(workers=1))
SEEN["py_dataset_endless"] = [batches.batch_size, batches.samples, shapes(batches, 6)]
batches = IterableBatches(((np.full((4, 2), i), None) for i in range(3)), {0: 1.0})
SEEN["generator"] = [
    batches.batch_size,
    batches.samples,
    shapes(batches, 5, 9),  # far beyond its end
    batches.fit_arguments(2)["class_weight"],
]
views = ((np.full((2, 5, 3), n), np.full(5, n)) for n in range(3))
batches = IterableBatches(views, input_ranks=(2,))
first, second = (batches.fit_arguments(7)["x"][0] for _ in range(2))
SEEN["views"] = [
    batches.batch_size,
    [list(first[0].shape), list(first[1].shape)],
    [first[0][:, 4:6, 0].tolist(), second[1].tolist()],
    batches.warnings,
]
values = IterableBatches(iter([np.arange(4), np.arange(4, 8)])).fit_arguments(6)["x"]
SEEN["generator_rows"] = values[0].tolist()  # all of them, in order

# -- arrays

wide = np.zeros((2100, 1000))  # 16 MB of float64, and a little more
batches = ArrayBatches(wide, np.zeros(2100, "uint8"), extra={"validation_split": 0.1})
SEEN["float64"] = [batches.samples, batches.device_bytes, batches.warnings]
SEEN["float32"] = [ArrayBatches(wide.astype("float32")).warnings]
SEEN["validation_of_a_split"] = batches.validation_arguments(128)
SEEN["float64_slices"] = DatasetBatches(
    Dataset.zip((Dataset.from_tensor_slices(wide), Dataset.range(2100))).batch(8), batched=True
).warnings
SEEN["no_targets"] = ArrayBatches(np.zeros((9, 1))).validation_arguments(2)["validation_data"][1]

# -- models


class Gan(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def train_step(self, data: Any) -> Any:
        return {}


gan = Gan()
gan.compile()  # makes an rmsprop that nobody uses
gan.d_optimizer = keras.optimizers.Adam(1e-4)
gan.others = {"g": keras.optimizers.SGD(0.1)}
gan.d_optimizer.build([])
SEEN["optimizers"] = [
    [o.attribute for o in optimizers.describe(gan)],
    optimizers.applied(gan),
]
plain = keras.Sequential([keras.Input((4,), batch_size=8), keras.layers.Dense(1)])
plain.compile("sgd", "mse")
call = {
    "batch_size": None, "y": np.zeros(64), "sample_weight": None, "class_weight": None,
    "shuffle": True, "validation_split": 0.25, "validation_data": None,
    "validation_steps": None, "validation_batch_size": None,
}  # fmt: skip


def training_of(model: Any, x: Any, **changes: Any) -> Any:
    return training.from_fit_call(model, model.fit, {**call, "x": x, **changes})


rows_of_4 = np.zeros((64, 4), "float32")
found = training_of(plain, rows_of_4, steps_per_epoch=6)
SEEN["steps_per_epoch"] = [found.script_batch_size, found.batches.samples, found.fixed_batch_size]
gan_of = training_of(gan, rows_of_4, steps_per_epoch=None, validation_split=0.0)
SEEN["training_step_alone"] = [gan_of.script_batch_size, gan_of.validation_arguments(8)]

# -- an earlier call of fit: one step, of the size that the script trains with

sizes: list[int] = []
small = keras.Sequential([keras.layers.Dense(1)])
small.compile("sgd", lambda y, p: sizes.append(p.shape[0]) or (p - y) ** 2, run_eagerly=True)
whole = {"x": rows_of_4, "y": np.zeros((64, 1)), "initial_epoch": 3, "epochs": 50}
cut = script._one_step({**whole, "validation_data": None, "validation_split": 0.0})
history = small.fit(**cut)
SEEN["earlier_fit"] = [sizes, history.epoch]

# -- the script's wishes for the GPU, which TensorFlow would refuse beside a memory limit

device_settings.DeviceSettings(DeviceRequest(kind="cpu")).install()
gpu = SimpleNamespace(device_type="GPU")
SEEN["gpu_settings"] = [
    tf.config.experimental.set_memory_growth(gpu, True),
    tf.config.set_logical_device_configuration(gpu, []),
    tf.config.set_visible_devices([gpu], "GPU"),
    tf.config.set_visible_devices([], device_type="GPU"),
]

# -- what Keras says of an error, in its first line

try:
    keras.layers.Lambda(lambda x: tf.reshape(x, (7,)))(tf.zeros(6))
except Exception as error:
    SEEN["keras_error"] = failures.describe(error, phase="").message.splitlines()[0]


@tf.function
def out_of_range(n: Any) -> Any:
    return tf.gather(tf.zeros(3), n + tf.zeros((), "int32"))


try:
    out_of_range(tf.constant(7))
except Exception as error:
    SEEN["graph_error"] = failures.describe(error, phase="").message.splitlines()[0]

json.dump(SEEN, sys.stdout)
