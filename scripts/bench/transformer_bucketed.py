"""The transformer example for texts of any length up to 500, in lengths with a long tail."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

_PATH = Path(__file__).resolve().parent.parent / "examples" / "transformer.py"
_spec = importlib.util.spec_from_file_location("transformer_example", _PATH)
_example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_example)

SAMPLES = 12000
LONGEST = 500
VOCABULARY = _example.VOCABULARY


def build_model():
    """The example's layers behind an input of no fixed length."""
    ids = keras.Input((None,), dtype="int32")
    x = _example.TokenAndPosition(LONGEST, VOCABULARY, _example.WIDTH)(ids)
    x = _example.encoder_block(_example.encoder_block(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(ids, keras.layers.Dense(_example.CLASSES, activation="softmax")(x))
    model.compile(
        optimizer=keras.optimizers.AdamW(3e-4, weight_decay=0.01),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def build_dataset():
    """Token ids, as many as the text has, and its class: one text an element."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(4.8, 0.75, SAMPLES).astype(int) + 10, LONGEST)
    tokens = rng.integers(0, VOCABULARY, lengths.sum(), dtype=np.int32)
    texts = tf.RaggedTensor.from_row_lengths(tokens, lengths)
    classes = rng.integers(0, _example.CLASSES, SAMPLES, dtype=np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((texts, classes))
    return dataset.map(lambda text, label: (tf.ensure_shape(text, [None]), label))
