"""What a worker does between its first request and its end: load once, then trial after trial."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from autobatch import worker
from autobatch.engine import (
    accumulation,
    device,
    device_settings,
    failures,
    inventory,
    model_source,
    sequences,
    signature,
)
from autobatch.engine.device_memory import DeviceMemory
from autobatch.engine.runner import Runner
from autobatch.engine.training import Training, strategy_of
from autobatch.protocol import Channel, Prepare, RunTrial, Signature, Stage

_READ_AT_IMPORT = ("TF_", "XLA_", "CUDA_", "KERAS_BACKEND")
_HARMLESS = ("TF_CPP_", "TF_USE_LEGACY_KERAS", device.GROWTH_VARIABLE)
_OURS_ON_CPU = ("TF_CPU_", "TF_ENABLE_ONEDNN_OPTS", "CUDA_")


def serve(channel: Channel, request: Prepare) -> NoReturn:
    """Load the target and run trials until the parent closes the channel."""
    _Session(channel, request).run()


class _Session:
    def __init__(self, channel: Channel, request: Prepare) -> None:
        self._channel, self._request = channel, request
        self._phase = "loading"
        self._started = time.perf_counter()
        self._environment = dict(os.environ)
        self._settings = device_settings.DeviceSettings(request.device)

    def run(self) -> NoReturn:
        try:
            device.configure(self._request.device)
            strategy = device_settings.make_strategy(self._request.device)
            # Never left: trials run inside of it, as a script's own `fit` may.
            with strategy.scope() if strategy is not None else contextlib.nullcontext():
                training = model_source.load(
                    self._request,
                    settings=self._settings,
                    on_fit=self.train,
                    on_stage=self._on_stage,
                )
                self.train(lambda: training)
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            self._channel.send(failures.describe(error, phase=self._phase))
        _leave(1)

    def train(self, read: Callable[[], Training]) -> NoReturn:
        """Say what there is, then run the trials that are asked for. Never returns."""
        self._phase = "building"
        try:
            if self._settings.refused is not None:
                raise self._settings.refused
            training = read()
            if self._request.sequences is not None:
                training.rows = sequences.read(training, self._request.sequences)
            memory = device.open_memory(self._request.device, strategy_of(training.model))
            prepared = inventory.prepared(
                training,
                memory,
                environment=self._set_too_late(),
                prelude_seconds=time.perf_counter() - self._started,
                signature=_signature(training, memory),
                user_limit_bytes=self._settings.limit_of(memory),
            )
            self._channel.send(prepared)
            if self._request.accumulates:
                accumulation.set_steps(training.model, accumulation.TRIAL_STEPS)
            runner = Runner(training, memory, self._on_stage)
            while (request := self._channel.receive()) is not None:
                assert isinstance(request, RunTrial)
                self._channel.send(runner.run(request))
        except BaseException as error:  # noqa: BLE001
            self._channel.send(failures.describe(error, phase=self._phase))
            _leave(1)
        _leave(0)

    def _on_stage(self, stage: str, step: int = 0, steps: int = 0) -> None:
        self._phase = stage
        self._channel.send(Stage(stage=stage, step=step, steps=steps))

    def _set_too_late(self) -> dict[str, str]:
        """Variables that the user's code set, but TensorFlow or Keras had read before."""
        spared = _HARMLESS + (_OURS_ON_CPU if self._request.device.kind == "cpu" else ())
        return {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_READ_AT_IMPORT)
            and not name.startswith(spared)
            and self._environment.get(name) != value
        }


def _signature(training: Training, memory: DeviceMemory) -> Signature | None:
    """What was loaded; None where the user's own classes do not let one tell."""
    try:
        return signature.of(training, memory.bus_ids)
    except Exception:  # noqa: BLE001 - what their properties raise must not end the probe
        traceback.print_exc()
        return None


def _leave(status: int) -> NoReturn:
    """End the process, but not without removing the temporary folders of the user's script.

    They go when Python ends, which this process does not live to see.
    """
    for each in gc.get_objects():
        if type(each) is tempfile.TemporaryDirectory:
            with contextlib.suppress(Exception):
                each.cleanup()
    worker.leave(status)
