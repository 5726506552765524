"""Knowledge distillation: a small student learns from the soft answers of a larger teacher."""
import keras
import numpy as np
from keras import layers, ops

# ----- data
rng = np.random.default_rng(11)
x_train = rng.random((1500, 28, 28, 1), dtype="float32")
y_train = rng.integers(0, 10, size=1500)
x_train[np.arange(1500), 2 * y_train, :, 0] += 1.0
x_test, y_test = x_train[-300:], y_train[-300:]


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher = teacher
        self.student = student

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, temperature=3):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = temperature

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        teacher_pred = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            ops.softmax(teacher_pred / self.temperature, axis=1),
            ops.softmax(y_pred / self.temperature, axis=1),
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x):
        return self.student(x)


def convnet(widths, name):
    model = keras.Sequential([keras.Input(shape=(28, 28, 1))], name=name)
    for width in widths:
        model.add(layers.Conv2D(width, (3, 3), strides=(2, 2), padding="same"))
        model.add(layers.LeakyReLU(negative_slope=0.2))
    model.add(layers.Flatten())
    model.add(layers.Dense(10))
    return model


teacher = convnet([64, 96], "teacher")
student = convnet([16, 32], "student")

# 1. the teacher
teacher.compile(
    optimizer=keras.optimizers.Adam(),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=[keras.metrics.SparseCategoricalAccuracy()],
)
teacher.fit(x_train, y_train, batch_size=64, epochs=1)
teacher.evaluate(x_test, y_test)

# 2. the student
distiller = Distiller(student=student, teacher=teacher)
distiller.compile(
    optimizer=keras.optimizers.Adam(3e-4),
    metrics=[keras.metrics.SparseCategoricalAccuracy()],
    student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    distillation_loss_fn=keras.losses.KLDivergence(),
    alpha=0.1,
    temperature=10,
)
distiller.fit(x_train, y_train, batch_size=128, epochs=1)
distiller.evaluate(x_test, y_test)
