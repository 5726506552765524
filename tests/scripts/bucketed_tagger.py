"""Part-of-speech tagger. Sentences are grouped by length so that little is wasted on padding."""
import numpy as np
import tensorflow as tf
from tensorflow.keras import Model
from tensorflow.keras.layers import GRU, Bidirectional, Dense, Embedding, Input

VOCAB, TAGS = 800, 12
BATCH_SIZE = 24
BOUNDARIES = [11, 21, 41]


def sentences(n=960, seed=5):
    rng = np.random.RandomState(seed)

    def generate():
        for _ in range(n):
            length = min(60, 4 + int(rng.exponential(14)))
            words = rng.randint(1, VOCAB, size=length)
            yield words.astype("int32"), (words % TAGS).astype("int32")

    return generate


def get_dataset(n, seed):
    ds = tf.data.Dataset.from_generator(
        sentences(n, seed),
        output_signature=(
            tf.TensorSpec(shape=(None,), dtype=tf.int32),
            tf.TensorSpec(shape=(None,), dtype=tf.int32),
        ),
    )
    return ds.bucket_by_sequence_length(
        element_length_func=lambda words, tags: tf.shape(words)[0],
        bucket_boundaries=BOUNDARIES,
        bucket_batch_sizes=[BATCH_SIZE] * (len(BOUNDARIES) + 1),
    ).prefetch(1)


def get_model():
    words = Input(shape=(None,), dtype="int32")
    x = Embedding(VOCAB, 64, mask_zero=True)(words)
    x = Bidirectional(GRU(64, return_sequences=True))(x)
    tags = Dense(TAGS, activation="softmax")(x)
    return Model(words, tags)


if __name__ == "__main__":
    train_ds = get_dataset(960, seed=5)
    val_ds = get_dataset(120, seed=6)
    model = get_model()
    model.compile(optimizer="nadam", loss="sparse_categorical_crossentropy")
    model.fit(train_ds, validation_data=val_ds, epochs=1)
