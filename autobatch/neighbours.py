"""Other processes on the GPUs of a probe: who they are, and whether they take or free memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from autobatch import nvml, visible_devices
from autobatch.errors import DeviceError
from autobatch.nvml import Driver, Gpu, NvmlError
from autobatch.records import GpuProcess
from autobatch.units import MIB, format_bytes

# Less than this is no change: drivers and desktops move a little all the time.
LEAST_CHANGE = 16 * MIB
LEAST_SHARE = 0.005  # of the GPU's memory
INTERVAL = 0.5  # seconds between two looks
PATIENCE = 5.0  # seconds for the driver to take back what a process that ended had


class Watch:
    """Watches the GPUs of one probe. With no driver to ask, it sees nothing and says nothing.

    Where the driver tells which process holds what, each look counts what others hold. Where it
    does not (in containers, under WSL, before a worker is seen), what is in use before the first
    worker and after the last one is compared instead.

    Args:
        ours: Process ids of what starts our workers: they and what is below them is ours.
        read: What NVML tells. Defaults to the real one.
    """

    def __init__(self, ours: Callable[[], set[int]], read: Callable[[], Driver] = nvml.read):
        self._ours, self._read = ours, read
        self._known: set[int] = set()
        self._before: dict[str, Gpu] = {}
        self._watched: dict[str, int | None] = {}  # bus id -> others' bytes; None where unknown
        self._said: str | None = None
        self._lost: DeviceError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.neighbours: tuple[GpuProcess, ...] = ()

    def begin(self) -> None:
        """Note what is there before the first worker starts."""
        self.end()
        try:
            self._before = self._by_bus()
        except NvmlError:
            self._before = {}
        self._said = self._lost = None
        self._watched, self.neighbours = {}, ()

    def start(self, bus_ids: Iterable[str]) -> None:
        """Watch these GPUs from now on: those that the worker, which is there now, trains on."""
        before = [visible_devices.match(tuple(self._before.values()), each) for each in bus_ids]
        # Instances of MIG have memory of their own, which nobody else can take.
        watched = [gpu for gpu in before if gpu is not None and not gpu.instances]
        self.neighbours = tuple(process for gpu in watched for process in gpu.processes or ())
        if not watched:
            return
        try:
            now = self._by_bus()
        except NvmlError:
            return
        self._watched = {
            gpu.bus_id: held_by_others(gpu, self._is_ours)
            if any(self._is_ours(p.pid) for p in now[gpu.bus_id].processes or ())
            else None
            for gpu in watched
            if gpu.bus_id in now
        }
        if any(held is not None for held in self._watched.values()):
            self._stop.clear()
            self._thread = threading.Thread(target=self._keep_looking, daemon=True)
            self._thread.start()

    def changed(self) -> str | None:
        """What others did since `start`, as a sentence; None where they did nothing.

        Raises:
            DeviceError: A GPU is lost, or its memory failed.
        """
        self._look()
        if self._lost is not None:
            raise self._lost
        return self._said

    def changed_in_all(self) -> str | None:
        """The same at the end, when no worker is left, for GPUs whose processes are not known."""
        coarse = [bus_id for bus_id, held in self._watched.items() if held is None]
        deadline = time.monotonic() + PATIENCE
        while coarse:
            try:
                now = self._by_bus()
            except NvmlError:
                return None
            said = [_difference(self._before[b], now.get(b)) for b in coarse]
            if not any(said):
                return None
            if time.monotonic() > deadline:
                return next(each for each in said if each)
            time.sleep(INTERVAL)
        return None

    def end(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _by_bus(self) -> dict[str, Gpu]:
        """The GPUs as they are now.

        Raises:
            NvmlError: There is no driver, or it does not answer.
        """
        return {gpu.bus_id: gpu for gpu in self._read().gpus}

    def _keep_looking(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        if not self._watched or self._said:
            return
        try:
            now = self._by_bus()
        except NvmlError as error:
            self._lost = DeviceError(f"The GPU could be read no more: {error.message}")
            return
        for bus_id, held in self._watched.items():
            gpu = now.get(bus_id)
            if gpu is None or gpu.lost:
                why = gpu.error if gpu is not None else "NVML lists it no more."
                self._lost = DeviceError(
                    f"The GPU on PCI bus {bus_id} was lost while the probe ran: {why}"
                )
            elif gpu.ecc_errors > self._before[bus_id].ecc_errors:
                self._lost = DeviceError(
                    f"The memory of the GPU on PCI bus {bus_id} had an error that could not be "
                    "corrected (ECC) while the probe ran: no trial counts. Reset it (nvidia-smi "
                    "--gpu-reset, as root), and probe again."
                )
            elif held is not None and gpu.processes is not None:
                others = held_by_others(gpu, self._is_ours)
                if others is not None and abs(others - held) > least_change(gpu):
                    self._said = self._who(self._before[bus_id], gpu, others - held)

    def _who(self, before: Gpu, now: Gpu, difference: int) -> str:
        held = {process.pid: process.used_bytes or 0 for process in before.processes or ()}
        holds = {p.pid: p for p in now.processes or () if not self._is_ours(p.pid)}
        moved = {
            pid: (holds[pid].used_bytes or 0 if pid in holds else 0) - held.get(pid, 0)
            for pid in {*held, *holds}
        }
        pid = max(moved, key=lambda each: abs(moved[each]), default=0)
        known = {process.pid: process.name for process in before.processes or ()}
        name = (holds[pid].name if pid in holds else known.get(pid)) or "another program"
        did = "took" if difference > 0 else "freed"
        return f"process {pid} ({name}) {did} {format_bytes(abs(difference))} of {now.name}"

    def _is_ours(self, pid: int) -> bool:
        import psutil

        if pid not in self._known:
            try:
                above = {each.pid for each in psutil.Process(pid).parents()}
            except psutil.Error:
                above = set()
            if (above | {pid}) & self._ours():
                self._known.add(pid)  # the driver may list it for a while after its end
        return pid in self._known


def warnings(found: Iterable[GpuProcess]) -> tuple[str, ...]:
    """What the user should know of the neighbours of an answer."""
    holding = [p for p in found if p.used_bytes is None or p.used_bytes > LEAST_CHANGE]
    if not holding:
        return ()
    said = ", ".join(
        f"process {p.pid} ({p.name or 'unknown'}: "
        f"{'?' if p.used_bytes is None else format_bytes(p.used_bytes)})"
        for p in holding
    )
    return (f"Others use the GPU too: {said}. The answer holds while they take no more.",)


def held_by_others(gpu: Gpu, is_ours: Callable[[int], bool]) -> int | None:
    """Bytes that processes other than ours hold; None where the driver does not tell of one."""
    total = 0
    for process in gpu.processes or ():
        if not is_ours(process.pid):
            if process.used_bytes is None:
                return None
            total += process.used_bytes
    return total


def least_change(gpu: Gpu) -> int:
    """Bytes that others must take or free for it to count."""
    return max(LEAST_CHANGE, int(LEAST_SHARE * (gpu.total_bytes or 0)))


def _difference(before: Gpu, now: Gpu | None) -> str | None:
    if now is None or before.used_bytes is None or now.used_bytes is None:
        return None
    difference = now.used_bytes - before.used_bytes
    if abs(difference) <= least_change(before):
        return None
    did = "took" if difference > 0 else "freed"
    return f"another program {did} {format_bytes(abs(difference))} of {before.name}"


def wait_for_idle(
    seconds: float,
    indices: tuple[int, ...],
    environment: Mapping[str, str],
    *,
    read: Callable[[], Driver] = nvml.read,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    on_wait: Callable[[str], None] = lambda _: None,
) -> None:
    """Wait until no other process holds memory of the GPUs.

    Args:
        seconds: How long at most.
        indices: TensorFlow's numbers of the GPUs; none of them for all that are visible.
        environment: Where `CUDA_VISIBLE_DEVICES` may be set.
        read, sleep, clock: The driver and the time.
        on_wait: Told once for whom it waits.

    Raises:
        DeviceError: They are still there after that time, or there is no driver to ask.
    """
    deadline, told = clock() + seconds, False
    while True:
        busy = _busy(read(), indices, environment)
        if not busy:
            return
        if clock() >= deadline:
            raise DeviceError(
                f"After {seconds:g} s the GPU is still in use: {busy}. End that, wait longer "
                "(--wait-for-idle), or probe beside it without the option."
            )
        if not told:
            on_wait(f"Waiting up to {seconds:g} s for the GPU: {busy}.")
            told = True
        sleep(min(INTERVAL, max(0.0, deadline - clock())))


def _busy(driver: Driver, indices: tuple[int, ...], environment: Mapping[str, str]) -> str:
    """Who holds memory of the GPUs, in words; empty when nobody does."""
    seen = visible_devices.visible(driver.gpus, environment)
    chosen = [
        each.gpu
        for number, each in enumerate(seen.devices)
        if not indices or number in indices or not seen.certain
    ]
    said = []
    for gpu in chosen:
        holding = [p for p in gpu.processes or () if (p.used_bytes or 0) > LEAST_CHANGE]
        said += [
            f"process {p.pid} ({p.name or 'unknown'}) holds {format_bytes(p.used_bytes or 0)} of "
            f"{gpu.name}"
            for p in holding
        ]
        if not holding and (gpu.used_bytes or 0) > least_change(gpu):
            said.append(f"{format_bytes(gpu.used_bytes or 0)} of {gpu.name} are in use")
    return ", ".join(said)
