"""Calls of `fit` whose memory somebody takes in the middle; prints how far they end from others."""

import json
import random
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

import autobatch
from autobatch.engine.step_state import StepState

MIB = 1 << 20
LIMIT = 128 * MIB  # the device's
ROWS, SIZE, WIDE = 404, 101, 40_000  # four steps an epoch; a sample costs about half a MiB
rng = np.random.default_rng(0)
X, Y = rng.random((ROWS, 500), "float32"), rng.random((ROWS, 1), "float32")


def build(cls=keras.Sequential, **compiled):
    keras.utils.set_random_seed(1)
    model = cls(
        [
            keras.Input((500,)),
            keras.layers.Dense(20),
            keras.layers.Reshape((20, 1)),
            keras.layers.UpSampling1D(WIDE // 20),
            keras.layers.Activation("tanh"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile(keras.optimizers.AdamW(0.01), "mse", metrics=["mae"], **compiled)
    return model


class Hog(keras.callbacks.Callback):
    """Somebody who takes the memory before a step, but for `leave` MiB, and keeps it."""

    def __init__(self, at, leave, phase="train"):
        super().__init__()
        self.at, self.leave, self.phase, self.seen, self.held = at, leave, phase, 0, None

    def count(self, phase):
        if phase == self.phase:
            if self.seen == self.at:
                used = tf.config.experimental.get_memory_info("CPU:0")["current"]
                count = (LIMIT - used) // MIB - self.leave
                self.held = [tf.zeros([MIB], tf.uint8) for _ in range(count)]
            self.seen += 1

    def on_train_batch_begin(self, batch, logs=None):
        self.count("train")

    def on_test_batch_begin(self, batch, logs=None):
        self.count("test")


class Seen(keras.callbacks.Callback):
    """What Keras tells of every step, and of every validation."""

    def __init__(self):
        super().__init__()
        self.steps, self.tests = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append([batch, float(logs["loss"]), float(logs.get("mae", 0.0))])

    def on_test_end(self, logs=None):
        self.tests.append([float(logs["loss"]), float(logs["mae"])])


class Own(keras.Sequential):
    """A training step of its own, which trains only what it chooses to."""

    def train_step(self, data):
        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        chosen = self.trainable_variables[:2]
        self.optimizer.apply(tape.gradient(loss, chosen), chosen)
        return self.compute_metrics(x, y, self(x, training=False))


class Twice(keras.Sequential):
    """One whose optimizer steps twice on a batch."""

    def train_step(self, data):
        x, y = data[:2]
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
        return self.compute_metrics(x, y, self(x))


def train(hog, model, *, epochs=2, validate=False, **options):
    options = {"minimum": SIZE, "maximum": SIZE, **options}
    finder = autobatch.AutoBatch(
        isolation="process",
        steps=1,
        proof_steps=1,
        learning_rate_rule="none",
        recover=True,
        **options,
    )
    seen = Seen()
    more = {"validation_data": finder.batch((X, Y))} if validate else {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        callbacks = [finder, seen, *filter(None, [hog])]
        model.fit(finder.batch((X, Y)), epochs=epochs, callbacks=callbacks, verbose=0, **more)
    said = [str(each.message) for each in said if each.category is RuntimeWarning]
    if hog is not None:
        hog.held = None
    drawn = [random.random(), np.random.rand(), float(tf.random.uniform(()))]
    return finder, model, seen, said, drawn


def compared(name, hog, make, **how):
    """One training that is disturbed, and one that is not."""
    finder, found, steps, said, drawn = train(hog, make(), **how)
    _, plain, as_usual, nothing, drawn_as_usual = train(None, make(), **how)
    assert nothing == []
    pairs = zip(
        [*found.weights, *found.optimizer.variables],
        [*plain.weights, *plain.optimizer.variables],
        strict=True,
    )
    far = max(
        float(np.abs(a.numpy().astype("float64") - b.numpy()).max() / (1 + np.abs(b.numpy()).max()))
        for a, b in pairs
    )
    told = float(np.abs(np.subtract(steps.steps, as_usual.steps)).max())
    if steps.tests:
        told = max(told, float(np.abs(np.subtract(steps.tests, as_usual.tests)).max()))
    counts = [int(each.optimizer.iterations) for each in (found, plain)]
    words = [part for part in ("each batch is trained", "validation goes on") for s in said
             if part in s and s in finder.result.warnings]  # fmt: skip
    print(
        json.dumps(
            {
                "name": name,
                "far": far,
                "told": told,
                "steps": counts,
                "drawn": drawn == drawn_as_usual,
                "micro": finder.micro_batch_size,
                "size": finder.result.batch_size,
                "said": words,
                "peak": round(finder.result.peak_bytes / MIB, 1),
                "own": type(found.optimizer.apply).__name__,
            }
        ),
        flush=True,
    )


def weights():
    """Memory goes in the middle of an epoch; the training ends where it would have ended."""
    compared("float32", Hog(2, 22), build)


def first():
    """Memory goes before the very first step, when neither slots nor metrics are there."""
    compared("first step", Hog(0, 22), build)


def mixed():
    """A loss scale, and several steps in a call."""
    keras.config.set_dtype_policy("mixed_float16")
    compared("mixed", Hog(1, 12), lambda: build(steps_per_execution=3))
    keras.config.set_dtype_policy("float32")


def own():
    """A training step of the user's own, with Keras's accumulation around it."""
    compared(
        "own", Hog(2, 22), lambda: build(Own), target_batch_size=2 * SIZE, base_batch_size=SIZE
    )


def validation():
    """Memory goes while it validates."""
    compared("validation", Hog(0, 10, "test"), build, validate=True, epochs=1)


def fails():
    """What cannot go on says so; the model is then as the last completed step left it."""
    hog, model = Hog(2, 22), build(Twice)
    try:
        train(hog, model)
    except autobatch.DeviceChangedError as error:
        print(json.dumps([error.message, int(model.optimizer.iterations)]), flush=True)


def refusals():
    """What could not go on is refused before the search."""
    two, total = build(), build()
    two.second = keras.optimizers.SGD(0.1)
    total.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    for model in (two, total):
        try:
            train(None, model)
        except autobatch.UsageError as error:
            print(json.dumps([error.message]), flush=True)


def state():
    """What is held is put back, bit for bit: dropout's seeds, moving averages, slots, metrics."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((500,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])

    def step():
        return model.train_on_batch(X[:50], Y[:50], return_dict=True)

    def now():
        values = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        return [each.numpy().copy() for each in values]

    step()
    held = StepState(model)
    before = now()
    held.hold()
    once = [step(), now(), random.random(), float(tf.random.uniform(())), float(np.random.rand())]
    held.put_back()
    again = [np.array_equal(a, b) for a, b in zip(before, now(), strict=True)]
    twice = [step(), now(), random.random(), float(tf.random.uniform(())), float(np.random.rand())]
    same = [np.array_equal(a, b) for a, b in zip(once[1], twice[1], strict=True)]
    changed = sum(not np.array_equal(a, b) for a, b in zip(before, once[1], strict=True))
    print(json.dumps([all(again), all(same), once[2:] == twice[2:], changed > 10]), flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
