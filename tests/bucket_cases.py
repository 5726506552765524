"""Run by test_bucketing.py: what TensorFlow makes of data in buckets.

Prints one JSON line a case: `{"case", "value"}`, or `{"case", "error", "message"}`.
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")

import keras
import msgspec
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent.parent))

import autobatch
from autobatch import length_buckets
from autobatch.engine import own_buckets as own_buckets_
from autobatch.engine import sequence_axes, sequence_data, sequences, training
from autobatch.engine.model_source import SYNTHETIC_SAMPLES
from autobatch.engine.resized_data import in_buckets
from autobatch.engine.synthetic import synthetic_data
from autobatch.engine.synthetic_targets import ensure_compiled
from autobatch.protocol import SequenceRequest
from autobatch.records import Device, LimitedBy, LimitKind, Proof, ProofKind
from autobatch.run_plan import Found

CASES = []


def case(function):
    CASES.append(function)
    return function


def found(sizes, boundaries, max_length, on_too_long="error"):
    """A result with these sizes."""
    ends = [*(b - 1 for b in boundaries), max_length]
    limited = LimitedBy(LimitKind.MEMORY, "")
    return autobatch.BucketResult(
        boundaries=tuple(boundaries),
        max_length=max_length,
        on_too_long=on_too_long,
        buckets=tuple(
            autobatch.Bucket(shortest=0, longest=end, batch_size=size, limited_by=limited)
            for size, end in zip(sizes, ends, strict=True)
        ),
        mean_batch_size=1.0,
        device=Device(name="CPU", kind="cpu", limit_bytes=1, budget_bytes=1),
        headroom_bytes=0,
        proof=Proof(kind=ProofKind.FRESH_PROCESS, steps=1),
        trials=(),
        seconds=0.0,
        versions={},
    )


LENGTHS = [2, 3, 9, 4, 12, 1, 8, 3, 11, 2]
FOUND = found([4, 2, 2], [5, 10], 12)


def tokens(lengths=LENGTHS):
    """A sample an element: as many ones as it is long, and its length as the label."""

    def generate():
        for length in lengths:
            yield np.ones(length, np.int32), length

    spec = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32))
    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def shapes(dataset):
    return [list(x.shape) for x, *_ in dataset]


def labels(dataset):
    return sorted(int(each) for _, y in dataset for each in y)


@case
def batches():
    dataset = autobatch.bucket_by_sequence_length(tokens(), FOUND)
    return [shapes(dataset), labels(dataset)]


@case
def batches_by_a_function_of_the_user():
    # by the label, which is the length as well
    return shapes(autobatch.bucket_by_sequence_length(tokens(), FOUND, lambda x, y: y))


@case
def dropped_remainder():
    return shapes(autobatch.bucket_by_sequence_length(tokens(), FOUND, drop_remainder=True))


@case
def padded_to_the_boundary():
    made = autobatch.bucket_by_sequence_length(tokens(), FOUND, pad_to_bucket_boundary=True)
    return shapes(made)


@case
def padding_values():
    made = autobatch.bucket_by_sequence_length(
        tokens([1, 3]), FOUND, padding_values=(tf.constant(-1), tf.constant(0))
    )
    return [x.numpy().tolist() for x, _ in made]


@case
def too_long_is_an_error():
    return shapes(autobatch.bucket_by_sequence_length(tokens([3, 13]), FOUND))


@case
def too_long_is_truncated():
    made = autobatch.bucket_by_sequence_length(tokens([3, 13, 40]), FOUND, on_too_long="truncate")
    return [shapes(made), labels(made)]


@case
def too_long_by_a_function_of_the_user_is_truncated():
    made = autobatch.bucket_by_sequence_length(
        tokens([3, 13, 40]), FOUND, lambda x, y: y, on_too_long="truncate"
    )
    return shapes(made)


@case
def a_target_that_is_longer_than_its_input():
    longer = tf.data.Dataset.from_generator(
        lambda: iter([(np.ones(3), np.ones(5)), (np.ones(3), np.ones(40))]),
        output_signature=(tf.TensorSpec([None]), tf.TensorSpec([None])),
    )
    kept = autobatch.bucket_by_sequence_length(longer, FOUND, on_too_long="drop")
    cut = autobatch.bucket_by_sequence_length(longer, FOUND, on_too_long="truncate")
    return [[[list(x.shape), list(y.shape)] for x, y in made] for made in (kept, cut)]


@case
def two_open_dimensions_of_which_the_probe_found_one():
    frames = tf.data.Dataset.from_generator(
        lambda: iter([(np.ones((30, 3)), 1), (np.ones((30, 14)), 1)]),
        output_signature=(tf.TensorSpec([None, None]), tf.TensorSpec([], tf.int32)),
    )
    result = msgspec.structs.replace(FOUND, sequence_axes=(1, None))
    cut = autobatch.bucket_by_sequence_length(frames, result, on_too_long="truncate")
    kept = autobatch.bucket_by_sequence_length(frames, result, on_too_long="drop")
    return [shapes(cut), shapes(kept)]


@case
def a_tuple_of_one():
    made = autobatch.bucket_by_sequence_length(
        tokens([3, 2]).map(lambda x, y: (x,)),
        FOUND,
        padded_shapes=([None],),
        padding_values=(tf.constant(7),),
    )
    return [[len(batch), batch[0].numpy().tolist()] for batch in made]


@case
def samples_out_of_batches():
    batches = tokens([3, 2]).padded_batch(2)
    return shapes(autobatch.bucket_by_sequence_length(batches.unbatch(), FOUND))


@case
def batches_for_samples():
    return autobatch.bucket_by_sequence_length(tokens().padded_batch(2).prefetch(1), FOUND)


@case
def buckets_for_samples():
    made = autobatch.bucket_by_sequence_length(tokens(), FOUND)
    return autobatch.bucket_by_sequence_length(made, FOUND)


@case
def too_long_is_dropped():
    made = autobatch.bucket_by_sequence_length(
        tokens([3, 13, 40, 12]), found([4, 2, 2], [5, 10], 12, "drop")
    )
    return [shapes(made), labels(made)]


@case
def an_unknown_word():
    return autobatch.bucket_by_sequence_length(tokens(), FOUND, on_too_long="cut")


@case
def no_dataset():
    return autobatch.bucket_by_sequence_length([[1, 2], [3]], FOUND)


@case
def no_open_dimension():
    fixed = tf.data.Dataset.from_tensor_slices(np.ones((4, 7), np.int32))
    return autobatch.bucket_by_sequence_length(fixed, FOUND)


@case
def no_open_dimension_but_a_function():
    fixed = tf.data.Dataset.from_tensor_slices(np.ones((4, 7), np.int32))
    made = autobatch.bucket_by_sequence_length(fixed, FOUND, lambda x: tf.shape(x)[0])
    return [list(x.shape) for x in made]


def nested(lengths):
    """Two sequences and a vector, a label for each token, and a weight."""

    def generate():
        for length in lengths:
            x = {
                "words": np.ones(length, np.int32),
                "pair": (np.ones(length + 1, np.int32), np.ones(3, np.float32)),
            }
            yield x, np.ones((length, 2), np.float32), np.ones(length, np.float32)

    spec = (
        {
            "words": tf.TensorSpec([None], tf.int32),
            "pair": (tf.TensorSpec([None], tf.int32), tf.TensorSpec([3], tf.float32)),
        },
        tf.TensorSpec([None, 2], tf.float32),
        tf.TensorSpec([None], tf.float32),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=spec)


@case
def nested_elements():
    made = autobatch.bucket_by_sequence_length(nested([2, 8, 3, 11]), FOUND)
    return [
        [list(leaf.shape) for leaf in tf.nest.flatten(batch)]  # pair, words, targets, weights
        for batch in made
    ]


@case
def nested_elements_truncated():
    made = autobatch.bucket_by_sequence_length(nested([2, 30]), FOUND, on_too_long="truncate")
    return [[list(leaf.shape) for leaf in tf.nest.flatten(batch)] for batch in made]


# -- which dimension is the sequence ----------------------------------------------------------


def model(*shapes_, outputs=1):
    inputs = [keras.Input(shape, name=name, dtype="float32") for name, shape in shapes_]
    pooled = []
    for each in inputs:
        x = each if len(each.shape) > 2 else each[..., None]
        while len(x.shape) > 2:
            x = keras.ops.mean(x, axis=1)
        pooled.append(keras.layers.Dense(outputs)(keras.layers.Dense(2)(x)) if x.shape[-1] else x)
    made = keras.Model(inputs, keras.layers.Add()(pooled) if len(pooled) > 1 else pooled[0])
    made.compile("sgd", "mse")
    return made


def spec(*shapes_):
    return tuple(tf.TensorSpec(shape, tf.float32) for shape in shapes_)


@case
def axis_of_the_only_open_dimension():
    return sequence_axes.find(model(("x", (None, 3))), spec([None, 3], [1]))


@case
def axis_where_the_data_is_fixed():
    return sequence_axes.find(model(("x", (None, 3))), spec([50, 3], [1]))


@case
def axis_of_two_open_dimensions_is_the_one_that_varies():
    return sequence_axes.find(model(("x", (None, None, 3))), spec([None, 64, 3], [1]))


@case
def axis_of_two_that_vary():
    return sequence_axes.find(model(("x", (None, None, 3))), spec([None, None, 3], [1]))


@case
def axis_of_two_that_vary_and_is_named():
    return sequence_axes.find(model(("x", (None, None, 3))), spec([None, None, 3], [1]), ("x:2",))


@case
def axes_of_several_inputs_and_a_target():
    made = model(("a", (None, 3)), ("b", (7,)))
    x = {"a": tf.TensorSpec([None, 3]), "b": tf.TensorSpec([7])}
    return sequence_axes.find(made, (x, tf.TensorSpec([None, 1])))


@case
def axis_of_a_fixed_model():
    return sequence_axes.find(model(("x", (50, 3))), spec([50, 3], [1]))


@case
def axis_of_a_fixed_model_named():
    return sequence_axes.find(model(("x", (50, 3))), spec([None, 3], [1]), ("x",))


@case
def axis_of_no_input():
    return sequence_axes.find(model(("x", (None, 3))), spec([None, 3], [1]), ("y:1",))


@case
def axis_out_of_range():
    return sequence_axes.find(model(("x", (None, 3))), spec([None, 3], [1]), ("x:3",))


@case
def axis_of_the_batch():
    return sequence_axes.find(model(("x", (None, 3))), spec([None, 3], [1]), ("x:0",))


@case
def ragged_data():
    return sequence_axes.find(model(("x", (None, 3))), (tf.RaggedTensorSpec([None, None]),))


# -- rows of any length ------------------------------------------------------------------------


def tagger():
    words = keras.Input((None,), dtype="int32", name="words")
    x = keras.layers.Embedding(100, 4)(words)
    made = keras.Model(words, keras.layers.Dense(3, activation="softmax")(x))
    made.compile("sgd", "sparse_categorical_crossentropy")
    return made


def tagged(lengths=LENGTHS):
    def generate():
        for length in lengths:
            words = np.arange(1, length + 1, dtype=np.int32)
            yield words, words % 3

    sequence = tf.TensorSpec([None], tf.int32)
    return tf.data.Dataset.from_generator(generate, output_signature=(sequence, sequence))


def told(dataset, **request):
    """What is read of a data set, and a batch of 3 at length 10."""
    read = training.from_data(tagger(), dataset)
    return described(read, **request)


def described(read, **request):
    rows = sequences.read(read, SequenceRequest(**request))
    batch = next(iter(rows.batches(((3, 10), (2, 1))).fit_arguments(0)["x"].skip(0)))
    counts = None if rows.lengths is None else [list(each) for each in rows.lengths.counts]
    return {
        "axes": rows.axes,
        "max_length": rows.max_length,
        "counts": counts,
        "batch": [list(leaf.shape) for leaf in tf.nest.flatten(batch)],
        "first": batch[0][0].numpy().tolist(),
    }


@case
def rows_of_samples():
    return told(tagged(), max_length=20)


@case
def rows_of_samples_up_to_their_longest():
    return told(tagged())["max_length"]


@case
def rows_of_padded_batches():
    return told(tagged().padded_batch(4).prefetch(1), max_length=20)


@case
def rows_of_buckets():
    bucketed = tagged().bucket_by_sequence_length(
        lambda words, tags: tf.shape(words)[0], [5, 10], [3, 2, 1]
    )
    return told(bucketed.shuffle(3).prefetch(1), max_length=20)


@case
def rows_for_a_model_without_declared_inputs():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = keras.layers.Embedding(100, 4)

        def call(self, x):
            return keras.ops.mean(self.embedding(x), axis=(1, 2))

    made = Model()
    made.compile("sgd", "mse")
    rows = sequences.read(training.from_data(made, tokens()), SequenceRequest())
    return [rows.axes, rows.max_length]


@case
def rows_of_arrays():
    x = np.tile(np.arange(1, 13, dtype=np.int32), (30, 1))
    return told((x, x % 3), max_length=20)


@case
def rows_of_what_repeats():
    return told(tagged().repeat().take(25), max_length=20)["counts"]


@case
def rows_made_up():
    made = tagger()
    ensure_compiled(made, optimizer=None, loss=None)
    x, y = synthetic_data(made, samples=SYNTHETIC_SAMPLES, sequence_length=20)
    read = training.Training(
        made,
        made.fit,
        training.DatasetBatches(tf.data.Dataset.from_tensor_slices((x, y)), batched=False),
        {},
        made_up=True,
    )
    return {**described(read, max_length=20), "first": None}


@case
def rows_of_nothing():
    return told(tagged([]), max_length=20)


@case
def shapes_in_turn_for_fit():
    rows = sequences.read(training.from_data(tagger(), tagged()), SequenceRequest(max_length=20))
    batches = rows.batches(((3, 10), (2, 20), (1, 10)))
    spec_ = batches.fit_arguments(0)["x"].element_spec[0].shape.as_list()
    trained = [list(x.shape) for x, _ in batches.fit_arguments(0)["x"].take(5)]
    validated = [list(x.shape) for x, _ in batches.validation_arguments(0)["validation_data"]]
    return [spec_, trained, validated]


@case
def shapes_longer_than_what_this_worker_has_read():
    rows = sequences.read(training.from_data(tagger(), tagged()), SequenceRequest())
    batches = rows.batches(((2, 5), (3, 30))).fit_arguments(0)["x"]
    return [rows.max_length, [list(x.shape) for x, _ in batches.take(2)]]


# -- a script's own buckets ----------------------------------------------------------------------


@case
def own_buckets():
    by_label = tokens().bucket_by_sequence_length(
        lambda x, y: y,
        [5, 10],
        [3, 2, 1],
        drop_remainder=True,
        padding_values=(tf.constant(-1), tf.constant(0)),
    )
    read = own_buckets_.find(by_label.prefetch(2))
    again = read.with_sizes([4, 2, 2], 12)
    return [
        read.boundaries,
        read.batch_sizes,
        int(again._buffer_size),
        shapes(again),
        read.others["drop_remainder"],
        int(next(iter(again))[0].numpy().min()),
    ]


@case
def own_buckets_of_another_making():
    grouped = tokens().group_by_window(
        lambda x, y: tf.cast(y > 5, tf.int64), lambda key, window: window.padded_batch(3), 3
    )
    return [
        own_buckets_.find(grouped),
        own_buckets_.find(tokens().padded_batch(3)),
        own_buckets_.find([1]),
    ]


def by_length(sizes, boundaries=(5, 10), lengths=LENGTHS, **others):
    return tokens(lengths).bucket_by_sequence_length(
        lambda x, y: y, list(boundaries), sizes, **others
    )


@case
def own_buckets_with_steps_behind():
    options = tf.data.Options()
    options.deterministic = True

    def made():
        cached = by_length([3, 2, 1]).cache().map(lambda x, y: (x, 2 * y), num_parallel_calls=2)
        return cached.shuffle(9, seed=4).with_options(options).repeat(2).prefetch(2)

    own = own_buckets_.find(made())
    again = own.with_sizes([4, 2, 2], 12)
    same = own.with_sizes([3, 2, 1], 12)
    return [
        sorted(shapes(again)),
        labels(again)[-1],
        again.options().deterministic,
        shapes(same) == shapes(made()),  # in the order of the user's own seed
    ]


@case
def own_buckets_of_a_dictionary():
    named = tokens().map(lambda x, y: {"words": x, "label": y})
    own = own_buckets_.find(
        named.bucket_by_sequence_length(lambda each: tf.shape(each["words"])[0], [5], [4, 4])
    )
    batch = next(iter(own.with_sizes([2, 2], 12)))
    return {name: list(leaf.shape) for name, leaf in batch.items()}


@case
def own_buckets_above_the_longest_sample():
    own = own_buckets_.find(by_length([2, 2, 2, 2, 2], (5, 10, 30, 40)))
    return [length_buckets.reached(own.boundaries, 12), shapes(own.with_sizes([4, 2, 2], 12))]


@case
def own_buckets_padded_to_their_boundaries():
    padded = by_length([2, 2, 2, 2], (5, 10, 30), pad_to_bucket_boundary=True)
    own = own_buckets_.find(padded)
    lengths = [own.padded_length(each) for each in (4, 5, 12, 30)]
    return [lengths, shapes(own.with_sizes([4, 2, 2], 29))]


@case
def a_sample_longer_than_was_proven():
    own = own_buckets_.find(by_length([2, 2, 2], (5, 30)).map(lambda x, y: (x, y)))
    return shapes(own.with_sizes([4, 2], 11))


@case
def what_stands_in_the_way_of_own_buckets():
    plain = by_length([2, 2, 2])

    def padded(*to):
        return tagged().bucket_by_sequence_length(
            lambda words, tags: tf.shape(words)[0], [5, 10], [3, 2, 1], padded_shapes=to
        )

    ways = {
        "nothing": plain.map(lambda x, y: (x, y)).repeat(),
        "a step that counts batches": plain.prefetch(1).take(2).map(lambda x, y: (x, y)),
        "a step of two words": plain.take_while(lambda x, y: y[0] > 0),
        "batches put together with others": tf.data.Dataset.zip((plain, plain)),
        "batches in a file": plain.cache("nowhere"),
        "a length of its own": padded([None], [20]),
        "one length for all": padded([20], [20]),
        "another batching": plain.unbatch().padded_batch(2),
    }
    return {
        name: [own_buckets_.find(each) is not None, own_buckets_.obstacle(each)[:36]]
        for name, each in ways.items()
    }


def in_sight(made, dataset):
    own, why = sequence_data.sizable(training.from_data(made, dataset))
    return [own is not None, why]


@case
def buckets_whose_sequences_can_be_told():
    frames = tf.data.Dataset.from_generator(
        lambda: ((np.ones((length, 4, 3), np.float32), [length]) for length in LENGTHS),
        output_signature=spec([None, None, 3], [1]),
    )
    bucketed = frames.bucket_by_sequence_length(lambda x, y: tf.shape(x)[0], [5], [2, 2])
    any_length = model(("x", (None, None, 3)))
    return {
        "plain": in_sight(tagger(), by_length([2, 2, 2])),
        "a model of one length": in_sight(model(("x", (12,))), by_length([2, 2, 2])),
        "two open dimensions": in_sight(any_length, bucketed),
        "two open dimensions, mapped": in_sight(any_length, bucketed.map(lambda x, y: (x, y))),
        "a step that is not known": in_sight(tagger(), by_length([2, 2, 2]).take(2)),
    }


@case
def rows_of_buckets_with_a_map_behind():
    bucketed = tagged().bucket_by_sequence_length(
        lambda words, tags: tf.shape(words)[0], [5, 10], [3, 2, 1]
    )
    weighted = bucketed.map(lambda words, tags: ({"words": words}, tags, tf.ones_like(tags)))
    rows = sequences.read(
        training.from_data(tagger(), weighted.repeat(2)), SequenceRequest(max_length=20)
    )
    batch = next(iter(rows.batches(((3, 10),)).fit_arguments(0)["x"]))
    return [
        list(batch[0]),
        [list(leaf.shape) for leaf in tf.nest.flatten(batch)],
        int(tf.reduce_sum(batch[2])),
        [list(each) for each in rows.lengths.counts],
    ]


@case
def rows_of_buckets_padded_to_their_boundaries():
    bucketed = tagged().bucket_by_sequence_length(
        lambda words, tags: tf.shape(words)[0], [5, 30], [3, 2, 1], pad_to_bucket_boundary=True
    )
    rows = sequences.read(training.from_data(tagger(), bucketed), SequenceRequest())
    return [rows.max_length, rows.lengths.longest, list(rows.rows[0].shape)]


def fit_call(x, **others):
    call = dict.fromkeys(("steps_per_epoch", "validation_data", "validation_steps"))
    return {"x": x, **call, **others}


SIZED = Found(
    batch_size=4,
    base_batch_size=2,
    optimizers=(),
    bucket_boundaries=(5, 10),
    bucket_batch_sizes=(6, 2, 2),
    max_length=12,
)


@case
def a_call_of_fit_in_its_own_buckets():
    call = fit_call(
        by_length([2, 2, 2, 2], (5, 10, 20)).map(lambda x, y: (x, y)).prefetch(1),
        steps_per_epoch=10,
        validation_data=by_length([1, 8, 1, 1], (5, 10, 20)),
        validation_steps=4,
    )
    changed = in_buckets(call, SIZED)
    return [
        shapes(changed["x"]),
        changed["steps_per_epoch"],
        sorted(shapes(changed["validation_data"])),
        changed["validation_steps"],
    ]


@case
def a_validation_on_longer_samples():
    lengths = [3, 11, 12, 13, 14, 15, 16, 19, 30, 31]
    validation = by_length([1, 1, 3, 8], (5, 10, 20), lengths)
    call = fit_call(by_length([2, 2, 2, 2], (5, 10, 20)), validation_data=validation)
    return sorted(shapes(in_buckets(call, SIZED)["validation_data"]))


@case
def a_call_of_fit_in_other_buckets():
    return in_buckets(fit_call(by_length([2, 2], (5,))), SIZED)


@case
def a_call_of_fit_padded_to_other_lengths():
    padded = by_length([2] * 4, (5, 10, 20), pad_to_bucket_boundary=True)
    return in_buckets(fit_call(padded), SIZED)


@case
def a_call_of_fit_whose_buckets_cannot_be_made_anew():
    return in_buckets(fit_call(by_length([2, 2, 2]).take(3)), SIZED)


@case
def a_call_of_fit_without_buckets():
    return in_buckets(fit_call(tokens().padded_batch(2)), SIZED)


if __name__ == "__main__":
    for each in CASES:
        try:
            line = {"case": each.__name__, "value": each()}
        except Exception as error:
            said = getattr(error, "message", None) or str(error)
            line = {"case": each.__name__, "error": type(error).__name__, "message": said}
        print(json.dumps(line, default=str), flush=True)
