"""This project and the tools people use today, on the very same Keras training steps."""
