"""The bench itself: an emulated GPU under real TensorFlow, and real pynvml on its stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from nvml_stand_in.build import Nvml, gpu

from autobatch.units import MIB

HOLD = """
import json, sys
import tensorflow as tf
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context

def limits():
    tf.config.list_logical_devices()
    devices = pywrap_tfe.TFE_ContextListDevices(context.context()._handle)
    names = [pywrap_tfe.TF_DeviceListName(devices, i) for i in range(
        pywrap_tfe.TF_DeviceListCount(devices))]
    return [pywrap_tf_session.TF_DeviceListMemoryBytes(devices, i)
            for i, name in enumerate(names) if "GPU" in name]
"""


def run(program: str, *, tensorflow: bool = True) -> Any:
    """What the program's last line says, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", (HOLD if tensorflow else "import json\n") + program],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.tensorflow
def test_a_training_step_lives_in_the_emulated_gpus_memory(emulated_gpu: Callable) -> None:
    emulated_gpu(256)
    said = run("""
import keras
model = keras.Sequential([keras.Input((5, 8)), keras.layers.LSTM(16), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(tf.zeros((32, 5, 8)), tf.zeros((32, 1)), verbose=0)
try:
    tf.zeros((300, 1 << 20), tf.uint8) + 1
except tf.errors.ResourceExhaustedError as error:
    oom = str(error)
print(json.dumps({
    "jit": model.jit_compile, "limits": limits(), "oom": oom,
    "peak": tf.config.experimental.get_memory_info("GPU:0")["peak"],
}))
""")
    assert said["jit"] is True  # XLA as Keras chooses: a device that is no CPU is there
    assert said["limits"] == [256 * MIB]
    assert 0 < said["peak"] <= 256 * MIB
    assert "GPU_0_bfc" in said["oom"]


@pytest.mark.tensorflow
def test_unequal_gpus_are_hidden_and_ordered_as_cuda_does(emulated_gpu: Callable) -> None:
    emulated_gpu("256,384,512", 3, CUDA_VISIBLE_DEVICES="2,GPU-emulated-0,7,1")
    assert run("print(json.dumps(limits()))") == [512 * MIB, 256 * MIB]


@pytest.mark.tensorflow
def test_neighbours_and_the_emulated_gpu_share_its_memory(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu(512, TF_FORCE_GPU_ALLOW_GROWTH="true")
    nvml.say(gpu(0, 512), f"process pid=1 bytes={128 * MIB} name=/usr/bin/other")
    said = run("""
import os, pynvml
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
tf.zeros(40 << 20, tf.uint8) + 1
print(json.dumps({
    "limits": limits(), "pid": os.getpid(),
    "used": {p.pid: p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(device)},
}))
""")
    assert said["limits"] == [384 * MIB]
    assert said["used"]["1"] == 128 * MIB
    assert 40 * MIB <= said["used"][str(said["pid"])] < 384 * MIB  # it grows as it needs


NVML = """
import pynvml
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
"""


def test_real_pynvml_runs_against_the_stand_in(nvml: Nvml) -> None:
    nvml.say(gpu(0, 512, reserved=MIB), f"process pid=77 bytes={MIB} name=/usr/bin/other")
    program = """
memory = pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2)
try:
    pynvml.nvmlDeviceGetTemperature(device, 0)
except pynvml.NVMLError_NotSupported as error:
    refused = str(error)
print(json.dumps([memory.used, memory.reserved, memory.free, refused,
                  pynvml.nvmlDeviceGetPciInfo(device).busId]))
"""
    used, reserved, free, refused, bus = run(NVML + program, tensorflow=False)
    assert (used, reserved, free) == (MIB, MIB, 510 * MIB)
    assert refused == "Not Supported"
    assert bus == "00000000:01:00.0"


def test_a_driver_that_fails_fails_in_pynvml(nvml: Nvml) -> None:
    nvml.say(gpu(0, 512), "fail call=nvmlDeviceGetMemoryInfo code=15")
    program = """
try:
    pynvml.nvmlDeviceGetMemoryInfo(device)
except pynvml.NVMLError_GpuIsLost as error:
    print(json.dumps(str(error)))
"""
    assert run(NVML + program, tensorflow=False) == "GPU is lost"
