"""A search for a live model: in workers, or in the process that holds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import tensorflow as tf

from autobatch import bucket_probing, bucket_searching, learning_rate, probing, searching
from autobatch.bucket_options import BucketOptions
from autobatch.bucket_records import BucketResult
from autobatch.engine import (
    accumulation,
    device_settings,
    in_process,
    optimizers,
    sequences,
    snapshot,
    training,
)
from autobatch.errors import DeviceError, ModelError, UsageError
from autobatch.events import Notice, Observer
from autobatch.length_buckets import Lengths
from autobatch.options import ProbeOptions
from autobatch.protocol import SequenceRequest
from autobatch.records import ProbeResult
from autobatch.targets import LiveTraining
from autobatch.units import parse_bytes

ISOLATIONS = ("auto", "worker", "process")
Answer = TypeVar("Answer", ProbeResult, BucketResult)


def search(
    model: Any,
    sample: Any,
    options: ProbeOptions,
    *,
    samples: int | None,
    batch_size: int | None,
    isolation: str,
    recover: bool,
    observer: Observer,
) -> ProbeResult:
    """The largest safe batch size of a live model, which is afterwards what it was.

    Args:
        model: A compiled and built Keras model.
        sample: Some rows of its data.
        options: How to search.
        samples: Rows in an epoch; None where unknown.
        batch_size: The data's own; None where it has none.
        isolation: One of ISOLATIONS.
        recover: The training is to go on in micro-batches where memory runs out.
        observer: Told each event as it happens.

    Raises:
        AutobatchError: As `autobatch.probe`.
    """
    device_settings.refuse_unsupported(model.distribute_strategy)
    live = LiveTraining(model, sample, samples=samples, batch_size=batch_size, keeps=recover)
    return _search_somewhere(
        lambda: _search_here(live, options, observer),
        lambda: _for_replicas(_search_in_workers(live, options, observer), model, options),
        model=model,
        options=options,
        isolation=isolation,
        observer=observer,
    )


def search_buckets(
    model: Any,
    sample: Any,
    options: ProbeOptions,
    wanted: BucketOptions,
    *,
    lengths: Lengths | None,
    isolation: str,
    recover: bool,
    observer: Observer,
) -> BucketResult:
    """The same for buckets of sequence lengths.

    Args:
        model, sample, options, isolation, recover, observer: As for `search`.
        wanted: Which buckets.
        lengths: Of all samples; None where unknown.

    Raises:
        UsageError: The model has several replicas.
        AutobatchError: As `autobatch.probe_buckets`.
    """
    if replicas(model) > 1:
        raise UsageError(
            f"bucket_boundaries and a strategy of {replicas(model)} replicas do not go together. "
            "Train on one device, or find the sizes beforehand with autobatch.probe_buckets and "
            "batch with autobatch.bucket_by_sequence_length."
        )
    live = LiveTraining(
        model, sample, samples=None, batch_size=None, lengths=lengths, keeps=recover
    )
    return _search_somewhere(
        lambda: _search_buckets_here(live, options, wanted, observer),
        lambda: _search_buckets_in_workers(live, options, wanted, observer),
        model=model,
        options=options,
        isolation=isolation,
        observer=observer,
    )


def replicas(model: Any) -> int:
    """Copies of the model that its strategy trains side by side."""
    return int(model.distribute_strategy.num_replicas_in_sync)


def _search_somewhere(
    here: Callable[[], Answer],
    in_workers: Callable[[], Answer],
    *,
    model: Any,
    options: ProbeOptions,
    isolation: str,
    observer: Observer,
) -> Answer:
    """What a search in workers gives, or where they cannot have the device or the model, one in
    this process."""
    with snapshot.random_numbers_as_before():
        if _in_process(model, options, isolation):
            return here()
        try:
            return in_workers()
        except ModelError as error:
            if "cannot be sent to a worker" not in error.message:
                raise
            if isolation != "auto" or not in_process.on_emulated_device():
                raise _unsendable(error) from error
            observer(Notice(f"{error.message} Trials run in this process instead."))
            return here()


def _search_here(live: LiveTraining, options: ProbeOptions, observer: Observer) -> ProbeResult:
    with snapshot.as_before(live.model):
        here = in_process.InProcess(_training(live), options, observer)
        if options.target_batch_size is not None:
            accumulation.set_steps(live.model, accumulation.TRIAL_STEPS)
        return searching.search_here(here, options, observer=observer)


def _search_buckets_here(
    live: LiveTraining, options: ProbeOptions, wanted: BucketOptions, observer: Observer
) -> BucketResult:
    with snapshot.as_before(live.model):
        trained = _training(live)
        trained.rows = sequences.read(
            trained, SequenceRequest(max_length=wanted.max_length, inputs=wanted.sequence_input)
        )
        here = in_process.InProcess(trained, options, observer)
        return bucket_searching.search_buckets_here(here, options, wanted, observer=observer)


def _training(live: LiveTraining) -> training.Training:
    return training.from_sample(
        live.model,
        live.sample,
        samples=live.samples,
        batch_size=live.batch_size,
        lengths=live.lengths,
        keeps=live.keeps,
    )


def _search_in_workers(
    live: LiveTraining, options: ProbeOptions, observer: Observer
) -> ProbeResult:
    return probing.probe(live, observer=observer, **_of_workers(live.model, options))


def _search_buckets_in_workers(
    live: LiveTraining, options: ProbeOptions, wanted: BucketOptions, observer: Observer
) -> BucketResult:
    checked = ProbeOptions.checked(**_of_workers(live.model, options))
    return bucket_probing.find_buckets(live, (), observer, checked, wanted)


def _of_workers(model: Any, options: ProbeOptions) -> dict[str, Any]:
    """The options of a probe whose workers run beside this process."""
    fields = msgspec.structs.asdict(options)
    fields["device"] = "gpu" if tf.config.get_visible_devices("GPU") else "cpu"
    emulated = in_process.budget_beside(model)
    if emulated is not None:
        asked = options.memory_limit
        fields["memory_limit"] = str(min(emulated, parse_bytes(asked)) if asked else emulated)
    return fields


def _unsendable(error: ModelError) -> ModelError:
    return ModelError(
        f"{error.message.partition(' Pass a function')[0]} Give its own classes get_config and "
        "from_config (keras.saving.register_keras_serializable), so that Keras can save and load "
        "it.",
        details=error.details,
    )


def _in_process(model: Any, options: ProbeOptions, isolation: str) -> bool:
    taken = in_process.holds_a_gpu()
    if isolation == "worker" and taken:
        raise DeviceError(
            "TensorFlow in this process has taken the GPU's memory, so no worker can have it. "
            "Leave isolation at 'auto': trials then run in this process."
        )
    if options.target_batch_size is not None and replicas(model) > 1:
        raise UsageError(
            f"target_batch_size and a strategy of {replicas(model)} replicas do not go together. "
            "Leave it out, or train on one device."
        )
    return isolation == "process" or taken


def _for_replicas(result: ProbeResult, model: Any, options: ProbeOptions) -> ProbeResult:
    """The result of one replica as that of all of them."""
    count = replicas(model)
    if count == 1:
        return result
    size = count * result.batch_size
    rates = tuple(
        learning_rate.scale_learning_rate(
            each,
            base_batch_size=result.base_batch_size or searching.DEFAULT_BASE_BATCH_SIZE,
            batch_size=size,
            rule=options.learning_rate_rule,
            base_learning_rate=options.base_learning_rate,
        )
        for each in optimizers.describe(model)
    )
    steps = result.steps_per_epoch
    if steps is not None:
        steps = math.ceil(steps * result.global_batch_size / size)
    return msgspec.structs.replace(
        result, global_batch_size=size, steps_per_epoch=steps, **searching.rate_fields(rates)
    )
