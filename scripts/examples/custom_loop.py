"""A training loop of one's own, around a GradientTape, sized by `autobatch.search`.

    python scripts/examples/custom_loop.py              # trials in this process
    python scripts/examples/custom_loop.py --isolated   # trials in workers, which may die

`try_batch` trains a few steps and returns TensorFlow's own count of the most bytes in use: so the
search foresees the limit instead of running into it. Where there is no GPU, the CPU stands behind
the allocator that serves GPUs.
"""

import os
import sys

MEMORY_LIMIT = "256MiB"

if "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"] == "-1":
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", "1024")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import autobatch  # noqa: E402 - TensorFlow reads those when it is imported


def build():
    """A small classifier, and a compiled step that trains it."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)
    def step(images, classes):
        with tf.GradientTape() as tape:
            loss = loss_of(classes, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step


def batch(batch_size):
    """Made-up images and their classes."""
    import tensorflow as tf

    return tf.random.uniform((batch_size, 32, 32, 3)), tf.zeros((batch_size,), tf.int32)


def try_batch(batch_size):
    """Train three steps; returns the most bytes that were in use."""
    import tensorflow as tf

    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    tf.config.experimental.reset_memory_stats(device)
    step = build()
    for _ in range(3):
        step(*batch(batch_size))
    return tf.config.experimental.get_memory_info(device)["peak"]


if __name__ == "__main__":
    result = autobatch.search(
        try_batch,
        max_batch_size=65536,
        memory_limit=MEMORY_LIMIT,
        isolated="--isolated" in sys.argv,
    )
    for trial in result.trials:
        print(trial.batch_size, trial.outcome, f"{(trial.peak_bytes or 0) >> 20} MiB")
    print(f"batch size {result.batch_size}, limited by {result.limited_by.kind}")
    print(f"  {result.limited_by.evidence}")
    loss = build()(*batch(result.batch_size))
    print(f"trained at {result.batch_size}, loss {float(loss):.3f}")
