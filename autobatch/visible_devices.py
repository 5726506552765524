"""Which of a machine's GPUs a process sees, and in which order, as CUDA decides it. Pure.

CUDA reads `CUDA_VISIBLE_DEVICES` (numbers, UUIDs or their beginnings, MIG instances) from left to
right up to the first entry that names nothing, and numbers what is left from 0. Numbers in it go
by `CUDA_DEVICE_ORDER`: by PCI bus, or (the default) the fastest first, an order that only CUDA
itself knows for sure. Source: CUDA C++ Programming Guide, "CUDA Environment Variables"; NVIDIA MIG
User Guide, "CUDA Device Enumeration".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autobatch.nvml import Gpu, Instance, canonical_bus_id


@dataclass(frozen=True, slots=True)
class Visible:
    """A GPU that a process sees.

    Attributes:
        gpu: What NVML says of it.
        instance: The MIG instance, where it is only that.
    """

    gpu: Gpu
    instance: Instance | None = None


@dataclass(frozen=True, slots=True)
class Visibility:
    """What a process sees of the machine's GPUs.

    Attributes:
        devices: In CUDA's order.
        certain: Whether the order is known: several GPUs of unequal kinds are ordered by speed.
        note: What the variable hides, or why it names nothing; empty where there is none.
    """

    devices: tuple[Visible, ...]
    certain: bool = True
    note: str = ""


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> Visibility:
    """What a process with this environment sees of the GPUs.

    Args:
        gpus: All of the machine, in NVML's order, which is that of PCI buses.
        environment: Where `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` may be set.
    """
    by_bus = environment.get("CUDA_DEVICE_ORDER", "").upper() == "PCI_BUS_ID"
    alike = len({(gpu.name, gpu.compute_capability) for gpu in gpus}) < 2
    ordered = list(gpus) if by_bus else sorted(gpus, key=_speed, reverse=True)
    asked = environment.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return Visibility(tuple(map(_whole, ordered)), by_bus or alike)
    found: list[Visible] = []
    note, numbers = "", False
    for entry in (each.strip() for each in asked.split(",")):
        named = _named(entry, ordered)
        if named is None:
            rest = f"entry {entry!r} names no GPU here" if entry else "it is empty there"
            note = f"CUDA_VISIBLE_DEVICES is {asked!r}: {rest}, and CUDA stops at it"
            break
        if named in found:
            note = f"CUDA_VISIBLE_DEVICES is {asked!r}: entry {entry!r} repeats a GPU"
            break
        numbers |= entry.isdigit()
        found.append(named)
    if any(each.instance for each in found) and len(found) > 1:
        # One compute instance a process, whatever else the variable names.
        found = [next(each for each in found if each.instance)]
        note = "CUDA serves one MIG instance to a process"
    hidden = len(gpus) - len({each.gpu.uuid for each in found})
    if not note and hidden:
        note = f"CUDA_VISIBLE_DEVICES is {asked!r} and hides {hidden} of {len(gpus)}"
    return Visibility(tuple(found), by_bus or alike or not numbers, note)


def match(gpus: Sequence[Gpu], bus_id: str) -> Gpu | None:
    """The GPU on this PCI bus, as TensorFlow names it; the only sure way from one to the other."""
    wanted = canonical_bus_id(bus_id)
    return next((gpu for gpu in gpus if gpu.bus_id == wanted), None)


def _speed(gpu: Gpu) -> tuple[tuple[int, ...], int]:
    """Newer, then larger: as near to CUDA's own guess of speed as NVML's figures come."""
    capability = tuple(int(part) for part in gpu.compute_capability.split(".") if part.isdigit())
    return capability, gpu.total_bytes or 0


def _whole(gpu: Gpu) -> Visible:
    """The GPU; in MIG mode its first instance, which is what CUDA then shows."""
    return Visible(gpu, gpu.instances[0] if gpu.instances else None)


def _named(entry: str, ordered: Sequence[Gpu]) -> Visible | None:
    if entry.isdigit():
        return _whole(ordered[int(entry)]) if int(entry) < len(ordered) else None
    if entry.startswith("MIG-"):
        for gpu in ordered:
            for instance in gpu.instances:
                if instance.uuid.startswith(entry) or _old_name(gpu, entry):
                    return Visible(gpu, instance)
        return None
    if entry.startswith("GPU-"):
        named = [gpu for gpu in ordered if gpu.uuid.startswith(entry)]
        return _whole(named[0]) if len(named) == 1 else None
    return None


def _old_name(gpu: Gpu, entry: str) -> bool:
    """`MIG-GPU-<uuid>/<gpu instance>/<compute instance>`, before driver 470."""
    return entry.removeprefix("MIG-").split("/")[0] == gpu.uuid
