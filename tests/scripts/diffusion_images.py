"""Denoising diffusion on 16x16 images: the batch size stands in the training step itself."""
import numpy as np
import tensorflow as tf
import keras
from keras import layers, ops

IMAGE, BATCH, EPOCHS, EMA = 16, 12, 4, 0.99

pictures = np.random.default_rng(2).integers(0, 255, (150, 20, 20, 3), dtype="uint8")


def prepare(picture):
    picture = tf.image.resize(tf.cast(picture, tf.float32), (IMAGE, IMAGE), antialias=True)
    return tf.clip_by_value(picture / 255.0, 0.0, 1.0)


def batches(rows):
    data = tf.data.Dataset.from_tensor_slices(rows).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.cache().repeat(3).shuffle(8 * BATCH).batch(BATCH, drop_remainder=True)
    return data.prefetch(tf.data.AUTOTUNE)


train, validation = batches(pictures[:120]), batches(pictures[120:])


def make_network():
    noisy, level = keras.Input((IMAGE, IMAGE, 3)), keras.Input((1, 1, 1))
    x = layers.Concatenate()([noisy, layers.UpSampling2D(IMAGE)(level)])
    x = skip = layers.Conv2D(16, 3, padding="same", activation="swish")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="swish")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="swish")(layers.Concatenate()([x, skip]))
    return keras.Model([noisy, level], layers.Conv2D(3, 1, kernel_initializer="zeros")(x))


class Diffusion(keras.Model):
    def __init__(self):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = make_network()
        self.average = keras.models.clone_model(self.network)

    def compile(self, **settings):
        super().compile(**settings)
        self.noise_loss = keras.metrics.Mean(name="noise")

    @property
    def metrics(self):
        return [self.noise_loss]

    def _loss_of(self, images, network, training):
        images = self.normalizer(images)
        noise = keras.random.normal((BATCH, IMAGE, IMAGE, 3))
        angle = keras.random.uniform((BATCH, 1, 1, 1), 0.3, 1.5)
        mixed = ops.cos(angle) * images + ops.sin(angle) * noise
        return self.compute_loss(y=noise, y_pred=network([mixed, ops.sin(angle)], training=training))

    def train_step(self, images):
        with tf.GradientTape() as tape:
            loss = self._loss_of(images, self.network, True)
        weights = self.network.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        for slow, fast in zip(self.average.weights, self.network.weights):
            slow.assign(EMA * slow + (1 - EMA) * fast)
        self.noise_loss.update_state(loss)
        return {"noise": self.noise_loss.result()}

    def test_step(self, images):
        self.noise_loss.update_state(self._loss_of(images, self.average, False))
        return {"noise": self.noise_loss.result()}


model = Diffusion()
model.normalizer.adapt(train)
model.compile(optimizer=keras.optimizers.AdamW(2e-3, weight_decay=1e-4), loss="mae")
model.fit(train, epochs=EPOCHS, validation_data=validation)
