"""Train a tiny image model with accumulated gradients (for cards with little memory)."""
import click
import numpy as np
import tensorflow as tf
from tensorflow import keras


class AccumulatingModel(keras.Model):
    """Applies the mean of the gradients of every `accumulate` batches."""

    def __init__(self, *args, accumulate=4, **kwargs):
        super().__init__(*args, **kwargs)
        self.accumulate = accumulate
        self.seen = tf.Variable(0, dtype=tf.int32, trainable=False)
        self.sums = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.trainable_variables]

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        for total, gradient in zip(self.sums, gradients):
            total.assign_add(gradient / self.accumulate)
        self.seen.assign_add(1)
        tf.cond(tf.equal(self.seen, self.accumulate), self.apply_sums, lambda: None)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight)
        return {m.name: m.result() for m in self.metrics}

    def apply_sums(self):
        self.optimizer.apply_gradients(zip(self.sums, self.trainable_variables))
        self.seen.assign(0)
        for total in self.sums:
            total.assign(tf.zeros_like(total))


def get_data(count, batch_size):
    rng = np.random.RandomState(8)
    images = rng.rand(count, 48, 48, 3).astype("float32")
    labels = rng.randint(0, 8, size=count)
    confidence = rng.uniform(0.5, 1.0, size=count).astype("float32")
    ds = tf.data.Dataset.from_tensor_slices((images, labels, confidence))
    return ds.shuffle(count).batch(batch_size).prefetch(1)


@click.command()
@click.option("--batch-size", "-b", default=10, show_default=True, help="Images a step.")
@click.option("--accumulate", default=4, show_default=True, help="Steps an update.")
@click.option("--lr", type=float, required=True, help="Learning rate.")
def main(batch_size, accumulate, lr):
    inputs = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="swish")(inputs)
    x = keras.layers.Conv2D(32, 3, strides=2, activation="swish")(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.GlobalMaxPooling2D()(x)
    outputs = keras.layers.Dense(8)(x)
    model = AccumulatingModel(inputs, outputs, accumulate=accumulate)
    model.compile(
        optimizer=keras.optimizers.Adam(lr),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    click.echo(f"effective batch size: {batch_size * accumulate}")
    model.fit(get_data(500, batch_size), epochs=1)


if __name__ == "__main__":
    main()
