"""Which memory a training step takes and gives back, as TensorFlow's own profiler tells it.

TensorFlow's BFC allocator notes each allocation and each release as an event of the profiler, with
the bytes asked for and the address; the CPU's and the GPU's do. The profiler is a public one, but
there is only one in a process, and the user's code may be using it. So a trace is a thing one may
get: wherever the profiler does not serve, it is None, and nothing else changes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import tensorflow as tf

from autobatch.footprint import Allocation

_TAKEN, _GIVEN = "MemoryAllocation", "MemoryDeallocation"
_TEXTS = frozenset({"allocator_name", "tf_op"})
_WANTED = _TEXTS | {"requested_bytes", "allocation_bytes", "addr"}
# What TensorFlow calls the operations of a while loop's body, when it takes the loop apart
# (`NewName("body")` in lower_while_op.cc), whatever the loop's name is.
_LOOP_BODY = "/body/_"
_HOST_LEVEL = 1  # critical events, which the allocator's are; a step's own cost stays small
MOST_BYTES = 256 << 20  # of a trace's file; a longer one is not worth its time

# Time, whether memory was taken, its address, the bytes asked for, those given, whether by an
# operation of a loop's body, and the thread.
_Event = tuple[float, bool, int, int, int, bool, int]


class AllocationTrace:
    """Records the allocations between `start` and `end`, and reads them.

    Args:
        device: TensorFlow's name of the device, `GPU:0` or `CPU:0`.

    Attributes:
        running: A recording has begun that has not ended.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._folder: str | None = None
        self.running = False

    def start(self) -> bool:
        """Begin to record; False where the profiler does not serve."""
        self.abandon()
        try:
            folder = tempfile.mkdtemp(prefix="autobatch-trace-")  # mode 0700
        except OSError:
            return False
        try:
            options = tf.profiler.experimental.ProfilerOptions(
                host_tracer_level=_HOST_LEVEL, python_tracer_level=0, device_tracer_level=0
            )
            tf.profiler.experimental.start(folder, options)
        except Exception:  # noqa: BLE001 - busy (AlreadyExistsError), disabled, or changed
            shutil.rmtree(folder, ignore_errors=True)
            return False
        self._folder, self.running = folder, True
        return True

    def end(self) -> None:
        """End the recording."""
        if not self.running:
            return
        self.running = False
        try:
            tf.profiler.experimental.stop()
        except Exception:  # noqa: BLE001 - stopped by the user's code, a full disk
            self._remove()

    def read(self) -> tuple[Allocation, ...] | None:
        """What was recorded, in the order of its start; None where nothing was. It leaves no file
        behind."""
        self.end()
        if self._folder is None:
            return None
        try:
            return _read(Path(self._folder), self._device)
        except Exception:  # noqa: BLE001 - a new format, no room
            return None
        finally:
            self._remove()

    def abandon(self) -> None:
        """End the recording, and read nothing."""
        self.end()
        self._remove()

    def _remove(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path, device: str) -> tuple[Allocation, ...] | None:
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    events: list[_Event] = []
    for path in folder.rglob("*.xplane.pb"):
        if path.stat().st_size > MOST_BYTES:
            return None
        space = xplane_pb2.XSpace()
        space.ParseFromString(path.read_bytes())
        for plane in space.planes:
            events += _events(plane, device)
    # Allocator events are noted under its lock, so time orders them; an address is free before
    # it is given out again.
    events.sort(key=lambda event: event[0])
    return tuple(_paired(events)) or None


def _events(plane: Any, device: str) -> Iterator[_Event]:
    """What the device's allocator did."""
    kinds = {
        key: value.name == _TAKEN
        for key, value in plane.event_metadata.items()
        if value.name in (_TAKEN, _GIVEN)
    }
    if not kinds:
        return
    names = {key: value.name for key, value in plane.stat_metadata.items()}
    wanted = {key: name for key, name in names.items() if name in _WANTED}
    places: dict[int, tuple[int, ...]] = {}  # of what is wanted among an event's stats, by its kind
    for line in plane.lines:
        for event in line.events:
            kind = event.metadata_id
            taken = kinds.get(kind)
            if taken is None:
                continue
            stats = event.stats
            # Events of a kind have the same stats in the same order, about a dozen of them.
            at = places.get(kind, ())
            known = len(at) == len(_WANTED) and at[-1] < len(stats)
            if not known or any(stats[i].metadata_id not in wanted for i in at):
                at = tuple(i for i, stat in enumerate(stats) if stat.metadata_id in wanted)
                places[kind] = at
            values: dict[str, Any] = {}
            for stat in (stats[i] for i in at):
                name = wanted[stat.metadata_id]
                if name in _TEXTS:
                    values[name] = stat.str_value or names.get(stat.ref_value, "")
                else:
                    values[name] = stat.int64_value or stat.uint64_value
            if values.get("addr") and serves(values.get("allocator_name", ""), device):
                time = line.timestamp_ns + event.offset_ps / 1000
                requested = values.get("requested_bytes", 0)
                given = values.get("allocation_bytes", 0)
                in_loop = taken and _LOOP_BODY in values.get("tf_op", "")
                yield time, taken, values["addr"], requested, given, in_loop, line.id


def serves(allocator: str, device: str) -> bool:
    """Whether an allocator of this name serves the device's tensors.

    TensorFlow names them `GPU_0_bfc` and, though it serves the CPU, `bfc_cpu_allocator_for_gpu`;
    beside the first, `gpu_host_bfc` serves pinned host memory.
    """
    kind, _, index = device.rpartition("/")[2].removeprefix("device:").partition(":")
    if kind.upper() == "GPU":
        return allocator.upper().startswith(f"GPU_{index or 0}_")
    return "cpu" in allocator.lower()


def _paired(events: list[_Event]) -> Iterator[Allocation]:
    live: dict[int, Allocation] = {}
    done: list[Allocation] = []
    for place, (_, taken, address, size, given, in_loop, thread) in enumerate(events):
        if taken:
            live[address] = Allocation(size, place, None, in_loop=in_loop, taker=thread)
        elif address in live:
            done.append(msgspec.structs.replace(live.pop(address), end=place, giver=thread))
        else:
            done.append(Allocation(size, None, place, given, giver=thread))
    done += live.values()
    return iter(sorted(done, key=lambda each: -1 if each.start is None else each.start))
