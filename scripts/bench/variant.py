"""An example with another precision, compiler or memory mode than its own; VARIANT says which.

VARIANT is a JSON object: `example` (a path), `xla`, `growth`, `mixed` (booleans). Probes and fresh
trainings load this file in place of the example.
"""

import importlib.util
import json
import os

import keras
import tensorflow as tf

_VARIANT = json.loads(os.environ["VARIANT"])
_spec = importlib.util.spec_from_file_location("example", _VARIANT["example"])
_example = importlib.util.module_from_spec(_spec)
if _VARIANT["growth"]:
    for _gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(_gpu, True)
if _VARIANT["mixed"]:
    keras.config.set_dtype_policy("mixed_float16")
_spec.loader.exec_module(_example)
build_dataset = _example.build_dataset


def build_model():
    """The example's model."""
    model = _example.build_model()
    if not _VARIANT["xla"]:
        model.jit_compile = False
    return model
