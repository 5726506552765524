"""Stands in for the legacy package: as much of it as a refusal needs."""


class Model:
    """A Keras 2 model."""

    def fit(self, *args, **kwargs):
        raise AssertionError("the legacy fit may not run")
