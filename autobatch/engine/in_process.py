"""Trials in this very process, which holds the device and is to train afterwards.

TensorFlow gives a GPU's memory back only when a process ends, so beside a process that holds it no
worker gets in. What trials change here is the caller's to put back (`snapshot.as_before`); what
they must not do is run out of memory, so the search asks only for sizes that are sure to fit.
"""

from __future__ import annotations

import gc
import platform
import sys
from typing import Any

import keras
import tensorflow as tf

from autobatch import endings
from autobatch.endings import Ending
from autobatch.engine import device, inventory, replay
from autobatch.engine.device_memory import DeviceMemory
from autobatch.engine.runner import Runner
from autobatch.engine.training import Training, strategy_of
from autobatch.errors import DeviceError
from autobatch.events import Observer, WorkerStage
from autobatch.options import ProbeOptions
from autobatch.protocol import DeviceRequest, Failed, RunTrial, TrialDone
from autobatch.records import Device, Trial
from autobatch.units import parse_bytes

HERE = "here"  # what observers are told in place of a worker's name


class InProcess:
    """Runs the trials of a search in this process.

    Args:
        training: What to train.
        options: Those of the search.
        observer: Told what begins.

    Raises:
        DeviceError: The allocator of the device gives no statistics.
    """

    def __init__(self, training: Training, options: ProbeOptions, observer: Observer) -> None:
        self._options, self._observe = options, observer
        self._memory = open_memory(strategy_of(training.model))
        self._runner = Runner(training, self._memory, self._on_stage)
        self._size: int | None = None
        self._step = 0  # that has begun, of the present trial
        self._passed = 0  # the largest extent of a trial that ran well
        self.failed: Failed | None = None
        self.not_a_number = False
        self.versions = {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        }
        self.prepared = inventory.prepared(training, self._memory)
        limit = self._memory.limit_bytes
        asked = options.memory_limit
        budget = min(parse_bytes(asked, "memory_limit"), limit) if asked else limit
        kind = self._memory.name.partition(":")[0].lower()
        self.device = Device(
            name=self._memory.description,
            kind=kind,
            index=0 if kind == "gpu" else None,
            limit_bytes=limit,
            budget_bytes=budget,
            replicas=training.replicas,
            allocator=self.prepared.allocator,
            memory_read_from="nvml" if self.prepared.coarse else "allocator",
        )

    def measure(
        self,
        batch_size: int,
        *,
        steps: int,
        trace: bool,
        trace_steps: int = 0,
        enough_bytes: int | None,
        sequence_length: int | None = None,
    ) -> Trial:
        """Run a search trial."""
        request = RunTrial(
            batch_size=batch_size,
            steps=steps,
            trace=trace,
            trace_steps=trace_steps,
            careful=True,
            enough_bytes=enough_bytes,
            limit_bytes=self.device.budget_bytes,
            sequence_length=sequence_length,
        )
        return self._run(request).trial

    def prove(
        self, batch_size: int, *, enough_bytes: int, beyond: int | None, trace_steps: int = 0
    ) -> tuple[Trial, TrialDone | None]:
        """Run a proof: in this process, since this is the one that will train."""
        assert beyond is None, "memory must not run out here"
        request = RunTrial(
            batch_size=batch_size,
            steps=self._options.proof_steps,
            validation=self._options.validation,
            proof=True,
            trace=True,
            trace_steps=trace_steps,
            enough_bytes=enough_bytes,
            limit_bytes=self.device.budget_bytes,
        )
        ending = self._run(request)
        return ending.trial, ending.done

    def prove_shapes(
        self, shapes: tuple[tuple[int, int], ...], *, limit_bytes: int | None
    ) -> Ending:
        """Run a proof of batches of several sizes and lengths, one step each."""
        request = RunTrial.of_shapes(
            shapes, validation=self._options.validation, limit_bytes=limit_bytes
        )
        return self._run(request).within(self.device.budget_bytes)

    def _run(self, request: RunTrial) -> Ending:
        self._size, self._step = request.batch_size, 0
        answer = self._runner.run(request)
        gc.collect()
        if isinstance(answer, TrialDone):
            self.not_a_number |= answer.not_a_number
            self._passed = max(self._passed, request.extent)
            return Ending(answer.as_trial(request), answer, reusable=True)
        self.failed = answer
        end = endings.End(
            phase=answer.phase,
            device=self.device.kind,
            failed=answer,
            smaller_size_passed=0 < self._passed < request.extent,
        )
        trial = endings.ended(request, end)
        if trial.outcome not in endings.MEMORY and (fault := endings.device_fault(end)):
            raise fault
        return Ending(trial, answer, reusable=True, step=self._step)

    def _on_stage(self, stage: str, step: int, steps: int) -> None:
        self._step = step or self._step
        self._observe(WorkerStage(HERE, stage, step, steps, self._size))


def open_memory(strategy: Any = None) -> DeviceMemory:
    """The allocators of the devices that this process trains on.

    Args:
        strategy: The `tf.distribute` strategy of the model, where it has one.

    Raises:
        DeviceError: It is the CPU's usual one, which gives no statistics.
    """
    gpu = bool(tf.config.get_visible_devices("GPU"))
    if not gpu and not on_emulated_device():
        raise DeviceError(
            "Trials in this process need an allocator that tells its peak, which a GPU's does and "
            "the CPU's usual one does not. Leave isolation at 'auto' or 'worker'; or have the CPU "
            "use the GPU's allocator: set TF_CPU_ALLOCATOR_USE_BFC=true, "
            "TF_CPU_BFC_MEM_LIMIT_IN_MB and TF_ENABLE_ONEDNN_OPTS=0 before TensorFlow is imported."
        )
    return device.open_memory(DeviceRequest(kind="gpu" if gpu else "cpu"), strategy)


def on_emulated_device() -> bool:
    """Whether the CPU of this process has a GPU's allocator, with a limit."""
    return device.emulated_limit() is not None


def holds_a_gpu() -> bool:
    """Whether this process has taken the memory of a GPU, so that no worker can have it."""
    if not tf.config.get_visible_devices("GPU"):
        return False
    context: Any = sys.modules.get("tensorflow.python.eager.context")
    try:
        return bool(context.context()._initialized)
    except AttributeError:  # a private name: then it surely did, to build a model
        return True


def budget_beside(model: Any) -> int | None:
    """Bytes of the emulated device that a training of `model` may use; None on any other.

    What lies there besides the model, such as data, is not the training's to use.
    """
    limit = device.emulated_limit()
    if limit is None:
        return None
    in_use = int(tf.config.experimental.get_memory_info("CPU:0")["current"])
    return limit - max(0, in_use - replay.variable_bytes(model))
