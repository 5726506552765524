#!/usr/bin/env python
# coding: utf-8

# # Clothes
# Exported from a notebook, magics and all.

# In[1]:


get_ipython().system('pip install -q --no-index a-package-that-nobody-has')
get_ipython().run_line_magic('load_ext', 'tensorboard')


# In[2]:


import numpy as np
import tensorflow as tf

print(tf.__version__)


# In[3]:


images = np.random.default_rng(0).integers(0, 255, (900, 28, 28), dtype="uint8")
labels = np.random.default_rng(1).integers(0, 10, 900)
images.shape


# In[4]:


get_ipython().run_line_magic('time', 'images = images / 255.0')


# In[5]:


model = tf.keras.Sequential([
    tf.keras.layers.Flatten(input_shape=(28, 28)),
    tf.keras.layers.Dense(64, activation='relu'),
    tf.keras.layers.Dense(10)
])
model.compile(optimizer='adam',
              loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
              metrics=['accuracy'])


# In[6]:


get_ipython().run_cell_magic('time', '', '\nmodel.fit(images, labels, epochs=10, validation_split=0.2)\n')
