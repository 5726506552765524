"""Functions that give no model that can be trained, each in its own way."""

import os
import signal
import sys

import keras


def raises():
    units = {"hidden": 4}
    return keras.layers.Dense(units["output"])


def needs_arguments(units, depth=2):
    return keras.Sequential([keras.Input((8,)), *[keras.layers.Dense(units)] * depth])


def returns_a_number():
    return 42


def has_no_loss():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("adam")
    return model


def exits():
    sys.exit("no GPU, no training")


def dies():
    os.kill(os.getpid(), signal.SIGSEGV)
