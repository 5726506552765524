"""Higgs-like tabular classification with absl flags.

  python train_absl.py --width=256 --learning_rate=0.01
"""
import time

from absl import app, flags, logging
import numpy as np
import tensorflow as tf

FLAGS = flags.FLAGS
flags.DEFINE_integer("width", None, "Units of the hidden layers.", lower_bound=1)
flags.DEFINE_integer("depth", 3, "Number of hidden layers.")
flags.DEFINE_integer("batch_size", 200, "Training batch size.")
flags.DEFINE_float("learning_rate", 0.02, "Initial learning rate.")
flags.DEFINE_bool("xla", True, "Compile the training step with XLA.")
flags.mark_flag_as_required("width")


class TimedModel(tf.keras.Model):
    """A model that logs how long its trainings take."""

    def fit(self, *args, **kwargs):
        kwargs.setdefault("callbacks", [tf.keras.callbacks.TerminateOnNaN()])
        start = time.time()
        history = super().fit(*args, **kwargs)
        logging.info("fit took %.1f s", time.time() - start)
        return history


class MLP(TimedModel):
    def __init__(self, width, depth):
        super().__init__()
        self.hidden = [tf.keras.layers.Dense(width, activation="elu") for _ in range(depth)]
        self.dropout = tf.keras.layers.Dropout(0.5)
        self.out = tf.keras.layers.Dense(1)

    def call(self, x, training=None):
        for layer in self.hidden:
            x = self.dropout(layer(x), training=training)
        return self.out(x)


def main(argv):
    del argv  # unused
    rng = np.random.RandomState(4)
    features = rng.randn(4000, 28).astype("float32")
    labels = (features[:, :3].sum(axis=1) > 0).astype("float32")

    steps_per_epoch = len(features) // FLAGS.batch_size
    schedule = tf.keras.optimizers.schedules.InverseTimeDecay(
        FLAGS.learning_rate, decay_steps=steps_per_epoch * 1000, decay_rate=1, staircase=False)

    model = MLP(FLAGS.width, FLAGS.depth)
    model.compile(
        optimizer=tf.keras.optimizers.SGD(schedule),
        loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=FLAGS.xla)
    model.fit(features, labels, FLAGS.batch_size, epochs=2, verbose=2, class_weight={0: 1.0, 1: 1.5})


if __name__ == "__main__":
    app.run(main)
