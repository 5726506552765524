"""Traces a training's beginning on the emulated device, and prints what is replayed, as JSON."""

import json

import keras
import numpy as np
import tensorflow as tf

from autobatch import foresight
from autobatch.engine import device, replay
from autobatch.protocol import DeviceRequest

SAMPLES, WIDTH, BATCH = 4000, 512, 100
LENGTH, GATES = 64, 4 * 7
LARGE, SMALL, LIMIT = 12_000, (2, 101), 2**28

model = keras.Sequential([keras.layers.Input((WIDTH,)), keras.layers.Dense(300, name="wide")])
model.compile("adam", "mse")
model.optimizer.build(model.trainable_variables)
values = np.ones((SAMPLES, WIDTH), np.float32)
data = tf.data.Dataset.from_tensor_slices((values, np.ones((SAMPLES, 300), np.float32)))

trace = replay.TrialTrace(device.open_memory(DeviceRequest(kind="cpu")))
seen = {}


class Steps(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        trace.step_ended()
        seen.setdefault("running", []).append(trace._trace.running)


read = replay.residents


def residents(traced, *sizes):
    """What the replays begin with, looked at on its way."""
    batch = BATCH * WIDTH * 4
    seen["batches"] = sum(a.requested_bytes == batch and a.start is not None for a in traced)
    seen["chunks"] = [a.chunk_bytes / a.requested_bytes for a in traced if a.start is None]
    takers = [a.taker for a in traced if a.start is not None]
    givers = [a.giver for a in traced if a.end is not None]
    seen["threads"] = len({*takers, *givers})
    seen["of_no_thread"] = takers.count(None) + givers.count(None)
    seen["in_loop"] = sum(a.in_loop for a in traced)
    seen["gates"] = sum(a.in_loop and a.requested_bytes == BATCH * GATES * 4 for a in traced)
    found = read(traced, *sizes)
    seen["residents"] = [size for size in found if size > 100_000]
    return found


replay.residents = residents
known = [SAMPLES * WIDTH * 4, SAMPLES * 300 * 4]
for name, data_bytes in (("known", known), ("unknown", ())):
    seen.clear()
    trace.start(model, data_bytes, batch_size=BATCH)
    model.fit(data.batch(BATCH).take(7), verbose=0, callbacks=[Steps()])
    needed = trace.needed_bytes(at_least=0, edge=None)
    print(json.dumps({"name": name, "steps": trace.steps, "needed": needed, **seen}))
assert trace.foretold(2 * needed) is None, "of one size alone nothing is foretold"

# What steps of a large batch ask for, and would by the word of two small ones. (Not how often, nor
# what is live at once: operations that run beside each other reuse a tensor, or do not.)
memory = device.open_memory(DeviceRequest(kind="cpu"))


def traced(size):
    trace.start(model, known, batch_size=size, briefly=True)
    inputs, targets = tf.ones((size, WIDTH)), tf.ones((size, 300))
    for _ in range(4):
        model.train_on_batch(inputs, targets)
        trace.step_ended()
    assert trace.read()
    return trace._now


trace = replay.TrialTrace(memory)
true = traced(LARGE)
trace = replay.TrialTrace(memory)
few = traced(SMALL[0])
lonely = trace.foretold(LIMIT)
growth = foresight.Growth(traced(SMALL[1]), few.census)
size, steps = trace.foretold(LIMIT), trace.steps


def large(traced):
    """Bytes of what grows with the batch."""
    return sorted(each for each in traced.census.times if each >= LARGE * 300)


report = {"steps": steps, "true": large(true), "told": large(growth.at(LARGE)), "lonely": lonely}
report.update(size=size, limit=LIMIT)
print(json.dumps({"name": "foretold", "loops": trace.has_loops, **report}))

layers = [keras.layers.Input((WIDTH,)), keras.layers.Reshape((LENGTH, WIDTH // LENGTH))]
model = keras.Sequential([*layers, keras.layers.LSTM(GATES // 4), keras.layers.Dense(300)])
model.compile("adam", "mse")
seen.clear()
trace.start(model, known, batch_size=BATCH)
model.fit(data.batch(BATCH).take(2), verbose=0, callbacks=[Steps()])
assert trace.needed_bytes(at_least=0, edge=None)
report = {"gates": seen["gates"], "length": LENGTH, "loops": trace.has_loops}
print(json.dumps({"name": "recurrent", **report}))
