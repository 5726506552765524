#!/usr/bin/env python
"""ResNet for small images. SGD with momentum and a piecewise constant learning rate."""
import argparse
import json
import os
import tempfile

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers, regularizers

L2 = 1e-4


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, required=True, help="number of training images")
    parser.add_argument("--depth", type=int, default=8, help="6n+2")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--out", default=None, help="where to write the history")
    return parser.parse_args()


def conv_bn(x, filters, stride=1, relu=True):
    x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False,
                      kernel_initializer="he_normal", kernel_regularizer=regularizers.l2(L2))(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if relu else x


def residual(x, filters, stride):
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(filters, 1, stride, use_bias=False)(x)
    y = conv_bn(conv_bn(x, filters, stride), filters, relu=False)
    return layers.ReLU()(layers.add([shortcut, y]))


def resnet(depth, classes=10):
    inputs = tf.keras.Input((32, 32, 3))
    x = conv_bn(inputs, 8)
    for stage, filters in enumerate((8, 16, 32)):
        for block in range((depth - 2) // 6):
            x = residual(x, filters, 2 if stage > 0 and block == 0 else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def train(args):
    strategy = tf.distribute.get_strategy()
    print("Replicas:", strategy.num_replicas_in_sync)
    global_batch = args.batch_size * strategy.num_replicas_in_sync

    rng = np.random.RandomState(0)
    x = rng.rand(args.images, 32, 32, 3).astype("float32")
    y = tf.keras.utils.to_categorical(rng.randint(0, 10, size=args.images), 10)
    ds = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(args.images)
    ds = ds.map(lambda image, label: (tf.image.random_flip_left_right(image), label))
    ds = ds.batch(global_batch).prefetch(tf.data.AUTOTUNE)

    steps = max(1, args.images // global_batch)
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay(
        [80 * steps, 120 * steps], [args.lr, args.lr / 10, args.lr / 100])
    with strategy.scope():
        model = resnet(args.depth)
        model.compile(tf.keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
                      loss="categorical_crossentropy", metrics=["accuracy"])
    return model.fit(ds, epochs=args.epochs, verbose=2)


if __name__ == "__main__":
    args = parse_args()
    history = train(args)
    out = args.out or os.path.join(tempfile.mkdtemp(), "history.json")
    with open(out, "w") as f:
        json.dump({k: [float(v) for v in vs] for k, vs in history.history.items()}, f)
    print("wrote", os.path.basename(out))
