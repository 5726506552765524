"""Reads the memory of the devices that a model trains on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from autobatch.nvml import Holdings, NvmlError


class Statistics(Protocol):
    """Who counts bytes: `current` and `peak` of each device."""

    def info(self, name: str) -> dict[str, int]:
        """Both."""
        ...

    def reset(self, name: str) -> None:
        """Begin to look for the peak anew."""
        ...


class AllocatorsOwn:
    """TensorFlow's allocators themselves: exact."""

    info = staticmethod(tf.config.experimental.get_memory_info)
    reset = staticmethod(tf.config.experimental.reset_memory_stats)


class DeviceMemory:
    """Reads the allocators of the logical devices that a model trains on.

    Several devices are read as one: a replica's batch is the same on each, so the one with the
    least room decides. What a device may use more than the one that may use least is its surplus,
    and a peak there counts by what it exceeds the surplus.

    Attributes:
        name: TensorFlow's name of the device with the least room, such as `GPU:0`.
        description: What they are, for a person.
        limit_bytes: What the allocator may hand out, of the device with the least room.
        grows: It takes memory as it needs it, region by region, and not all at the start.
        bus_ids: PCI bus ids of the GPUs, as far as TensorFlow tells them.
        coarse: NVML's samples are read, and not the allocator's own figures.
    """

    _holdings: Holdings | None = None

    def __init__(
        self,
        names: Sequence[str],
        limits: Sequence[int],
        description: str,
        *,
        grows: bool,
        budget_bytes: int | None = None,
        bus_ids: tuple[str, ...] = (),
        statistics: Statistics | None = None,
    ) -> None:
        budgets = [min(limit, budget_bytes or limit) for limit in limits]
        least = min(budgets)
        self._surplus = {n: b - least for n, b in zip(names, budgets, strict=True)}
        self.replicas = len(names)
        self.name = names[budgets.index(least)]
        self.limit_bytes = min(
            limit - self._surplus[n] for n, limit in zip(names, limits, strict=True)
        )
        self.description, self.grows, self.bus_ids = description, grows, bus_ids
        self.coarse = statistics is not None
        self._statistics = statistics or AllocatorsOwn()

    def reset_peak(self) -> None:
        """Begin to look for the peak anew."""
        for name in self._surplus:
            self._statistics.reset(name)

    def peak_bytes(self) -> int:
        """Most bytes in use since `reset_peak`."""
        return self._most("peak")

    def bytes_in_use(self) -> int:
        """Bytes in use now."""
        return self._most("current")

    def process_bytes(self) -> int | None:
        """What NVML counts for this process on the GPU where that is most: the allocator's memory,
        and all that is outside of it. None where it does not say."""
        if self._holdings is None:
            if not self.bus_ids:
                return None
            with contextlib.suppress(NvmlError):
                self._holdings = Holdings(os.getpid(), self.bus_ids)
        try:
            held = self._holdings.read().values() if self._holdings is not None else ()
        except NvmlError:
            return None
        return max((each.by_process for each in held if each.by_process), default=None)

    def _most(self, kind: str) -> int:
        return max(
            max(0, int(self._statistics.info(name)[kind]) - surplus)
            for name, surplus in self._surplus.items()
        )
