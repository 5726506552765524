"""A recurrent classifier of film reviews of really different lengths, in batches by length.

Size its batches:    autobatch buckets scripts/examples/imdb_bucketed.py:build_model
Keep the sizes:      autobatch buckets scripts/examples/imdb_bucketed.py:build_model --json > b.json
Train it:            python scripts/examples/imdb_bucketed.py [b.json]     (sizes it where none is)

The reviews are made up, in the lengths of the IMDB data set, so that nothing has to be downloaded.
They are not padded beforehand: each batch is, to the longest review in it.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

SAMPLES = 25000
LONGEST = 500
VOCABULARY = 10000


def build_model():
    """A compiled classifier of any number of token ids into two classes."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 128),
            keras.layers.LSTM(64),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def build_dataset():
    """Token ids, as many as the review has, and a label of 0 or 1: one review an element."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(4.8, 0.75, SAMPLES).astype(int) + 10, LONGEST)
    tokens = rng.integers(1, VOCABULARY, lengths.sum(), dtype=np.int32)
    reviews = tf.RaggedTensor.from_row_lengths(tokens, lengths)
    labels = rng.integers(0, 2, (SAMPLES, 1)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((reviews, labels))
    return dataset.map(lambda review, label: (tf.ensure_shape(review, [None]), label))


if __name__ == "__main__":
    import autobatch

    if len(sys.argv) > 1:
        found = autobatch.BucketResult.from_json(Path(sys.argv[1]).read_text())
    else:
        found = autobatch.probe_buckets(f"{__file__}:build_model")
    model = build_model()
    model.optimizer.learning_rate = found.learning_rate
    reviews = build_dataset().shuffle(SAMPLES)
    model.fit(autobatch.bucket_by_sequence_length(reviews, found), epochs=1)
