"""A script that wants an argument and ends without it."""

import argparse

import keras

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.parse_args()

model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
