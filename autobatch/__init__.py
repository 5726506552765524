"""autobatch finds the largest safe training batch size of a Keras model, and proves it.

    result = autobatch.probe("model.py:build_model")
    print(result.batch_size, result.learning_rate)

The names below are loaded when they are first used: importing autobatch imports neither
TensorFlow nor anything else that is slow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autobatch.any_loop import largest_batch, search
    from autobatch.bucket_probing import probe_buckets
    from autobatch.bucket_records import Bucket, BucketResult
    from autobatch.bucketing import bucket_by_sequence_length
    from autobatch.callback import AutoBatch
    from autobatch.errors import (
        AutobatchError,
        DeviceChangedError,
        DeviceError,
        ModelError,
        NothingFitsError,
        ProbeInterrupted,
        StorageError,
        UsageError,
        WorkerError,
    )
    from autobatch.learning_rate import scale_learning_rate
    from autobatch.options import ProbeOptions
    from autobatch.probing import probe
    from autobatch.records import (
        LearningRate,
        OptimizerInfo,
        Outcome,
        ProbeResult,
        SearchResult,
        Trial,
    )

_HOMES = {
    "autobatch.any_loop": ("largest_batch", "search"),
    "autobatch.bucket_probing": ("probe_buckets",),
    "autobatch.bucket_records": ("Bucket", "BucketResult"),
    "autobatch.bucketing": ("bucket_by_sequence_length",),
    "autobatch.callback": ("AutoBatch",),
    "autobatch.errors": (
        "AutobatchError",
        "DeviceChangedError",
        "DeviceError",
        "ModelError",
        "NothingFitsError",
        "ProbeInterrupted",
        "StorageError",
        "UsageError",
        "WorkerError",
    ),
    "autobatch.learning_rate": ("scale_learning_rate",),
    "autobatch.options": ("ProbeOptions",),
    "autobatch.probing": ("probe",),
    "autobatch.records": (
        "LearningRate",
        "OptimizerInfo",
        "Outcome",
        "ProbeResult",
        "SearchResult",
        "Trial",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AutoBatch",
    "AutobatchError",
    "Bucket",
    "BucketResult",
    "DeviceChangedError",
    "DeviceError",
    "LearningRate",
    "ModelError",
    "NothingFitsError",
    "OptimizerInfo",
    "Outcome",
    "ProbeInterrupted",
    "ProbeOptions",
    "ProbeResult",
    "SearchResult",
    "StorageError",
    "Trial",
    "UsageError",
    "WorkerError",
    "bucket_by_sequence_length",
    "largest_batch",
    "probe",
    "probe_buckets",
    "scale_learning_rate",
    "search",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'autobatch' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
