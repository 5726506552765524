"""Put on PYTHONPATH of a process with an emulated GPU: makes Keras choose its own LSTM and GRU.

cuDNN's recurrent ops have no kernel on the emulated GPU. Keras asks two functions of its TensorFlow
back end whether cuDNN can do a layer; here they say no, as if every layer had `use_cudnn=False`.
"""

import importlib.abc
import importlib.util
import os
import sys

_MODULE = "keras.src.backend.tensorflow.rnn"
_ASKED = ("_do_lstm_arguments_support_cudnn", "_do_gru_arguments_support_cudnn")


class _NoCudnn(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(_MODULE)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            for name in _ASKED:
                assert hasattr(module, name), f"{_MODULE} has no {name} any more"
                setattr(module, name, lambda *_, **__: False)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", "").endswith("libemulated_gpu.so"):
    sys.meta_path.insert(0, _NoCudnn())
