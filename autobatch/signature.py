"""What a probe's answer depends on: two probes with equal keys may share trials. Pure.

The worker says what model and data it has loaded (`protocol.Signature`); the rest is known to the
parent. A key holds digests, versions and options, and no value of the environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import msgspec

from autobatch.options import FLAGS, ProbeOptions
from autobatch.protocol import Signature
from autobatch.records import Device
from autobatch.units import format_bytes

# Options that change neither what is tried nor what is measured, or that the device and the
# model's and the data's own signatures stand for. Any other must be the same.
FREE_OPTIONS = frozenset({
    "device", "memory_limit", "run_as", "fit_call", "backend", "safe_mode",
    "load_timeout", "total_timeout", "base_batch_size", "base_learning_rate",
    "learning_rate_rule", "device_wait", "wait_for_idle", "cache", "journal", "resume",
})  # fmt: skip
# Variables that change what TensorFlow allocates. Those of the limit are in the budget.
_READ_BY_TENSORFLOW = ("TF_", "XLA_", "CUDA_", "KERAS_", "OMP_NUM_THREADS")
_HARMLESS = ("TF_CPP_", "TF_CPU_BFC_MEM_LIMIT_IN_MB")


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that an answer depends on.

    Attributes:
        model: Digest of the model's structure, compile settings, precision and own code.
        data: Digest of the data's shapes, kinds and number of samples; not of its contents.
        device: The GPU's UUID, or the device's kind and name.
        driver: The GPU driver's version; empty on the CPU.
        budget_bytes: What the training may use.
        limit_bytes: What search trials could use.
        environment: Digest of the variables that TensorFlow, XLA, CUDA and Keras read.
        versions: Of Python, TensorFlow, Keras and autobatch.
        options: The probe's options that matter, as text.
    """

    model: str
    data: str
    device: str
    driver: str = ""
    budget_bytes: int
    limit_bytes: int
    environment: str
    versions: dict[str, str]
    options: dict[str, str]

    def digest(self) -> str:
        """The key as a name for a file: 32 hexadecimal digits."""
        return digest_of(msgspec.json.encode(self, order="sorted"))

    def differences(self, other: Key) -> tuple[str, ...]:
        """What is not the same in `other`, the earlier key, in a few words each."""
        return tuple(_differences(self, other))


def make_key(
    told: Signature,
    device: Device,
    options: ProbeOptions,
    *,
    uuid: str,
    driver: str,
    versions: Mapping[str, str],
    environment: Mapping[str, str],
) -> Key:
    """The key of a probe.

    Args:
        told: What the worker has loaded.
        device: Where it runs.
        options: The probe's.
        uuid, driver: The GPU's, as NVML has them; empty where it does not.
        versions: Of all that takes part.
        environment: The workers' variables.
    """
    read = sorted(
        (name, value)
        for name, value in environment.items()
        if name.startswith(_READ_BY_TENSORFLOW) and not name.startswith(_HARMLESS)
    )
    return Key(
        model=told.model,
        data=told.data,
        device=uuid or " ".join(part for part in (device.kind, device.name, told.device) if part),
        driver=driver,
        budget_bytes=device.budget_bytes,
        limit_bytes=device.limit_bytes,
        environment=digest_of(msgspec.json.encode(_encodable(read))),
        versions=dict(versions),
        options={
            name: repr(getattr(options, name))
            for name in ProbeOptions.__struct_fields__
            if name not in FREE_OPTIONS
        },
    )


def digest_of(data: bytes) -> str:
    """The name that stands for these bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def _encodable(pairs: list[tuple[str, str]]) -> list[list[bytes]]:
    """Variables may hold bytes that are no UTF-8, which JSON's texts cannot."""
    return [[part.encode("utf-8", "surrogateescape") for part in pair] for pair in pairs]


def _differences(now: Key, then: Key) -> Iterator[str]:
    if now.model != then.model:
        yield "the model (its structure, compile settings, precision or code)"
    if now.data != then.data:
        yield "the data (its shapes, kinds or number of samples)"
    for name, this, that in (
        ("device", now.device, then.device),
        ("driver", now.driver, then.driver),
    ):
        if this != that:
            yield f"the {name} ({that or 'none'} then, {this or 'none'} now)"
    for name, size, before in (
        ("memory budget", now.budget_bytes, then.budget_bytes),
        ("memory of the search's trials", now.limit_bytes, then.limit_bytes),
    ):
        if size != before:
            yield f"the {name} ({format_bytes(before)} then, {format_bytes(size)} now)"
    if now.environment != then.environment:
        yield "variables that TensorFlow, XLA, CUDA or Keras read"
    yield from _changes(now.versions, then.versions, lambda name: name)
    yield from _changes(now.options, then.options, _flag)


def _changes(
    now: Mapping[str, str], then: Mapping[str, str], called: Callable[[str], str]
) -> Iterator[str]:
    for name in sorted({*now, *then}):
        this, that = now.get(name, "none"), then.get(name, "none")
        if this != that:
            yield f"{called(name)} ({that} then, {this} now)"


def _flag(name: str) -> str:
    return FLAGS.get(name, "--" + name.replace("_", "-"))
