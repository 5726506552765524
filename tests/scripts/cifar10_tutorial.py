# -*- coding: utf-8 -*-
# Convolutional network on CIFAR sized images, following the usual tutorial.
import os

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers, models

# 50000 is the real thing; CIFAR_ROWS=50000 python cifar10_tutorial.py
ROWS = int(os.environ.get("CIFAR_ROWS", 1280))

class_names = ['airplane', 'automobile', 'bird', 'cat', 'deer',
               'dog', 'frog', 'horse', 'ship', 'truck']

rng = np.random.RandomState(0)
train_images = rng.randint(0, 256, size=(ROWS, 32, 32, 3)).astype(np.uint8)
train_labels = rng.randint(0, 10, size=(ROWS, 1))
test_images = rng.randint(0, 256, size=(ROWS // 5, 32, 32, 3)).astype(np.uint8)
test_labels = rng.randint(0, 10, size=(ROWS // 5, 1))

# Normalize pixel values to be between 0 and 1
train_images, test_images = train_images / 255.0, test_images / 255.0
print(train_images.shape, train_images.dtype, '%.1f MB' % (train_images.nbytes / 1e6))

model = models.Sequential()
model.add(layers.Conv2D(32, (3, 3), activation='relu', input_shape=(32, 32, 3)))
model.add(layers.MaxPooling2D((2, 2)))
model.add(layers.Conv2D(64, (3, 3), activation='relu'))
model.add(layers.MaxPooling2D((2, 2)))
model.add(layers.Conv2D(64, (3, 3), activation='relu'))
model.add(layers.Flatten())
model.add(layers.Dense(64, activation='relu'))
model.add(layers.Dense(10))
model.summary()

model.compile(optimizer='adam',
              loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
              metrics=['accuracy'])

history = model.fit(train_images, train_labels, epochs=1,
                    validation_data=(test_images, test_labels))

test_loss, test_acc = model.evaluate(test_images, test_labels, verbose=2)
print(test_acc)
print(class_names[int(np.argmax(model.predict(test_images[:1], verbose=0)))])
