"""What a worker does between its first request and its end: load once, then trial after trial."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import keras
import tensorflow as tf

from autobatch import worker
from autobatch.engine import (
    device,
    device_settings,
    failures,
    model_source,
    optimizers,
    signature,
    trial,
)
from autobatch.engine.training import Training, strategy_of
from autobatch.errors import ModelError
from autobatch.protocol import Channel, Failed, Prepare, Prepared, RunTrial, Signature, Stage

_READ_AT_IMPORT = ("TF_", "XLA_", "CUDA_", "KERAS_BACKEND")
_HARMLESS = ("TF_CPP_", "TF_USE_LEGACY_KERAS", device.GROWTH_VARIABLE)
_OURS_ON_CPU = ("TF_CPU_", "TF_ENABLE_ONEDNN_OPTS", "CUDA_")

_USERS_OWN = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    tf.errors.InvalidArgumentError,
)


def serve(channel: Channel, request: Prepare) -> NoReturn:
    """Load the target and run trials until the parent closes the channel."""
    _Session(channel, request).run()


class _Session:
    def __init__(self, channel: Channel, request: Prepare) -> None:
        self._channel, self._request = channel, request
        self._phase = "loading"
        self._static = False
        self._traced = False
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
            memory = device.open_memory(self._request.device, strategy_of(training.model))
            self._channel.send(self._prepared(training, memory))
            while (request := self._channel.receive()) is not None:
                assert isinstance(request, RunTrial)
                self._channel.send(self._trial(training, memory, request))
        except BaseException as error:  # noqa: BLE001
            self._channel.send(failures.describe(error, phase=self._phase))
            _leave(1)
        _leave(0)

    def _on_stage(self, stage: str, step: int = 0, steps: int = 0) -> None:
        if stage == "step" and not self._traced:
            self._traced, stage = True, "tracing"
        self._phase = stage
        self._channel.send(Stage(stage=stage, step=step, steps=steps))

    def _prepared(self, training: Training, memory: device.DeviceMemory) -> Prepared:
        if keras.backend.backend() != "tensorflow":
            raise ModelError(
                f"Keras runs on the {keras.backend.backend()!r} back end here; autobatch measures "
                "TensorFlow's memory. Where the model allows it, --backend tensorflow overrides."
            )
        model, batches = training.model, training.batches
        parameters = f", {_count(model)} parameters" if model.built else ""
        return Prepared(
            model=f"{model.name}{parameters}",
            device_name=memory.description,
            limit_bytes=memory.limit_bytes,
            resident_bytes=memory.bytes_in_use() + batches.device_bytes,
            samples=batches.samples,
            script_batch_size=training.script_batch_size,
            fixed_batch_size=training.fixed_batch_size,
            optimizers=optimizers.describe(model),
            jit_compile=bool(getattr(model, "jit_compile", False)),
            environment=self._set_too_late(),
            warnings=(*training.warnings, *batches.warnings),
            prelude_seconds=round(time.perf_counter() - self._started, 3),
            signature=_signature(training),
            replicas=training.replicas,
            user_limit_bytes=self._settings.limit_bytes,
            allocator=device.allocator() if self._request.device.kind == "gpu" else "",
            bus_ids=memory.bus_ids,
        )

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

    def _trial(self, training: Training, memory: device.DeviceMemory, request: RunTrial) -> Any:
        recorder = trial.Recorder(memory, self._on_stage, request, training.batches.held_bytes)
        try:
            return trial.run(training, recorder, request, static=self._static or request.proof)
        except BaseException as error:  # noqa: BLE001
            recorder.abandon()
            training.forget_traces()
            if self._needs_static_shapes(training, error):
                # Its batches have a fixed size in their shape, and the model counts on one.
                self._static = True
                return self._trial(training, memory, request)
            if self._cannot_validate(training, error):
                training.borrows = False
                return self._trial(training, memory, request)
            failed = failures.describe(error, phase=self._phase)
            return _with_steps(failed, recorder, memory)

    def _needs_static_shapes(self, training: Training, error: BaseException) -> bool:
        return training.batches.static and not self._static and isinstance(error, _USERS_OWN)

    def _cannot_validate(self, training: Training, error: BaseException) -> bool:
        """Whether it was our idea alone to validate this model."""
        ours = training.borrows and not training.validation
        return ours and self._phase == "validation" and isinstance(error, _USERS_OWN)


def _signature(training: Training) -> Signature | None:
    """What was loaded; None where the user's own classes do not let one tell."""
    try:
        return signature.of(training)
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


def _with_steps(failed: Failed, recorder: trial.Recorder, memory: device.DeviceMemory) -> Failed:
    import msgspec

    return msgspec.structs.replace(
        failed,
        step_peak_bytes=tuple(recorder.peaks),
        step_seconds=tuple(round(s, 4) for s in recorder.seconds),
        free_bytes=max(0, memory.limit_bytes - memory.bytes_in_use()),
    )


def _count(model: Any) -> str:
    parameters = model.count_params()
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.1f} {name}"
    return str(parameters)
