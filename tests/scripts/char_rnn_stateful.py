#!/usr/bin/env python3
"""Character level language model with a stateful LSTM (state carries over from batch to batch)."""
import numpy as np
from tensorflow.keras.layers import LSTM, Dense, Embedding, Input
from tensorflow.keras.models import Sequential

BATCH = 16
SEQ_LEN = 40
EPOCHS = 2

text = (
    "it was a bright cold day in the office and the tests were failing. "
    "nobody knew why, and the one who had written them was on holiday. "
) * 160
chars = sorted(set(text))
char_to_id = {c: i for i, c in enumerate(chars)}
ids = np.array([char_to_id[c] for c in text], dtype=np.int32)
print("corpus length:", len(ids), "vocabulary:", len(chars))

# Row i of batch k+1 has to continue row i of batch k
per_stream = (len(ids) - 1) // BATCH
n_batches = per_stream // SEQ_LEN
usable = BATCH * n_batches * SEQ_LEN
x = ids[:usable].reshape(BATCH, n_batches, SEQ_LEN).swapaxes(0, 1).reshape(-1, SEQ_LEN)
y = ids[1 : usable + 1].reshape(BATCH, n_batches, SEQ_LEN).swapaxes(0, 1).reshape(-1, SEQ_LEN)
print("x:", x.shape, "y:", y.shape)

model = Sequential()
model.add(Input(batch_shape=(BATCH, SEQ_LEN), dtype="int32"))
model.add(Embedding(len(chars), 32))
model.add(LSTM(128, return_sequences=True, stateful=True, name="memory"))
model.add(Dense(len(chars), activation="softmax"))
model.compile(loss="sparse_categorical_crossentropy", optimizer="rmsprop")

for epoch in range(EPOCHS):
    print("Epoch", epoch + 1)
    model.fit(x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=2)
    model.get_layer("memory").reset_states()
