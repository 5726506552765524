"""A bucketed example's model, with data of one length alone; ONE_LENGTH says which.

ONE_LENGTH is a JSON object: `example` (a path) and `length`. Probes of one bucket and fresh
trainings load this file in place of the example. Its data's length is unknown to TensorFlow, as it
is in a training that sees several.
"""

import importlib.util
import json
import os

import tensorflow as tf

_WANTED = json.loads(os.environ["ONE_LENGTH"])
_spec = importlib.util.spec_from_file_location("example", _WANTED["example"])
_example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_example)
build_model = _example.build_model
ROWS = 64


def build_dataset():
    """The example's first samples, each gone through again until it has the length."""
    # A length that the graph does not know: of one that it knows, other operations are made, which
    # need less memory.
    lengths = tf.data.Dataset.from_tensors(_WANTED["length"]).repeat()
    whole = tf.data.Dataset.zip((_example.build_dataset().take(ROWS), lengths)).map(
        lambda sample, length: (
            tf.gather(sample[0], tf.range(length) % tf.size(sample[0])),
            sample[1],
        )
    )
    return whole.cache().repeat(_example.SAMPLES // ROWS)
