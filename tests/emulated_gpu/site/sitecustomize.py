"""Put on PYTHONPATH of a process with an emulated GPU: makes Keras choose its own LSTM and GRU.

cuDNN's recurrent ops have no kernel on the emulated GPU. Keras asks two functions of its TensorFlow
back end whether cuDNN can do a layer; here they say no, as if every layer had `use_cudnn=False`.
With EMULATED_GPU_XLA=0, Keras's `jit_compile="auto"` also finds that no model can be compiled.
"""

import importlib.abc
import importlib.util
import os
import sys

_CUDNN = ("_do_lstm_arguments_support_cudnn", "_do_gru_arguments_support_cudnn")
_ASKED = {"keras.src.backend.tensorflow.rnn": _CUDNN}
if os.environ.get("EMULATED_GPU_XLA") == "0":
    _ASKED["keras.src.trainers.trainer"] = ("model_supports_jit",)


class _SaysNo(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        asked = _ASKED.pop(fullname, None)
        if asked is None:
            return None
        spec = importlib.util.find_spec(fullname)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            for name in asked:
                assert hasattr(module, name), f"{fullname} has no {name} any more"
                setattr(module, name, lambda *_, **__: False)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", "").endswith("libemulated_gpu.so"):
    sys.meta_path.insert(0, _SaysNo())
