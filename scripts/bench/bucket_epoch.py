"""One epoch over data of unequal lengths in one fresh process: buckets, or one batch size.

    bucket_epoch.py MODEL_FILE RESULT_FILE buckets|static STEPS

It trains through `model.fit` on the shuffled data for STEPS steps (0: the whole epoch) after two
that trace. Static batches have the last bucket's size and are padded to their longest sample. Exit
0: it went through; 3: TensorFlow reported that memory ran out. The last line on stdout is a JSON
object: steps, samples, tokens (without padding), seconds.
"""

import json
import sys
import time
from pathlib import Path

import keras
import tensorflow as tf
from fresh_training import load

import autobatch

WARM_UP = 2


class Clock(keras.callbacks.Callback):
    """Times the steps after the first ones."""

    def __init__(self, most):
        super().__init__()
        self.steps, self.most, self.seconds, self.began = 0, most, 0.0, 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps > WARM_UP:
            self.seconds += time.perf_counter() - self.began
        if self.most and self.steps >= WARM_UP + self.most:
            self.model.stop_training = True


def main(path, result_path, how, steps):
    found = autobatch.BucketResult.from_json(Path(result_path).read_text())
    module = load(path)
    model = module.build_model()
    samples = module.build_dataset().shuffle(module.SAMPLES, seed=1)
    if how == "buckets":
        data = autobatch.bucket_by_sequence_length(samples, found)
    else:
        data = samples.padded_batch(found.batch_sizes[-1])
    seen = []

    def count(x, y):
        seen.append((int(x.shape[0]), int(tf.math.count_nonzero(x))))
        return x.shape[0]

    def counted(x, y):
        with tf.control_dependencies([tf.py_function(count, [x, y], tf.int32)]):
            return tf.identity(x), y

    shapes = data.element_spec
    data = data.map(counted).map(lambda x, y: (tf.ensure_shape(x, shapes[0].shape), y))
    clock = Clock(steps)
    try:
        model.fit(data, epochs=1, verbose=0, callbacks=[clock])
    except tf.errors.ResourceExhaustedError as error:
        print(str(error).splitlines()[0][:300], file=sys.stderr)
        sys.exit(3)
    trained = seen[WARM_UP : clock.steps]
    print(
        json.dumps(
            {
                "steps": len(trained),
                "samples": sum(samples for samples, _ in trained),
                "tokens": sum(tokens for _, tokens in trained),
                "seconds": round(clock.seconds, 2),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
