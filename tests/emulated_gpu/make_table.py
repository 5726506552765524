"""Writes gpu_kernels.pb: the KernelDefs that a CUDA build of TensorFlow registers for "GPU".

Needs no GPU: unpack the wheel `tensorflow` (not -cpu) of the same version somewhere and run
    PYTHONPATH=<unpacked wheel> python make_table.py
"""

import os

from tensorflow.core.framework import kernel_def_pb2
from tensorflow.python.framework import kernels

every = kernels.get_all_registered_kernels().kernel
table = kernel_def_pb2.KernelList(kernel=[k for k in every if k.device_type == "GPU"])
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu_kernels.pb")
with open(path, "wb") as f:
    f.write(table.SerializeToString(deterministic=True))
print(len(table.kernel), "kernels of", len({k.op for k in table.kernel}), "ops ->", path)
