"""Two tower retrieval: users are described by what they watched, movies by their id.

Every other movie in the batch serves as a negative, so the scores are batch x batch.
"""
import numpy as np
import tensorflow as tf
from tensorflow import keras

MOVIES, USERS = 1000, 300
EMBEDDING = 32

rng = np.random.RandomState(12)
n_events = 2000
histories = [rng.randint(1, MOVIES, size=min(60, 1 + rng.geometric(0.12))) for _ in range(n_events)]
events = {
    "user_id": tf.constant(rng.randint(0, USERS, size=n_events)),
    "history": tf.ragged.constant(histories),
    "movie_id": tf.constant(rng.randint(1, MOVIES, size=n_events)),
}


def densify(batch):
    return {**batch, "history": batch["history"].to_tensor()}


train = tf.data.Dataset.from_tensor_slices(events)
train = train.shuffle(2000, seed=42).batch(80).map(densify).prefetch(tf.data.AUTOTUNE)


class TwoTower(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.users = keras.layers.Embedding(USERS, EMBEDDING)
        self.movies = keras.layers.Embedding(MOVIES, EMBEDDING, mask_zero=True)
        self.pool = keras.layers.GlobalAveragePooling1D()
        self.query = keras.Sequential([keras.layers.Dense(64, activation="relu"), keras.layers.Dense(EMBEDDING)])
        self.loss_metric = keras.metrics.Mean(name="loss")

    def call(self, features):
        watched = self.movies(features["history"])
        mask = tf.not_equal(features["history"], 0)
        taste = tf.concat([self.users(features["user_id"]), self.pool(watched, mask=mask)], axis=1)
        return self.query(taste), self.movies(features["movie_id"])

    @property
    def metrics(self):
        return [self.loss_metric]

    def train_step(self, features):
        with tf.GradientTape() as tape:
            queries, candidates = self(features)
            scores = tf.matmul(queries, candidates, transpose_b=True)
            targets = tf.range(tf.shape(scores)[0])
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=scores)
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self.loss_metric.update_state(loss)
        return {"loss": self.loss_metric.result()}


model = TwoTower()
model.compile(optimizer=keras.optimizers.Adagrad(learning_rate=0.1))
model.fit(train, epochs=2)
