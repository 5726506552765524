import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "0"
os.environ["TF_GPU_ALLOCATOR"] = "cuda_malloc_async"
os.environ["XLA_FLAGS"] = ""
os.environ["TF_NUM_INTRAOP_THREADS"] = "2"

import math

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import layers

AUTO = tf.data.AUTOTUNE
IMAGE_SIZE = [64, 64]
EPOCHS = 2
BATCH_SIZE = 20
NUM_TRAINING_IMAGES = 260
NUM_VALIDATION_IMAGES = 60
STEPS_PER_EPOCH = NUM_TRAINING_IMAGES // BATCH_SIZE
VALIDATION_STEPS = math.ceil(NUM_VALIDATION_IMAGES / BATCH_SIZE)

gpus = tf.config.list_physical_devices("GPU")
for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
print("Num GPUs:", len(gpus))


def decode(seed, label):
    image = tf.random.stateless_uniform([*IMAGE_SIZE, 3], seed=tf.stack([seed, label]))
    return image, tf.one_hot(label, 5)


def augment(image, label):
    image = tf.image.random_flip_left_right(image)
    image = tf.image.random_brightness(image, 0.1)
    return image, label


def load(count):
    seeds = np.arange(count, dtype=np.int32)
    ds = tf.data.Dataset.from_tensor_slices((seeds, seeds % 5))
    return ds.map(decode, num_parallel_calls=AUTO)


def get_training_dataset():
    ds = load(NUM_TRAINING_IMAGES)
    ds = ds.map(augment, num_parallel_calls=AUTO)
    ds = ds.repeat()  # must repeat for several epochs
    ds = ds.shuffle(128)
    ds = ds.batch(BATCH_SIZE)
    return ds.prefetch(AUTO)


def get_validation_dataset():
    return load(NUM_VALIDATION_IMAGES).batch(BATCH_SIZE).cache().prefetch(AUTO)


model = keras.Sequential([
    keras.Input(shape=(*IMAGE_SIZE, 3)),
    layers.Conv2D(24, 3, padding="same", activation="relu"),
    layers.MaxPooling2D(),
    layers.Conv2D(48, 3, padding="same", activation="relu"),
    layers.MaxPooling2D(),
    layers.Conv2D(64, 3, padding="same", activation="relu"),
    layers.GlobalAveragePooling2D(),
    layers.Dense(5, activation="softmax"),
])
model.compile(
    optimizer=keras.optimizers.Adam(learning_rate=3e-4),
    loss="categorical_crossentropy",
    metrics=["categorical_accuracy"],
)

lr_decay = keras.callbacks.LearningRateScheduler(lambda epoch: 3e-4 * 0.8**epoch)

model.fit(
    get_training_dataset(),
    steps_per_epoch=STEPS_PER_EPOCH,
    epochs=EPOCHS,
    validation_data=get_validation_dataset(),
    validation_steps=VALIDATION_STEPS,
    class_weight={0: 1.0, 1: 1.2, 2: 0.8, 3: 1.0, 4: 1.0},
    callbacks=[lr_decay],
)
