"""
Transfer learning and fine-tuning: cats against dogs.

First only the new head is trained on top of the frozen base, then the whole network with a
small learning rate.
"""
import numpy as np
import tensorflow as tf
from tensorflow import keras

size = (64, 64)
batch_size = 36

rng = np.random.RandomState(10)
images = rng.randint(0, 255, size=(600, 80, 80, 3)).astype("uint8")
labels = rng.randint(0, 2, size=600)

full_ds = tf.data.Dataset.from_tensor_slices((images, labels))
train_ds, validation_ds = full_ds.take(480), full_ds.skip(480)

train_ds = train_ds.map(lambda x, y: (tf.image.resize(x, size), y))
validation_ds = validation_ds.map(lambda x, y: (tf.image.resize(x, size), y))
train_ds = train_ds.cache().batch(batch_size).prefetch(buffer_size=10)
validation_ds = validation_ds.cache().batch(batch_size).prefetch(buffer_size=10)


def conv_block(x, filters):
    x = keras.layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("relu")(x)
    return keras.layers.MaxPooling2D()(x)


# would be Xception(weights="imagenet", include_top=False) with a network connection
base_input = keras.Input(shape=size + (3,))
x = base_input
for filters in (16, 32, 64, 128):
    x = conv_block(x, filters)
base_model = keras.Model(base_input, x, name="base")
base_model.trainable = False

augmentation = keras.Sequential(
    [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]
)

inputs = keras.Input(shape=size + (3,))
x = augmentation(inputs)
x = keras.layers.Rescaling(scale=1 / 127.5, offset=-1)(x)
x = base_model(x, training=False)  # keep batch norm in inference mode
x = keras.layers.GlobalAveragePooling2D()(x)
x = keras.layers.Dropout(0.2)(x)
outputs = keras.layers.Dense(1)(x)
model = keras.Model(inputs, outputs)

model.compile(
    optimizer=keras.optimizers.Adam(),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    metrics=[keras.metrics.BinaryAccuracy()],
)
print("Fitting the top layer of the model")
model.fit(train_ds, epochs=1, validation_data=validation_ds)

base_model.trainable = True
model.compile(
    optimizer=keras.optimizers.Adam(1e-5),  # low learning rate
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    metrics=[keras.metrics.BinaryAccuracy()],
)
print("Fitting the end-to-end model")
model.fit(train_ds, epochs=1, validation_data=validation_ds)
