"""Calls of `fit` with AutoBatch, small and in this process; prints what came of each."""

import json
import pathlib
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import autobatch

ROWS = 50
rng = np.random.default_rng(0)
X, Y = rng.random((ROWS, 8), "float32"), rng.random((ROWS, 1), "float32")


def finder_of(base=14, **options):
    options = {"minimum": 7, "maximum": 7, "steps": 1, "proof_steps": 1, **options}
    return autobatch.AutoBatch(base, isolation="process", **options)


def build(optimizer="sgd", cls=keras.Sequential, **compiled):
    keras.utils.set_random_seed(1)
    model = cls([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **compiled)
    return model


class Watch(keras.callbacks.Callback):
    """Batches in each epoch, and the rate that callbacks see as their start."""

    def __init__(self):
        super().__init__()
        self.epochs, self.rate, self.steps = [], None, None

    def on_train_begin(self, logs=None):
        self.rate = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        self.steps = self.params["steps"]

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.epochs[-1] = batch + 1


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5  # of 11, 11, 11, 11 and 6

    def __getitem__(self, index):
        return X[index * 11 : index * 11 + 11], Y[index * 11 : index * 11 + 11]


class Own(keras.Sequential):
    def train_step(self, data):
        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def kinds():
    """Every kind of data gives all of its rows, in batches of the size, in every epoch."""
    rows = tf.data.Dataset.from_tensor_slices((X, Y))
    finder, model = finder_of(), build()
    data = {
        "rows": rows.shuffle(9).cache(),
        "batched": rows.shuffle(9).batch(11).prefetch(2),
        "arrays": (X, Y),
        "py": Batches(),
    }
    searches = []
    for name, each in data.items():
        watch, late = Watch(), finder.batch(each)
        before = finder.result
        more = {"class_weight": {0: 1.0, 1: 2.0}} if name == "rows" else {}
        model.fit(late, epochs=2, callbacks=[watch, finder], verbose=0, **more)
        searches.append(finder.result is not before)
        seen = np.concatenate([x for x, _ in late])
        whole = bool((np.sort(seen, axis=0) == np.sort(X, axis=0)).all())
        print(json.dumps([name, watch.epochs, watch.steps, int(late.cardinality()), whole]))
    own = finder.batch(rows.batch(11, drop_remainder=True))
    model.fit(own, validation_data=finder.batch((X, Y)), callbacks=[watch, finder], verbose=0)
    print(json.dumps(["dropped", watch.epochs[-1:], watch.steps, int(own.cardinality()), True]))
    print(json.dumps([*searches]))


def ways():
    """Several ways to train."""
    for name, model, epochs in (
        ("several steps a call", build(steps_per_execution=3), 2),
        ("eager, own step", build(cls=Own, run_eagerly=True), 1),
    ):
        watch, finder = Watch(), finder_of()
        late = finder.batch((X, Y, np.ones(ROWS)))
        model.fit(late, epochs=epochs, callbacks=[watch, finder], verbose=0)
        print(json.dumps([name, watch.epochs, watch.steps]))


def nested():
    """Inputs by name, as arrays and as a dataset."""
    inputs = {name: keras.Input((8,), name=name) for name in ("a", "b")}
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Add()(list(inputs.values()))))
    model.compile("sgd", "mse")
    named = ({"a": X, "b": -X}, Y)
    for data in (named, tf.data.Dataset.from_tensor_slices(named)):
        watch, finder = Watch(), finder_of()
        late = finder.batch(data)
        model.fit(late, callbacks=[watch, finder], verbose=0)
        rows = np.concatenate([x["b"] for x, _ in late])
        print(json.dumps([watch.epochs, watch.steps, bool((np.sort(rows) == np.sort(-X)).all())]))


def others():
    """Keras's own callbacks beside it: when to stop, and what to do on a plateau."""
    never = {"monitor": "loss", "min_delta": 1e9}
    model, watch, finder = build(keras.optimizers.SGD(0.1)), Watch(), finder_of()
    callbacks = [
        keras.callbacks.EarlyStopping(patience=3, **never),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, **never),
    ]
    model.fit(finder.batch((X, Y)), epochs=9, callbacks=[*callbacks, watch, finder], verbose=0)
    rate = float(model.optimizer.learning_rate)
    print(json.dumps(["others", len(watch.epochs), round(watch.rate, 6), round(rate, 6)]))


def mirrored():
    """Two replicas: Keras draws a batch before it asks any callback."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = build()
    watch = Watch()
    finder = autobatch.AutoBatch(14, minimum=7, maximum=7, steps=1, proof_steps=1)
    model.fit(finder.batch((X, Y)), callbacks=[watch, finder], verbose=0)
    result = finder.result
    sizes = [result.batch_size, result.global_batch_size]
    print(json.dumps([watch.epochs, watch.steps, sizes, result.proof.kind]))
    try:
        again = autobatch.AutoBatch(recover=True)
        model.fit(again.batch((X, Y)), callbacks=[again], verbose=0)
    except autobatch.UsageError as error:
        print(json.dumps([error.message]))


def gpu():
    """A process that holds a GPU lets no worker in."""
    model = build()
    for isolation in ("auto", "worker"):
        finder = autobatch.AutoBatch(
            14, isolation=isolation, minimum=7, maximum=7, steps=1, proof_steps=1
        )
        try:
            model.fit(finder.batch((X, Y)), callbacks=[finder], verbose=0)
            print(json.dumps([finder.result.proof.kind, finder.result.device.kind]))
        except autobatch.DeviceError as error:
            print(json.dumps([error.message]))


def resumed():
    """A training in micro-batches that was cut off goes on as if it had not been."""
    weights = []
    for way in (None, "BackupAndRestore", "ModelCheckpoint"):
        with tempfile.TemporaryDirectory() as folder:
            schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.1, 0.01])
            model = build(keras.optimizers.Adam(schedule))
            path = f"{folder}/model.keras"
            for first, last in [(0, 3)] if way is None else [(0, 1), (1, 3)]:
                callbacks = []
                if way == "BackupAndRestore":
                    model = build(keras.optimizers.Adam(schedule))
                    saves = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
                    callbacks, first = [saves], 0
                elif way == "ModelCheckpoint":
                    model = keras.models.load_model(path) if first else model
                    callbacks = [keras.callbacks.ModelCheckpoint(path)]
                options = {"target_batch_size": 20, "minimum": 1, "maximum": 6}
                finder = finder_of(20, learning_rate_rule="none", **options)
                model.fit(
                    finder.batch((X[:40], Y[:40])),
                    initial_epoch=first,
                    epochs=last,
                    callbacks=[finder, *callbacks],
                    verbose=0,
                )
        weights.append([each.numpy() for each in model.weights])
        pairs = zip(weights[0], weights[-1], strict=True)
        far = max(float(np.abs(a - b).max()) for a, b in pairs)
        print(json.dumps([way, far < 1e-6, int(model.optimizer.iterations)]))


def rates():
    """Numbers and schedules are scaled once; what others do to them then is theirs."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    for name, optimizer in (("number", keras.optimizers.SGD(0.1)), ("schedule", None)):
        model, watch = build(optimizer or keras.optimizers.SGD(schedule)), Watch()
        finder = finder_of()
        first = [watch, finder]
        if name == "number":
            first.append(keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2))
        model.fit(finder.batch((X, Y)), callbacks=first, verbose=0)
        model.fit(finder.batch((X, Y)), callbacks=[finder], verbose=0)
        own = model.optimizer._learning_rate
        steps = getattr(own, "decay_steps", None)
        now = float(model.optimizer.learning_rate)
        print(json.dumps([name, round(watch.rate, 6), steps, round(now, 6)]))
    with tempfile.NamedTemporaryFile(suffix=".keras") as file:
        model = build(keras.optimizers.SGD(0.1))
        finder = finder_of()
        saves = keras.callbacks.ModelCheckpoint(file.name)
        model.fit(finder.batch((X, Y)), callbacks=[finder, saves], verbose=0)
        for options in ({}, {"base_learning_rate": 0.2}):
            again, finder = keras.models.load_model(file.name), finder_of(**options)
            again.fit(finder.batch((X, Y)), callbacks=[finder], verbose=0)
            rate = float(again.optimizer.learning_rate)
            warned = any("trained before" in each for each in finder.result.warnings)
            told = finder.result.learning_rate
            print(json.dumps(["loaded", round(rate, 6), round(told, 6), warned]))


def accumulation():
    """An effective batch of 20 out of micro-batches of 5 trains as a batch of 20 does."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])
    for rate in (0.1, schedule):
        for trained in (False, True):

            def train(finder, rate=rate, trained=trained):
                model = build(keras.optimizers.Adam(rate), metrics=["mae"])
                if trained:  # the optimizer is built, and has stepped
                    model.fit(X, Y, batch_size=ROWS, shuffle=False, verbose=0)
                data = X[:40], Y[:40]
                if finder is None:
                    plain = tf.data.Dataset.from_tensor_slices(data).batch(20)
                    model.fit(plain, epochs=2, verbose=0)
                else:
                    late = finder.batch(data)
                    model.fit(late, epochs=2, callbacks=[finder], verbose=0)
                return model

            options = {"target_batch_size": 20, "minimum": 1, "maximum": 6}
            finder = finder_of(20, learning_rate_rule="none", **options)
            found, plain = train(finder), train(None)
            far = max(
                float(np.abs(a.numpy() - b.numpy()).max())
                for a, b in zip(found.weights, plain.weights, strict=True)
            )
            counts = [int(each.optimizer.iterations) for each in (found, plain)]
            result = finder.result
            sizes = [result.batch_size, result.gradient_accumulation_steps]
            print(json.dumps([far < 1e-6, *counts, *sizes, result.global_batch_size]))


def refusals():
    """What cannot be done is said, with what to do."""
    finder, model = finder_of(), build()
    other = finder_of()
    micro = finder_of(target_batch_size=20, minimum=1, maximum=6)
    averaging = build(keras.optimizers.Adam(use_ema=True))
    endless = tf.data.Dataset.from_generator(
        lambda: iter([(X[0], Y[0])]),
        output_signature=(tf.TensorSpec([None]), tf.TensorSpec([1])),
    )
    for train in (
        lambda: model.fit(X, Y, batch_size=32, callbacks=[finder], verbose=0),
        lambda: model.fit(other.batch((X, Y)), callbacks=[finder], verbose=0),
        lambda: model.fit(finder.batch(iter([(X, Y)])), callbacks=[finder]),
        lambda: model.fit(finder.batch(endless), callbacks=[finder], verbose=0),
        lambda: averaging.fit(micro.batch((X, Y)), callbacks=[micro], verbose=0),
        lambda: autobatch.AutoBatch(isolation="thread"),
        lambda: autobatch.AutoBatch(device="gpu:1"),
    ):
        try:
            train()
        except autobatch.UsageError as error:
            print(json.dumps([error.message]))
    late = finder.batch(endless, sample=(X[:4], Y[:4]))
    model.fit(late, steps_per_epoch=1, callbacks=[finder], verbose=0)
    print(json.dumps([finder.result.batch_size]))


class Hog(keras.callbacks.Callback):
    """Somebody who takes the memory in the middle of training."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            info = tf.config.experimental.get_memory_info("CPU:0")
            count = int(0.7 * ((128 << 20) - info["current"])) >> 20
            self.held = [tf.zeros([1 << 20], tf.uint8) for _ in range(count)]


class Board(keras.callbacks.TensorBoard):
    """Without what it needs the package tensorboard for."""

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        pass


def limits():
    """A search that meets the limit of the very process that then trains; and a loss of memory."""
    x, y = rng.random((600, 2000), "float32"), rng.random((600, 1), "float32")
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((2000,)),
            keras.layers.Dense(20),
            keras.layers.Reshape((20, 1)),
            keras.layers.UpSampling1D(1500),
            keras.layers.Activation("tanh"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    finder = autobatch.AutoBatch(isolation="process")
    with tempfile.TemporaryDirectory() as folder:
        board = Board(folder, write_graph=False)
        try:
            model.fit(finder.batch((x, y)), epochs=2, callbacks=[finder, board, Hog()], verbose=0)
        except autobatch.DeviceChangedError as error:
            print(json.dumps([error.message]))
        written = b"".join(p.read_bytes() for p in pathlib.Path(folder, "autobatch").iterdir())
    result = finder.result
    outcomes = sorted({each.outcome for each in result.trials})
    print(json.dumps([outcomes, result.limited_by.kind, result.batch_size, len(result.trials)]))
    print(json.dumps([each in written for each in (b"batch_size", b"learning_rate", b"```")]))
    print(json.dumps([type(model.train_function).__name__]))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
