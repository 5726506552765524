"""Looks at what `autobatch run` does to calls of `fit`; prints what it saw as JSON, by case.

`test_run.py` runs this once, as one process. Every model really trains.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autobatch.engine.batches import DatasetBatches
from autobatch.engine.resized_data import Unchanged, rebatched, resized
from autobatch.engine.run_script import FitResizer
from autobatch.engine.training import Training
from autobatch.errors import WorkerError
from autobatch.options import ProbeOptions
from autobatch.run_plan import Found, RunPlan

Dataset = tf.data.Dataset
SEEN: dict[str, Any] = {}


def plan(**fields: Any) -> RunPlan:
    made = {
        "script": "train.py",
        "arguments": (),
        "found": Found(batch_size=8, base_batch_size=2, optimizers=("optimizer",)),
        "device": "cpu",
        "options": ProbeOptions(),
    }
    return RunPlan(**{**made, **fields})


class Script:
    """A script whose `fit` is changed; `trained` tells what its calls did.

    Args:
        others: What a probe of a later call finds; an error is raised.
    """

    def __init__(self, others: Any = None, **fields: Any) -> None:
        self.said: list[str] = []
        self.probed: list[int] = []
        self.trained: list[list[Any]] = []

        def find(fit_call: int) -> Found:
            self.probed.append(fit_call)
            if isinstance(others, Exception):
                raise others
            return others

        self.resizer = FitResizer(plan(**fields), find, self.said.append)

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Train with it; remembers steps taken, sizes of the batches and the rate at the end."""
        watch = Watch()
        callbacks = [watch, *kwargs.pop("callbacks", [])]
        original = type(model).fit
        kwargs = {"verbose": 0, "callbacks": callbacks, **kwargs}
        history = self.resizer.fit(original, model, *args, **kwargs)
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        self.trained.append([watch.steps, round(float(inner.learning_rate), 9)])
        return history


class Watch(keras.callbacks.Callback):
    steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1


def model(width: int = 4, rate: Any = 0.1, optimizer: Any = keras.optimizers.SGD) -> Any:
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(width), keras.layers.Dense(1)])
    made.compile(optimizer(rate), "mse")
    return made


X, Y = np.ones((16, 3), "float32"), np.ones((16, 1), "float32")
PAIRS = Dataset.from_tensor_slices((X, Y))

# -- the same model again, another of its kind, and another

script = Script(Found(batch_size=16, base_batch_size=4, optimizers=("optimizer",)))
first = model()
script.fit(first, X, Y, batch_size=2)
script.fit(first, X, Y, batch_size=2)
script.fit(model(), X, Y, batch_size=2)
script.fit(model(width=5), X, Y, batch_size=4)
SEEN["models"] = [script.trained, script.probed, script.said]

# -- more of it unfrozen, compiled anew: another model, and another optimizer

script = Script(Found(batch_size=4, base_batch_size=2, optimizers=("optimizer",)))
frozen = model()
frozen.layers[0].trainable = False
frozen.compile(keras.optimizers.SGD(0.1), "mse")
script.fit(frozen, X, Y, batch_size=2)
frozen.layers[0].trainable = True
frozen.compile(keras.optimizers.SGD(0.01), "mse")
script.fit(frozen, X, Y, batch_size=2)
script.fit(frozen, X, Y, batch_size=2)
SEEN["unfrozen"] = [script.trained, script.probed]

# -- where another model cannot be probed

script = Script(device="gpu")
script.fit(model(), X, Y, batch_size=2)
script.fit(model(width=5), X, Y, batch_size=4)
script.fit(model(width=5), X, Y, batch_size=4)
SEEN["gpu"] = [script.trained, script.probed, script.said]
script = Script(WorkerError("It died."))
script.fit(model(), X, Y, batch_size=2)
script.fit(model(width=5), X, Y, batch_size=4)
SEEN["died"] = [script.trained, script.said]

# -- the call that was asked for

script = Script(options=ProbeOptions(fit_call=2))
script.fit(model(), X, Y, batch_size=2)
script.fit(model(width=5), X, Y, batch_size=2)
SEEN["second call"] = [script.trained, script.probed, script.said]

# -- a fit inside of another is a part of it


class FitsAnother(keras.callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        script.fit(inner, X, Y, batch_size=2)


script = Script()
inner = model(width=6)
script.fit(model(), X, Y, batch_size=2, callbacks=[FitsAnother()])
SEEN["inner fit"] = [script.trained, script.probed]

# -- a model that is built in fit is the same model afterwards

script = Script()
lazy = keras.Sequential([keras.layers.Dense(1)])
lazy.compile(keras.optimizers.SGD(0.1), "mse")
script.fit(lazy, X, Y, batch_size=2)
script.fit(lazy, X, Y, batch_size=2)
SEEN["lazy"] = [script.trained, script.probed]

# -- rates

script = Script(batch_size_only=True)
script.fit(model(), X, Y, batch_size=2)
SEEN["size only"] = [script.trained, script.said]
script = Script(options=ProbeOptions(learning_rate_rule="sqrt"))
script.fit(model(), X, Y, batch_size=2)
SEEN["rule"] = [script.trained, script.said]
script = Script()
resumed = model()
resumed.fit(X, Y, verbose=0)
script.fit(resumed, X, Y, batch_size=2)
SEEN["resumed"] = [script.trained, script.said]
script = Script(options=ProbeOptions(fit_call=2))
again = model()
script.fit(again, X, Y, batch_size=2)
script.fit(again, X, Y, batch_size=2)
SEEN["the same one before"] = script.trained
script = Script()
decay = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=100, decay_rate=0.5)
scheduled = model(rate=decay)
script.fit(scheduled, X, Y, batch_size=2)
SEEN["schedule"] = [
    scheduled.optimizer._learning_rate.get_config()["initial_learning_rate"],
    scheduled.optimizer._learning_rate.get_config()["decay_steps"],
    script.said,
]


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> Any:
        return 0.01 * (1 + keras.ops.cast(step, "float32"))


script = Script()
own_schedule = model(rate=Warmup())
script.fit(own_schedule, X, Y, batch_size=2)
SEEN["own schedule"] = [float(own_schedule.optimizer._learning_rate(s)) for s in (0, 1)]
script = Script()
script.fit(
    model(), X, Y, batch_size=2, callbacks=[keras.callbacks.LearningRateScheduler(lambda _: 0.5)]
)
SEEN["scheduler"] = [script.trained, script.said]
script = Script(found=Found(batch_size=8, base_batch_size=8, optimizers=("optimizer",)))
script.fit(model(), X, Y, batch_size=8)
SEEN["nothing to change"] = [script.trained, script.said]
keras.mixed_precision.set_dtype_policy("mixed_float16")
script = Script()
script.fit(model(), X, Y, batch_size=2)
SEEN["mixed precision"] = script.trained
keras.mixed_precision.set_dtype_policy("float32")

# -- data of every kind


class Numbered(keras.utils.PyDataset):
    """Batches of two numbers, the last of one."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        rows = np.arange(2 * index, min(2 * index + 2, 17), dtype="float32")
        return rows[:, None], rows[:, None]


def generator() -> Any:
    for index in range(9):
        yield Numbered()[index]


def call(x: Any, **more: Any) -> dict[str, Any]:
    names = ("y", "batch_size", "steps_per_epoch", "validation_data", "validation_steps")
    return {"x": x, **dict.fromkeys(names), **more}


def rows_of(data: Any) -> list[list[float]]:
    batches = (data[i] for i in range(data.num_batches)) if hasattr(data, "num_batches") else data
    return [np.ravel(tf.nest.flatten(batch)[0]).tolist() for batch in batches]


rows = Dataset.range(17)
kinds = {
    "batched": rows.batch(2),
    "prefetched": rows.batch(2).prefetch(3),
    "dropped": rows.batch(2, drop_remainder=True),
    "parallel": rows.batch(2, num_parallel_calls=2),
    "mapped behind": rows.batch(2).map(lambda n: n + 0),
    "dropped, mapped behind": rows.batch(2, drop_remainder=True).map(lambda n: n + 0),
    "taken": rows.batch(2).take(8),
    "padded": rows.map(lambda n: tf.fill([1], n)).padded_batch(2),
}
SEEN["datasets"] = {
    name: [rows_of(rebatched(data, 8, 2)), int(rebatched(data, 8, 2).cardinality())]
    for name, data in kinds.items()
}
uneven = rows.map(lambda n: tf.fill([n + 1], n)).padded_batch(2)
SEEN["padded to their own length"] = [
    list(batch.shape) for batch in rebatched(uneven, 8, 2, lengths_vary=True)
]
try:
    rebatched(uneven.map(lambda n: n), 8, 2, lengths_vary=True)
except Unchanged as reason:
    SEEN["unequal"] = str(reason)


def sizes(data: Any) -> list[list[int]]:
    """Rows of each part of each batch."""
    return [[len(part) for part in tf.nest.flatten(batch)] for batch in data]


merged = rows.batch(2).map(lambda n: (tf.repeat(n, 3), n)).prefetch(1)
SEEN["merged"] = [sizes(merged)[-2:], sizes(rebatched(merged, 8, 2))]
zipped = Dataset.zip((rows.shuffle(9).batch(4), rows.repeat().batch(2))).prefetch(1)
SEEN["zipped"] = sizes(rebatched(zipped, 8, 4))
try:
    rebatched(merged.take(2), 8, 2)
except Unchanged as reason:
    SEEN["merged and taken"] = str(reason)
SEEN["PyDataset"] = rows_of(resized(call(Numbered()), 8, 2, lengths_vary=False)["x"])
SEEN["generator"] = rows_of(resized(call(generator()), 8, 2, lengths_vary=False)["x"])
changed = resized(
    call(
        rows.repeat().batch(2),
        steps_per_epoch=9,
        validation_data=rows.batch(2),
        validation_steps=5,
    ),
    8,
    2,
    lengths_vary=False,
)
SEEN["steps"] = [
    changed["steps_per_epoch"],
    changed["validation_steps"],
    rows_of(changed["validation_data"].take(1)),
]
larger = rows.batch(16)
changed = resized(call(rows.batch(2), validation_data=larger), 8, 2, lengths_vary=False)
SEEN["larger validation"] = changed["validation_data"] is larger
# The proof validates at no less than what the training will.
SEEN["proven validation"] = [
    next(iter(proof.validation_arguments(8)["validation_data"]))[0].shape[0]
    for proof in (
        Training(model(), None, DatasetBatches(PAIRS.batch(2), True), {"validation_data": data})
        for data in (PAIRS.batch(2), PAIRS.batch(16))
    )
]
script = Script()
script.fit(model(), PAIRS.batch(2).prefetch(1), validation_data=PAIRS.batch(2))
script.fit(model(), PAIRS.batch(2).repeat(), steps_per_epoch=8)
SEEN["trained on datasets"] = script.trained


class Rows(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return X[:2], Y[:2]


script = Script()
script.fit(model(), Rows(), class_weight={0: 1.0, 1: 2.0})
SEEN["trained on a PyDataset"] = script.trained
script = Script()
script.fit(model(), (Rows()[i] for i in range(8)), steps_per_epoch=8)
SEEN["trained on a generator"] = script.trained

json.dump(SEEN, sys.stdout)
