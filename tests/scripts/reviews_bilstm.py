import numpy as np
import tensorflow as tf

BUFFER_SIZE = 2000
BATCH_SIZE = 48
VOCAB_SIZE = 500
MAX_LEN = 60

good = "great wonderful loved brilliant touching funny superb fresh".split()
bad = "awful boring hated dull wooden clumsy terrible stale".split()
filler = "the a film movie plot actor scene it was and then with some very ending music".split()


def make_reviews(n, seed):
    rng = np.random.RandomState(seed)
    texts, labels = [], []
    for _ in range(n):
        label = rng.randint(2)
        words = list(rng.choice(filler, size=rng.randint(10, 60)))
        words += list(rng.choice(good if label else bad, size=3))
        rng.shuffle(words)
        texts.append(" ".join(words).capitalize() + ".")
        labels.append(label)
    return tf.data.Dataset.from_tensor_slices((texts, np.array(labels)))


train_dataset = make_reviews(1000, seed=1)
test_dataset = make_reviews(200, seed=2)

for example, label in train_dataset.take(1):
    print("text: ", example.numpy())
    print("label: ", label.numpy())

train_dataset = train_dataset.shuffle(BUFFER_SIZE).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
test_dataset = test_dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)

encoder = tf.keras.layers.TextVectorization(max_tokens=VOCAB_SIZE, output_sequence_length=MAX_LEN)
encoder.adapt(train_dataset.map(lambda text, label: text))
print("vocabulary:", encoder.get_vocabulary()[:10])

# raw strings go in; the model is only built when fit sees them
model = tf.keras.Sequential([
    encoder,
    tf.keras.layers.Embedding(len(encoder.get_vocabulary()), 64, mask_zero=True),
    tf.keras.layers.Bidirectional(tf.keras.layers.LSTM(64)),
    tf.keras.layers.Dense(64, activation="relu"),
    tf.keras.layers.Dense(1),
])
model.compile(
    loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
    optimizer=tf.keras.optimizers.Adam(1e-4),
    metrics=["accuracy"],
)
history = model.fit(train_dataset, epochs=1, validation_data=test_dataset, validation_steps=3)

test_loss, test_acc = model.evaluate(test_dataset, verbose=0)
print("Test Loss:", test_loss)
print("Test Accuracy:", test_acc)
