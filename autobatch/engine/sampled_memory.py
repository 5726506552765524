"""Memory as NVML counts it, sampled: for allocators that keep no statistics of their own.

It is coarser than an allocator's word: a peak between two looks is missed, and CUDA's context and
its libraries' workspaces count as well. So the limit is of the same kind: all of the GPU that
other processes do not hold.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from autobatch import nvml

INTERVAL = 0.002  # seconds between two looks: less than a step takes, more than NVML does


class SampledMemory:
    """Reads what this process holds of some GPUs, over and over, in a thread of its own.

    Args:
        bus_ids: Of the GPUs, by TensorFlow's short names.
        read: What NVML tells of them. Defaults to the real one.

    Attributes:
        limits: Bytes of each GPU that are not other processes'.
        certain: The driver tells processes apart. Else what all of them hold counts as ours.

    Raises:
        NvmlError: NVML cannot be read.
    """

    def __init__(
        self,
        bus_ids: Mapping[str, str],
        read: Callable[[], Mapping[str, nvml.Held]] | None = None,
    ) -> None:
        self._buses = dict(bus_ids)
        self._read = read or nvml.Holdings(os.getpid(), tuple(self._buses.values())).read
        first = self._read()
        self.certain = all(held.by_process is not None for held in first.values())
        self.limits = {
            name: held.total_bytes - held.reserved_bytes - self._others(held)
            for name, held in ((name, first[bus]) for name, bus in self._buses.items())
        }
        self._lock = threading.Lock()
        self._now = {bus: self._ours(held) for bus, held in first.items()}
        self._peaks = dict(self._now)
        threading.Thread(target=self._keep_looking, daemon=True).start()

    def info(self, name: str) -> dict[str, int]:
        """`current` and `peak` bytes, as TensorFlow's `get_memory_info` gives them."""
        self._look()
        bus = self._buses[name]
        with self._lock:
            return {"current": self._now[bus], "peak": self._peaks[bus]}

    def reset(self, name: str) -> None:
        """Begin to look for the peak anew."""
        self._look()
        with self._lock:
            self._peaks[self._buses[name]] = self._now[self._buses[name]]

    def _ours(self, held: nvml.Held) -> int:
        return (held.by_process if self.certain else held.used_bytes) or 0

    def _others(self, held: nvml.Held) -> int:
        return max(0, held.used_bytes - (held.by_process or 0)) if self.certain else 0

    def _look(self) -> None:
        try:
            found = self._read()
        except nvml.NvmlError:  # the parent watches the driver, and says so
            return
        with self._lock:
            for bus, held in found.items():
                self._now[bus] = self._ours(held)
                self._peaks[bus] = max(self._peaks[bus], self._now[bus])

    def _keep_looking(self) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL):
            self._look()
