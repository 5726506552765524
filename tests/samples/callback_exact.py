"""Trains with AutoBatch, and hard-coded to its answer, and says whether a single bit differs."""

import contextlib
import json
import random
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import autobatch

SIZE, SAMPLES, EPOCHS = 13, 125, 5  # 10 steps an epoch, the last of 8 samples
OPTIONS = {"minimum": SIZE, "maximum": SIZE, "steps": 2, "proof_steps": 2}


class Losses(keras.callbacks.Callback):
    """Every loss, and a power cut at the beginning of an epoch."""

    def __init__(self, cut=None):
        super().__init__()
        self.seen, self.cut = [], cut

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(logs["loss"])

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.cut:
            raise InterruptedError


def build(learning_rate):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile(keras.optimizers.Adam(learning_rate), "mse", metrics=["mae"])
    return model


def samples():
    rng = np.random.default_rng(1)
    x, y = rng.random((SAMPLES, 8), "float32"), rng.random((SAMPLES, 1), "float32")
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(SAMPLES)


def run(isolation, resumed, learning_rate=1e-3):
    """Losses, final weights, and what random numbers come next; the rate that was used."""
    keras.utils.set_random_seed(7)
    seen, rate = [], learning_rate
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        for cut in [2, None] if resumed else [None]:
            model, data, losses = build(learning_rate), samples(), Losses(cut)
            if resumed == "ModelCheckpoint":
                callbacks, start = [keras.callbacks.ModelCheckpoint(path), losses], 0
                if cut is None:
                    model, start = keras.models.load_model(path), 2
            else:
                callbacks, start = [keras.callbacks.BackupAndRestore(folder), losses], 0
            if isolation is None:
                data = data.batch(SIZE)
            else:
                finder = autobatch.AutoBatch(8, isolation=isolation, **OPTIONS)
                data = finder.batch(data)
                # Before the one that restores, or behind it: that must not matter.
                callbacks.insert(len(callbacks) if cut else 0, finder)
            with contextlib.suppress(InterruptedError):
                model.fit(data, epochs=EPOCHS, initial_epoch=start, callbacks=callbacks, verbose=0)
            if isolation is not None:
                rate = finder.result.learning_rate
                assert finder.result.batch_size == SIZE
                kind = {"worker": "fresh_process", "process": "this_process"}[isolation]
                assert finder.result.proof.kind == kind, finder.result.proof
            seen += losses.seen
    drawn = [random.random(), np.random.rand(), float(tf.random.uniform(()))]
    drawn.append(float(keras.random.uniform(())))
    state = [np.asarray(v) for v in [*model.variables, *model.optimizer.variables]]
    return seen, state, drawn, rate


def differences(isolation, resumed):
    found = run(isolation, resumed)
    plain = run(None, resumed, learning_rate=found[3])
    assert len(plain[0]) == 10 * EPOCHS
    return {
        "losses": float(np.abs(np.subtract(found[0], plain[0])).max()),
        "state": max(float(np.abs(a - b).max()) for a, b in zip(found[1], plain[1], strict=True)),
        "drawn": found[2] == plain[2],
        "scaled": found[3] != 1e-3,
    }


if __name__ == "__main__":
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for policy, isolation, resumed in json.loads(sys.argv[1]):
        keras.config.set_dtype_policy(policy)
        print(json.dumps(differences(isolation, resumed)), flush=True)
