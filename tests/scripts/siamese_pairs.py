"""
Title: Image similarity with a Siamese network and a contrastive loss
"""
import math

import numpy as np
import keras
from keras import ops
from keras.layers import AveragePooling2D, BatchNormalization, Conv2D, Dense, Flatten, Input, Lambda

from helpers_shapes import draw_many

epochs = 1
batch_size = 16
margin = 1.0


class PairSequence(keras.utils.PyDataset):
    """Half of the pairs show the same shape, the other half different ones."""

    def __init__(self, images, kinds, pairs, batch_size, seed=0, **kwargs):
        super().__init__(**kwargs)
        rng = np.random.RandomState(seed)
        self.left = rng.randint(len(images), size=pairs)
        self.right = rng.randint(len(images), size=pairs)
        self.images = images
        self.kinds = kinds
        self.batch_size = batch_size

    def __len__(self):
        return math.ceil(len(self.left) / self.batch_size)

    def __getitem__(self, idx):
        low = idx * self.batch_size
        high = min(low + self.batch_size, len(self.left))
        left, right = self.left[low:high], self.right[low:high]
        different = (self.kinds[left] != self.kinds[right]).astype("float32")
        return (self.images[left], self.images[right]), different


def euclidean_distance(vects):
    x, y = vects
    sum_square = ops.sum(ops.square(x - y), axis=1, keepdims=True)
    return ops.sqrt(ops.maximum(sum_square, keras.config.epsilon()))


def loss(margin=1):
    def contrastive_loss(y_true, y_pred):
        square_pred = ops.square(y_pred)
        margin_square = ops.square(ops.maximum(margin - y_pred, 0))
        return ops.mean((1 - y_true) * square_pred + y_true * margin_square)

    return contrastive_loss


images, _, kinds = draw_many(400, size=32)
train = PairSequence(images, kinds, pairs=640, batch_size=batch_size)
valid = PairSequence(images, kinds, pairs=80, batch_size=batch_size, seed=1)

image = Input((32, 32, 1))
x = BatchNormalization()(image)
x = Conv2D(16, (5, 5), activation="tanh")(x)
x = AveragePooling2D(pool_size=(2, 2))(x)
x = Conv2D(32, (5, 5), activation="tanh")(x)
x = AveragePooling2D(pool_size=(2, 2))(x)
x = Flatten()(x)
embedding_network = keras.Model(image, Dense(10, activation="tanh")(x))

input_1, input_2 = Input((32, 32, 1)), Input((32, 32, 1))
towers = [embedding_network(input_1), embedding_network(input_2)]
distance = Lambda(euclidean_distance, output_shape=(1,))(towers)
siamese = keras.Model(inputs=(input_1, input_2), outputs=Dense(1, activation="sigmoid")(distance))
siamese.compile(loss=loss(margin=margin), optimizer="RMSprop", metrics=["accuracy"])

siamese.fit(train, validation_data=valid, epochs=epochs)
