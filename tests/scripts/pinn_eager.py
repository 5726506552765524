"""Physics-informed network for the heat equation u_t = a * u_xx. Eager, to look inside while debugging."""
import numpy as np
import tensorflow as tf

tf.keras.utils.set_random_seed(0)
ALPHA = 0.05
N_COLLOCATION = 1000


class PINN(tf.keras.Model):
    def __init__(self, width=24, depth=3):
        super().__init__()
        self.blocks = [tf.keras.layers.Dense(width, activation="tanh") for _ in range(depth)]
        self.u = tf.keras.layers.Dense(1)
        self.steps_seen = 0

    def call(self, points):
        h = points
        for block in self.blocks:
            h = block(h)
        return self.u(h)

    def residual(self, points):
        x, t = points[:, 0:1], points[:, 1:2]
        with tf.GradientTape(persistent=True) as outer:
            outer.watch([x, t])
            with tf.GradientTape() as inner:
                inner.watch(x)
                u = self(tf.concat([x, t], axis=1))
            u_x = inner.gradient(u, x)
        u_t = outer.gradient(u, t)
        u_xx = outer.gradient(u_x, x)
        return u_t - ALPHA * u_xx

    def train_step(self, points):
        with tf.GradientTape() as tape:
            physics = tf.reduce_mean(tf.square(self.residual(points)))
            # u(x, 0) = sin(pi x)
            start = tf.concat([points[:, 0:1], tf.zeros_like(points[:, 0:1])], axis=1)
            initial = tf.reduce_mean(tf.square(self(start) - tf.sin(np.pi * points[:, 0:1])))
            loss = physics + 10.0 * initial
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        self.steps_seen += 1
        if self.steps_seen % 10 == 0:
            print("\nstep %d physics %.4f" % (self.steps_seen, physics.numpy()))  # needs eager
        return {"loss": loss, "physics": physics, "initial": initial}


def main():
    points = np.random.uniform(0, 1, size=(N_COLLOCATION, 2)).astype("float32")
    model = PINN()
    model.compile(optimizer=tf.keras.optimizers.Adam(5e-3), run_eagerly=True)
    model.fit(points, batch_size=50, epochs=1, verbose=2)


main()
