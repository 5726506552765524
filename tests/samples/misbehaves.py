"""A small model that misbehaves in its own way from batch size 37 on.

`MISBEHAVES` says how. The steps run as plain Python, so that they know their batch size.
"""

import collections
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

WAY = os.environ.get("MISBEHAVES", "")
SCRATCH = Path(os.environ.get("MISBEHAVES_SCRATCH", "."))
FROM = 37
MIB = 1 << 20
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(3600)"
FAMILY = f"""
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
print(os.getpid(), flush=True)
{DEAF.replace("; ", chr(10))}
"""
kept = []


def memory(mib):
    """A tensor of this size on the device."""
    return tf.zeros((mib * MIB,), tf.int8) + tf.cast(1, tf.int8)


def die_of(sign):
    ctypes.CDLL(None).prctl(4, 0)  # no core file
    os.kill(os.getpid(), sign)
    time.sleep(60)


def sleep(*_):
    time.sleep(3600)


def loop(*_):
    """In C, holding the interpreter's lock: no handler and no thread runs ever again."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    collections.deque(itertools.repeat(0), maxlen=0)


def fork(*_):
    """The fork has both ends of the worker's pipes that the worker has."""
    if os.fork():
        die_of(signal.SIGKILL)
    time.sleep(3600)


def spawn(*_):
    """A child with a session of its own, no environment and no parent, deaf to SIGTERM."""
    child = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, env={}, text=True
    )
    (SCRATCH / "escaped").write_text(child.stdout.readline())
    child.stdout.readline()
    sleep()


def flood(step):
    block = b"x" * (MIB - 1) + b"\n"
    for _ in range(100 if step == 1 else 0):
        os.write(1, block)


def close_stderr(*_):
    sys.stderr.close()
    os.closerange(1, 3)


def value_error(*_):
    raise ValueError("the moon is in the wrong house")


def slower(step):
    time.sleep(1.5 * 4**step)


def leak(step):
    kept.append(memory(10))


def third_step(step):
    if step == 3:
        memory(160)


def flaky(step):
    """Passes once, and never again."""
    mark = SCRATCH / "once"
    if step == 1 and mark.exists():
        die_of(signal.SIGKILL)
    if step == 3:
        mark.touch()


WAYS = {
    "segfault": lambda _: die_of(signal.SIGSEGV),
    "abort": lambda _: os.abort(),
    "kill": lambda _: die_of(signal.SIGKILL),
    "sys.exit": lambda _: sys.exit(3),
    "os._exit": lambda _: os._exit(0),
    "sleep": sleep,
    "C loop": loop,
    "fork": fork,
    "spawn": spawn,
    "flood": flood,
    "closed stderr": close_stderr,
    "ValueError": value_error,
    "slower": slower,
    "leak": leak,
    "third step": third_step,
    "validation": lambda _: None,
    "one size": lambda _: None,
    "flaky": flaky,
    "channel": lambda _: [os.write(fd, b"Traceback (most recent") for fd in pipes()],
}


def pipes():
    """The pipes that this process may write to, but for its output."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                os.set_blocking(int(name), os.get_blocking(int(name)))
                os.write(int(name), b"")
                yield int(name)
        except OSError:
            continue


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(4)
        self.step, self.size = 0, 0

    def call(self, x):
        return self.layer(x)

    def train_step(self, data):
        size = len(data[0])
        self.step = self.step + 1 if size == self.size else 1
        self.size = size
        if size >= FROM:
            if WAY in ("C loop", "spawn"):
                print("misbehaving now", flush=True)
            WAYS[WAY](self.step)
        if WAY == "one size" and size == FROM - 1:
            die_of(signal.SIGSEGV)
        return super().train_step(data)

    def test_step(self, data):
        if WAY == "validation" and len(data[0]) >= FROM:
            memory(160)
        return super().test_step(data)


def build_model():
    (Path(os.environ.get("TMPDIR", "/tmp")) / "left-by-the-user").write_text("here")
    model = Model()
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def build_dataset():
    return np.zeros((256, 4), "float32"), np.zeros((256, 4), "float32")
