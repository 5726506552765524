"""What the user's code sets about GPUs, honoured as far as a probe can, and told.

A script sets its devices up before it builds a model, and autobatch has set them up before. So
TensorFlow's functions are replaced while the user's code runs: memory growth is turned on beside a
limit too, which TensorFlow's own door refuses; one limit is kept as the budget, so that search
trials can look beyond it; several logical devices on one GPU are made as they are asked for. A
`tf.compat.v1.Session` brings the GPUs up for the whole process, as its config says and whatever
`tf.config` does: it is given the same settings.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from autobatch.engine.device import GROWTH_VARIABLE, gpu_options
from autobatch.engine.device_memory import DeviceMemory
from autobatch.errors import ModelError
from autobatch.protocol import DeviceRequest
from autobatch.units import MIB

UNSUPPORTED = {
    "MultiWorkerMirroredStrategy": "does not work with Keras 3's fit in TensorFlow",
    "TPUStrategy": "trains on TPUs, whose memory autobatch cannot read",
    "ParameterServerStrategy": "spreads over several machines, and does not work with Keras 3",
    "CentralStorageStrategy": "keeps variables on one device, and does not work with Keras 3",
}


class DeviceSettings:
    """Takes what the user's code asks of `tf.config`.

    Attributes:
        limit_bytes: The least memory limit that it set on a GPU; None for none.
        refused: Why it cannot be probed, though it may have caught that and gone on.
    """

    def __init__(self, request: DeviceRequest) -> None:
        self._request = request
        self.limit_bytes: int | None = None
        self._takes_a_share = False
        self.refused: ModelError | None = None

    def install(self) -> None:
        """Replace TensorFlow's functions from now on."""
        experimental = tf.config.experimental
        for owner in (tf.config, experimental):
            self._replace(owner, "set_visible_devices", self._visible)
        self._replace(tf.config, "set_logical_device_configuration", self._logical)
        self._replace(experimental, "set_virtual_device_configuration", self._logical)
        self._replace(experimental, "set_memory_growth", self._growth)
        sessions = tf.compat.v1.Session.__bases__[0]  # InteractiveSession has the same
        original = sessions.__init__

        @functools.wraps(original)
        def begin(session: Any, target: Any = "", graph: Any = None, config: Any = None) -> None:
            original(session, target, graph, self._of_a_session(config))

        sessions.__init__ = begin
        for owner in (tf.distribute, tf.distribute.experimental):
            for name, why in UNSUPPORTED.items():
                if hasattr(owner, name):  # the class stays: Keras asks what is an instance of it
                    getattr(owner, name).__init__ = _refusing(self, name, why)

    def limit_of(self, memory: DeviceMemory) -> int | None:
        """Bytes that the user's code lets a training have; None where it sets no limit."""
        share = memory.limit_bytes if self._takes_a_share else None
        return min((each for each in (self.limit_bytes, share) if each), default=None)

    def _of_a_session(self, config: Any) -> Any:
        """The config of a session, its GPU options carried over to the whole process."""
        context = tf.__internal__.eager_context.get_config
        if not isinstance(config, tf.compat.v1.ConfigProto) or self._request.kind == "cpu":
            return config
        asked = config.gpu_options
        if asked.allow_growth:
            for gpu in tf.config.get_visible_devices("GPU"):
                with contextlib.suppress(ValueError, RuntimeError):  # with a limit; or too late
                    tf.config.experimental.set_memory_growth(gpu, True)
        if asked.per_process_gpu_memory_fraction and self._request.limit_bytes is None:
            with contextlib.suppress(ImportError, AttributeError), gpu_options() as options:
                options.per_process_gpu_memory_fraction = asked.per_process_gpu_memory_fraction
                self._takes_a_share = True
        same = tf.compat.v1.ConfigProto()
        same.CopyFrom(config)
        same.gpu_options.CopyFrom(context().gpu_options)
        return same

    def _replace(self, owner: Any, name: str, then: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(devices: Any, *args: Any, **kwargs: Any) -> Any:
            # A device is a named tuple itself.
            several = [devices] if hasattr(devices, "device_type") else devices
            kinds = {getattr(each, "device_type", None) for each in several or ()}
            kinds |= {each for each in (*args, *kwargs.values()) if isinstance(each, str)}
            if "GPU" not in kinds or self._request.kind == "cpu":
                return None if "GPU" in kinds else original(devices, *args, **kwargs)
            return then(original, devices, *args, **kwargs)

        setattr(owner, name, call)

    def _visible(self, original: Callable[..., Any], devices: Any, *args: Any, **kw: Any) -> None:
        if not self._request.indices:  # else --device has the last word
            original(devices, *args, **kw)

    def _growth(self, original: Callable[..., Any], device: Any, enable: bool) -> None:
        if device not in tf.config.get_visible_devices("GPU"):
            return
        if self._request.limit_bytes is None:
            original(device, enable)
        else:  # refused beside a limit, which the allocator itself takes very well
            os.environ.setdefault(GROWTH_VARIABLE, str(bool(enable)).lower())

    def _logical(self, original: Callable[..., Any], device: Any, configurations: Any) -> None:
        if device not in tf.config.get_visible_devices("GPU"):
            return
        asked = [each.memory_limit for each in configurations]
        bytes_asked = [int(limit * MIB) for limit in asked if limit]
        if bytes_asked:
            self.limit_bytes = min([*bytes_asked, self.limit_bytes or bytes_asked[0]])
        ours = self._request.limit_bytes
        if len(asked) == 1 and (ours is None or not bytes_asked):
            return  # the budget then is this limit; the proof is asked to keep it
        cut = [
            tf.config.LogicalDeviceConfiguration(
                memory_limit=min(limit or float("inf"), ours / MIB) if ours else limit
            )
            for limit in asked
        ]
        original(device, cut)


def _refusing(settings: DeviceSettings, name: str, why: str) -> Callable[..., None]:
    """What takes the place of a strategy's `__init__`."""

    def refuse(*_: Any, **__: Any) -> None:
        settings.refused = ModelError(
            f"The script makes a tf.distribute.{name}, which {why}. autobatch sizes batches for "
            "one GPU or for tf.distribute.MirroredStrategy: use that, or probe a function that "
            "returns the model (autobatch probe model.py:build_model --strategy mirrored)."
        )
        raise settings.refused

    return refuse


def refuse_unsupported(strategy: Any) -> None:
    """Refuse what autobatch cannot size batches for.

    Raises:
        ModelError: The strategy is one of those.
    """
    for each in type(strategy).__mro__:
        if each.__name__ in UNSUPPORTED:
            raise ModelError(
                f"The model was built under a tf.distribute.{each.__name__}, which "
                f"{UNSUPPORTED[each.__name__]}. autobatch sizes batches for one GPU or for "
                "tf.distribute.MirroredStrategy."
            )


def make_strategy(request: DeviceRequest) -> Any:
    """The strategy that the request asks for, over its GPUs; None for none."""
    if request.strategy is None:
        return None
    return tf.distribute.MirroredStrategy()
