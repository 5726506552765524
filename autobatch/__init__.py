"""autobatch finds the largest safe training batch size of a Keras model, and proves it."""
