"""One fresh training, as a user would write it: the referee of every claim about safety.

    fresh_training.py MODEL_FILE BATCH_SIZE STEPS

It knows nothing of autobatch. It trains for STEPS steps, the last of them on a smaller batch,
then validates on a whole batch and a smaller one, all through `model.fit`. The caller sets the
device's limit in the environment. Exit 0: the training went through; 3: TensorFlow reported
that memory ran out; anything else: it died in another way. Its last line on stdout is a JSON
object with the seconds that each stage took.
"""

import importlib.util
import json
import sys
import time

started = time.perf_counter()


def load(path):
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(path, batch_size, steps):
    import tensorflow as tf

    stages = {"import": time.perf_counter() - started}
    module = load(path)
    gpus = tf.config.list_physical_devices("GPU")
    strategy = tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = module.build_model()
    samples = module.build_dataset().repeat()
    stages["build"] = time.perf_counter() - started - sum(stages.values())
    partial = max(1, batch_size // 2)
    train = samples.take((steps - 1) * batch_size + partial).batch(batch_size)
    validation = samples.take(batch_size + partial).batch(batch_size)
    try:
        model.fit(train.prefetch(tf.data.AUTOTUNE), validation_data=validation, verbose=0)
    except tf.errors.ResourceExhaustedError as error:
        print(str(error).splitlines()[0][:300], file=sys.stderr)
        sys.exit(3)
    stages["fit"] = time.perf_counter() - started - sum(stages.values())
    print(json.dumps({key: round(value, 2) for key, value in stages.items()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
