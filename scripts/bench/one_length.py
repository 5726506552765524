"""A bucketed example's model, with data of one length alone; ONE_LENGTH says which.

ONE_LENGTH is a JSON object: `example` (a path) and `length`. Probes of one bucket and fresh
trainings load this file in place of the example. The input's length stays unknown, as it is in a
training that sees several.
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
    length = _WANTED["length"]
    dataset = _example.build_dataset()
    whole = dataset.take(ROWS).map(
        lambda tokens, label: (tf.gather(tokens, tf.range(length) % tf.size(tokens)), label)
    )
    return whole.cache().repeat(_example.SAMPLES // ROWS)
