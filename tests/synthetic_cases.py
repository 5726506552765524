"""Run by test_synthetic.py: makes data for each model here and trains it one step.

Prints one JSON line a case: `{"case", "x", "y", "loss"}`, where `x` and `y` list each array's
place, dtype, shape and values, or `{"case", "error", "message"}`. Names on the command line choose
cases; without any, all are run.
"""

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")

import keras
import numpy as np
import tensorflow as tf

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from autobatch.engine.synthetic import ensure_compiled, synthetic_data  # noqa: E402
from autobatch.errors import AutobatchError  # noqa: E402

EXAMPLES = ROOT / "scripts" / "examples"
SAMPLES = 6
CASES = {}
layers = keras.layers
Input = keras.Input


def case(function=None, **arguments):
    """Registers a function that gives a model, and how its data is made."""
    if function is None:
        return functools.partial(case, **arguments)
    CASES[function.__name__] = (function, arguments)
    return function


def compiled(inputs, outputs, loss="mse", **more):
    model = keras.Model(inputs, outputs)
    model.compile(optimizer="adam", loss=loss, **more)
    return model


def dense(loss, units=3, activation=None, shape=(4,), **more):
    """One layer, for what only depends on the loss."""
    x = Input(shape)
    return compiled(x, layers.Dense(units, activation=activation)(x), loss, **more)


def add(name, build, **arguments):
    CASES[name] = (build, arguments)


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_model()


for _name in ("cifar10_cnn", "imdb_lstm", "resnet50", "transformer"):
    add(_name, functools.partial(example, _name))

# --- losses

_LOSSES = {
    "sparse_probabilities": ("sparse_categorical_crossentropy", 5, "softmax"),
    "sparse_logits": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 5, None),
    "sparse_function": (keras.losses.sparse_categorical_crossentropy, 5, "softmax"),
    "categorical": ("categorical_crossentropy", 5, "softmax"),
    "categorical_focal": (keras.losses.CategoricalFocalCrossentropy(), 5, "softmax"),
    "kl_divergence": ("kl_divergence", 5, "softmax"),
    "binary": ("binary_crossentropy", 1, "sigmoid"),
    "binary_multilabel_logits": (keras.losses.BinaryCrossentropy(from_logits=True), 4, None),
    "binary_focal": ("binary_focal_crossentropy", 1, "sigmoid"),
    "hinge": ("hinge", 1, "tanh"),
    "squared_hinge": (keras.losses.SquaredHinge(), 1, "tanh"),
    "categorical_hinge": ("categorical_hinge", 4, None),
    "poisson": ("poisson", 1, "softplus"),
    "msle": ("msle", 1, "relu"),
    "mape": ("mape", 1, None),
    "mse": ("mse", 3, None),
    "cosine": (keras.losses.CosineSimilarity(), 3, None),
    "huber": ("huber", 3, None),
    "dice_one_class": (keras.losses.Dice(), 1, "sigmoid"),
    "tversky_classes": (keras.losses.Tversky(), 3, "softmax"),
    "partial": (
        functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
        5,
        None,
    ),
}
for _name, (_loss, _units, _activation) in _LOSSES.items():
    add(_name, functools.partial(dense, _loss, _units, _activation))


@case
def accuracy_of_class_ids():
    return dense("sparse_categorical_crossentropy", 5, "softmax", metrics=["accuracy"])


@case
def circle():
    return dense(keras.losses.Circle(), 8)


@case
def ctc():
    x = Input((12, 4))
    return compiled(x, layers.Dense(6)(x), keras.losses.CTC())


@case
def custom_function():
    def mean_of_fourth_powers(y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 4)

    return dense(mean_of_fourth_powers)


@case
def custom_function_of_class_ids():
    def with_logits(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    return dense(with_logits, 5)


@case
def custom_subclass():
    class Weighted(keras.losses.CategoricalCrossentropy):
        def call(self, y_true, y_pred):
            return 2.0 * super().call(y_true, y_pred)

    return dense(Weighted(from_logits=True), 5)


@case
def custom_loss_class():
    class Charbonnier(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.sqrt((y_true - y_pred) ** 2 + 1e-6)

    return dense(Charbonnier())


@case
def segmentation():
    x = Input((8, 8, 3))
    outputs = layers.Conv2D(5, 3, padding="same", activation="softmax")(x)
    return compiled(x, outputs, "sparse_categorical_crossentropy", metrics=["accuracy"])


@case
def segmentation_channels_first():
    x = Input((8, 8, 3))
    outputs = layers.Permute((3, 1, 2))(layers.Conv2D(5, 3, padding="same")(x))
    return compiled(x, outputs, keras.losses.CategoricalCrossentropy(from_logits=True, axis=1))


# --- several inputs and outputs


def two_heads():
    x = Input((4,), name="features")
    return x, layers.Dense(3, name="kind", activation="softmax")(x), layers.Dense(1, name="size")(x)


@case
def outputs_list():
    x, kind, size = two_heads()
    return compiled(x, [kind, size], ["sparse_categorical_crossentropy", "mse"])


@case
def outputs_list_losses_dict():
    x, kind, size = two_heads()
    return compiled(
        x,
        [kind, size],
        {"size": "poisson", "kind": "categorical_crossentropy"},
        loss_weights=[1, 2],
    )


@case
def outputs_dict():
    x, kind, size = two_heads()
    return compiled(
        x,
        {"size": size, "kind": kind},
        {"kind": "sparse_categorical_crossentropy", "size": "msle"},
    )


@case
def outputs_without_loss():
    x, kind, size = two_heads()
    return compiled(x, [kind, size], ["sparse_categorical_crossentropy", None])


@case
def outputs_dict_without_loss():
    x, kind, size = two_heads()
    return compiled(x, {"b_kind": kind, "a_size": size}, {"b_kind": "categorical_crossentropy"})


@case
def one_loss_for_all():
    x = Input((4,))
    return compiled(x, [layers.Dense(2)(x), layers.Dense(3)(x)], "mse")


@case
def inputs_list():
    a, b = Input((4,)), Input((6,), dtype="int32")
    words = layers.Flatten()(layers.Embedding(9, 2)(b))
    return compiled([a, b], layers.Dense(1)(layers.Concatenate()([a, words])))


@case
def inputs_dict():
    inputs = {"z": Input((4,), name="z"), "a": Input((), name="a", dtype="int64")}
    user = layers.Embedding(7, 4)(inputs["a"])
    return compiled(inputs, layers.Dense(1)(inputs["z"] + user))


# --- what inputs may hold


@case
def tokens_as_floats():
    x = Input((5,))
    return compiled(x, layers.Dense(1)(layers.Flatten()(layers.Embedding(3, 4)(x))))


@case
def tokens_cast_and_reshaped():
    x = Input((12,), dtype="float32")
    ids = keras.ops.reshape(keras.ops.cast(x, "int32"), (-1, 3, 4))
    return compiled(x, layers.Dense(1)(layers.Embedding(4, 2)(ids)))


@case
def tokens_of_smallest_table():
    x = Input((5,), dtype="int32")
    both = layers.Embedding(50, 4)(x) + layers.Embedding(3, 4)(x)
    return compiled(x, layers.Dense(1)(both))


@case
def tokens_of_each_column():
    """Tables laid end to end, as recommenders have them."""
    x = Input((3,), dtype="int32")
    shifted = x + np.array([0, 100, 105], np.int32)
    return compiled(x, layers.Dense(1)(layers.Flatten()(layers.Embedding(108, 4)(shifted))))


@case
def tokens_in_nested_model():
    ids = Input((5,), dtype="int32")
    encoder = keras.Sequential([Input((5,), dtype="int32"), layers.Embedding(4, 2)])
    inner = keras.Model(ids, layers.Flatten()(encoder(ids)))
    x = Input((5,), dtype="int32")
    return compiled(x, layers.Dense(1)(inner(x)))


class Positions(keras.layers.Layer):
    """A custom layer: an embedding of tokens, a smaller one of their places."""

    def __init__(self, vocabulary, length, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(vocabulary, 4)
        self.places = layers.Embedding(length, 4)

    def call(self, ids):
        return self.tokens(ids) + self.places(keras.ops.arange(keras.ops.shape(ids)[-1]))


@case(samples=200)
def tokens_in_custom_layer():
    """Positions do not bound the tokens."""
    x = Input((6,), dtype="int32")
    return compiled(x, layers.Dense(1)(Positions(1000, 6)(x)))


@case
def image_patches_with_positions():
    """An embedding that the input does not reach leaves it a float image."""

    class Encoder(layers.Layer):
        def __init__(self):
            super().__init__()
            self.projection = layers.Dense(4)
            self.places = layers.Embedding(16, 4)

        def call(self, patches):
            return self.projection(patches) + self.places(keras.ops.arange(16))

    x = Input((8, 8, 3))
    return compiled(x, layers.Dense(1)(Encoder()(layers.Reshape((16, 12))(x))))


class RawLookup(keras.layers.Layer):
    """TensorFlow's own lookup, in a function of its own."""

    def build(self, _):
        self.table = tf.Variable(tf.random.normal((5, 3)))

    @tf.function
    def lookup(self, ids):
        return tf.nn.embedding_lookup(self.table, ids)

    def call(self, ids):
        return self.lookup(ids)


@case
def raw_tensorflow_lookup():
    x = Input((4,), dtype="int32")
    return compiled(x, layers.Dense(1)(RawLookup()(x)))


@case
def category_encoding():
    x = Input((4,), dtype="int32")
    return compiled(x, layers.Dense(1)(layers.CategoryEncoding(3, output_mode="multi_hot")(x)))


@case
def one_hot():
    x = Input((4,), dtype="int32")
    return compiled(x, layers.Dense(1)(keras.ops.one_hot(x, 3)))


@case
def integer_lookup():
    """Without a place for others, any value outside of the vocabulary is an error."""
    x = Input((2,), dtype="int64")
    ids = layers.IntegerLookup(vocabulary=[12, 36, 1138], num_oov_indices=0)(x)
    return compiled(x, layers.Dense(1)(layers.Embedding(3, 2)(ids)))


@case
def string_lookup():
    x = Input((1,), dtype="string")
    ids = layers.StringLookup(vocabulary=["red", "blue"], num_oov_indices=0)(x)
    return compiled(x, layers.Dense(1)(layers.Flatten()(layers.Embedding(2, 2)(ids))))


@case
def text_vectorization():
    x = Input((1,), dtype="string")
    ids = layers.TextVectorization(vocabulary=["word1", "word2"], output_sequence_length=7)(x)
    words = layers.Embedding(4, 2)(ids)
    return compiled(x, layers.Dense(1)(layers.GlobalAveragePooling1D()(words)))


@case(sequence_length=9)
def text_of_any_length():
    x = Input((1,), dtype="string")
    ids = layers.TextVectorization(vocabulary=["word1", "word2"])(x)
    return compiled(x, layers.Dense(2)(layers.Embedding(4, 2)(ids)), "mse")


@case
def hashing():
    x = Input((1,), dtype="string")
    ids = layers.Hashing(num_bins=3)(x)
    return compiled(x, layers.Dense(1)(layers.Flatten()(layers.Embedding(3, 2)(ids))))


@case
def bool_mask_and_pixels():
    pixels, mask = Input((4, 4, 1), dtype="uint8"), Input((16, 1), dtype="bool")
    flat = layers.Reshape((16, 1))(layers.Rescaling(1 / 255)(pixels))
    attended = layers.MultiHeadAttention(1, 2)(flat, flat, key_mask=layers.Reshape((16,))(mask))
    return compiled([pixels, mask], layers.Dense(1)(attended))


@case
def mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        x, ids = Input((4,)), Input((4,), dtype="int32")
        both = layers.Concatenate()(
            [layers.Dense(4)(x), layers.Flatten()(layers.Embedding(5, 2)(ids))]
        )
        outputs = layers.Dense(3, activation="softmax", dtype="float32")(both)
        return compiled([x, ids], outputs, "sparse_categorical_crossentropy")
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


@case
def half_precision():
    keras.mixed_precision.set_dtype_policy("float16")
    try:
        x = Input((4,), dtype="float16")
        return compiled(x, layers.Dense(2)(x), "mse")
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


# --- unknown dimensions


@case(sequence_length=11)
def sequence():
    x = Input((None,), dtype="int32")
    return compiled(x, layers.Dense(1)(layers.LSTM(3)(layers.Embedding(20, 4)(x))))


@case(sequence_length=7)
def encoder_and_decoder():
    """Both lengths are filled, and the targets follow."""
    source, target = Input((None,), dtype="int32"), Input((None, 4))
    context = layers.GlobalAveragePooling1D()(layers.Embedding(20, 4)(source))
    outputs = layers.Dense(8, activation="softmax")(target + context[:, None])
    return compiled([source, target], outputs, "sparse_categorical_crossentropy")


@case(input_shapes={"image": (16, 12, 3)})
def image_of_any_size():
    x = Input((None, None, 3), name="image")
    return compiled(x, layers.Conv2D(2, 3, padding="same")(x))


@case(input_shapes={None: (16, 12, 3)})
def image_without_name():
    return image_of_any_size()


@case
def fixed_batch():
    x = Input(batch_shape=(3, 5, 2))
    return compiled(x, layers.LSTM(2, stateful=True)(x))


# --- models without inputs


def without_input(*stack, loss="mse"):
    model = keras.Sequential(stack)
    model.compile(optimizer="adam", loss=loss)
    return model


@case(input_shapes={None: (28, 28, 1)})
def unbuilt_sequential():
    return without_input(
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
        loss="sparse_categorical_crossentropy",
    )


@case(sequence_length=10)
def unbuilt_with_embedding():
    return without_input(layers.Embedding(30, 4), layers.LSTM(3), layers.Dense(1))


@case(input_shapes={None: (6,)})
def unbuilt_with_custom_embedding():
    """The trace finds that what was taken for floats are indices."""
    return without_input(Positions(40, 6), layers.Dense(1))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(4)
        self.head = layers.Dense(3, activation="softmax")

    def call(self, inputs, training=False):
        return self.head(self.hidden(inputs))


@case(input_shapes={None: (5,)})
def subclassed():
    model = Subclassed()
    model.compile(optimizer="adam", loss="categorical_crossentropy")
    return model


@case
def subclassed_and_built():
    model = Subclassed()
    model.build((None, 5))
    model.compile(optimizer="adam", loss="categorical_crossentropy")
    return model


@case(input_shapes={"left": (5,), "right": (2, 3)})
def subclassed_with_named_inputs():
    class Two(Subclassed):
        def call(self, inputs):
            flat = keras.ops.reshape(inputs["right"], (-1, 6))
            return self.head(keras.ops.concatenate([inputs["left"], flat], axis=-1))

    model = Two()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    return model


@case(input_shapes={None: (5,)})
def eager_only():
    """It cannot be traced: its outputs are known by calling it."""

    class Eager(Subclassed):
        def call(self, inputs):
            if keras.backend.is_keras_tensor(inputs) or not hasattr(inputs, "numpy"):
                raise RuntimeError("eager only")
            return super().call(inputs)

    model = Eager()
    model(np.zeros((1, 5), "float32"))
    model.compile(optimizer="adam", loss="mse", run_eagerly=True)
    return model


# --- models with a loss of their own


class Autoencoder(keras.Model):
    """Its training step makes its targets out of its inputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        if isinstance(data, tuple):
            data = data[0]
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((data - self(data, training=True)) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


@case(input_shapes={None: (5,)})
def own_train_step():
    model = Autoencoder()
    model.compile(optimizer="adam")
    return model


@case(input_shapes={None: (5,)})
def own_train_step_without_call():
    """A GAN's way: nothing but the training step can be called."""

    class Generator(Autoencoder):
        def call(self, x):
            raise NotImplementedError

        def train_step(self, data):
            self.optimizer.build(self.dense.trainable_variables)
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((data - self.dense(data)) ** 2)
            weights = self.dense.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    model = Generator()
    model.dense.build((None, 5))
    model.compile(optimizer="adam")
    return model


@case
def own_train_step_with_targets():
    """It unpacks targets, and holds the loss that says which."""

    class Guided(keras.Model):
        def compile(self, loss_fn, **kwargs):
            super().compile(**kwargs)
            self.loss_fn = loss_fn

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.loss_fn(y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

    x = Input((4,))
    model = Guided(x, layers.Dense(3)(x))
    model.compile(keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer="adam")
    return model


@case
def own_train_step_with_compiled_loss():
    class Penalized(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    x = Input((4,))
    model = Penalized(x, layers.Dense(3, activation="softmax")(x))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    return model


class Energy(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


@case
def added_loss():
    x = Input((4,))
    model = keras.Model(x, Energy()(layers.Dense(3)(x)))
    model.compile(optimizer="adam")
    return model


@case
def labels_among_the_inputs():
    """An added loss that looks class ids up in the logits."""

    class Loss(keras.layers.Layer):
        def call(self, inputs):
            labels, logits = inputs
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            self.add_loss(keras.ops.mean(loss))
            return logits

    x, labels = Input((4,)), Input((), dtype="int32")
    model = keras.Model([x, labels], Loss()([labels, layers.Dense(3)(x)]))
    model.compile(optimizer="adam")
    return model


@case
def own_compute_loss():
    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean((y_pred - 1.0) ** 2)

    x = Input((4,))
    model = Own(x, layers.Dense(3)(x))
    model.compile(optimizer="adam")
    return model


# --- models that are not compiled

UNCOMPILED = {}


def uncompiled(function=None, **arguments):
    if function is None:
        return functools.partial(uncompiled, **arguments)
    given = {each: arguments.pop(each, None) for each in ("optimizer", "loss")}
    UNCOMPILED[function.__name__] = given
    return case(function, **arguments)


@uncompiled
def uncompiled_softmax():
    x = Input((4,))
    inner = keras.Sequential([Input((4,)), layers.Dense(3), layers.Activation("softmax")])
    return keras.Model(x, inner(x))


@uncompiled
def uncompiled_sigmoid():
    return keras.Sequential([Input((4,)), layers.Dense(2, activation="sigmoid")])


@uncompiled(optimizer="sgd")
def uncompiled_heads():
    x, kind, size = two_heads()
    return keras.Model(x, {"kind": kind, "size": size})


@uncompiled(optimizer="sgd", loss="hinge")
def uncompiled_as_told():
    return keras.Sequential([Input((4,)), layers.Dense(1, activation="tanh")])


@uncompiled(input_shapes={None: (5,)})
def uncompiled_train_step():
    return Autoencoder()


@uncompiled(loss="mse")
def compiled_and_told():
    return dense("mae")


# --- errors


@case
def error_unknown_image():
    return image_of_any_size()


@case(sequence_length=32)
def error_length_of_an_image():
    return image_of_any_size()


@case
def error_unknown_length():
    return sequence()


@case(sequence_length=5)
def error_length_of_nothing():
    return dense("mse")


@case(input_shapes={"picture": (16, 16, 3)})
def error_unknown_name():
    return image_of_any_size()


@case(input_shapes={"image": (16, 16)})
def error_rank():
    return image_of_any_size()


@case(input_shapes={"image": (16, 16, 1)})
def error_known_dimension():
    return image_of_any_size()


@case(input_shapes={"image": (0, 16, 3)})
def error_no_pixels():
    return image_of_any_size()


@case(input_shapes={None: (4,)})
def error_name_needed():
    return inputs_dict()


@case(samples=0)
def error_samples():
    return dense("mse")


@case
def error_nothing_known():
    return subclassed()


@case(input_shapes={None: (7,)})
def error_wrong_shape_for_subclass():
    class Picky(Subclassed):
        def call(self, inputs):
            if inputs.shape[-1] != 4:
                raise ValueError("only rows of four")
            return super().call(inputs)

    model = Picky()
    model.compile(optimizer="adam", loss="mse")
    return model


@uncompiled
def error_compile_of_its_own():
    class Adversarial(Autoencoder):
        def compile(self, d_optimizer, g_optimizer):
            super().compile()

    return Adversarial()


@uncompiled(loss="no_such_loss")
def error_loss():
    return keras.Sequential([Input((4,)), layers.Dense(1)])


@uncompiled(optimizer="no_such_optimizer")
def error_optimizer():
    return keras.Sequential([Input((4,)), layers.Dense(1)])


# --- running them


def described(place, array):
    numbers = array.dtype != object
    return {
        "place": "/".join(map(str, place)),
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "lowest": float(array.min()) if numbers else None,
        "highest": float(array.max()) if numbers else None,
        "values": sorted(set(array.ravel().tolist()))[:50],
        "sums": sorted({float(s) for s in array.sum(-1).ravel()})[:50]
        if numbers and array.ndim > 1
        else [],
    }


def leaves(structure, place=()):
    if isinstance(structure, dict):
        return [leaf for k, v in structure.items() for leaf in leaves(v, (*place, k))]
    if isinstance(structure, (tuple, list)):
        return [leaf for i, v in enumerate(structure) for leaf in leaves(v, (*place, i))]
    assert isinstance(structure, np.ndarray), type(structure)
    return [described(place, structure)]


def train(model, x, y):
    """One step on a dataset of the samples, as a trial takes it; gives its loss."""
    batch = model.inputs[0].shape[0] if getattr(model, "inputs", None) else None
    packed = keras.utils.pack_x_y_sample_weight(x, y)
    dataset = tf.data.Dataset.from_tensor_slices(packed).batch(batch or SAMPLES)
    if len(model.layers) > 100:
        model.run_eagerly = True  # tracing ResNet50 takes longer than all others together
    losses = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"]))
    )  # the history has no losses of a training step of one's own
    model.fit(dataset, steps_per_epoch=1, verbose=0, callbacks=[keep])
    return losses[0]


def run(name):
    function, arguments = CASES[name]
    keras.utils.set_random_seed(1)
    line = {"case": name}
    try:
        model = function()
        if name in UNCOMPILED:
            line["warnings"] = ensure_compiled(model, **UNCOMPILED[name])
        else:
            assert ensure_compiled(model, optimizer=None, loss=None) == ()
        before = [np.array(w) for w in model.get_weights()]
        arguments = {"samples": SAMPLES, **arguments}
        line["samples"] = arguments["samples"]
        x, y = synthetic_data(model, **arguments)
        if before:
            for old, new in zip(before, model.get_weights(), strict=True):
                np.testing.assert_array_equal(old, new)
        line.update(x=leaves(x), y=None if y is None else leaves(y))
        line["loss"] = train(model, x, y)
    except AutobatchError as error:
        line.update(error=type(error).__name__, message=str(error))
    except Exception as error:
        line.update(error=type(error).__name__, message=str(error)[:2000])
    return line


if __name__ == "__main__":
    for _name in sys.argv[1:] or CASES:
        print(json.dumps(run(_name)), flush=True)
