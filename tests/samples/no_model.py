"""A script that never calls `fit` and holds no model."""

print("nothing to train here")
