"""Others on the GPU: who holds what, whether they move, and how long a probe waits for them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from autobatch import neighbours
from autobatch.errors import DeviceError
from autobatch.neighbours import Watch, wait_for_idle
from autobatch.nvml import Driver, Gpu, Instance, NvmlError
from autobatch.records import GpuProcess
from autobatch.units import GIB, MIB

BUS = "0000:01:00.0"
OURS = os.getpid()  # below what is ours, as a worker is below its warden
OTHER = 1  # and process 1 is not


def gpu(**processes_mib: int) -> Driver:
    """A GPU of 4 GiB; `ours=100, other=50` in MiB."""
    pids = {"ours": OURS, "other": OTHER, "third": 2}
    return board(
        *(GpuProcess(pid=pids[n], name=n, used_bytes=m * MIB) for n, m in processes_mib.items())
    )


def board(*processes: GpuProcess, **more: object) -> Driver:
    used = sum(process.used_bytes or 0 for process in processes)
    fields = {"total_bytes": 4 * GIB, "used_bytes": used, "processes": processes, **more}
    return Driver(gpus=(Gpu(index=0, name="G", bus_id=BUS, **fields),))  # type: ignore[arg-type]


class Machine:
    """What NVML says now; a test changes it."""

    def __init__(self, now: Driver | NvmlError) -> None:
        self.now = now

    def read(self) -> Driver:
        if isinstance(self.now, NvmlError):
            raise self.now
        return self.now


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PATIENCE", 0.05)
    monkeypatch.setattr(neighbours, "INTERVAL", 0.01)


@pytest.fixture
def machine() -> Machine:
    return Machine(gpu(other=50))


@pytest.fixture
def watch(machine: Machine) -> Iterator[Watch]:
    made = Watch(lambda: {os.getppid()}, machine.read)
    yield made
    made.end()


def test_neighbours_are_those_that_were_there_before(watch: Watch, machine: Machine) -> None:
    watch.begin()
    machine.now = gpu(other=50, ours=1000)
    watch.start([BUS])
    assert watch.neighbours == (GpuProcess(pid=OTHER, name="other", used_bytes=50 * MIB),)
    assert watch.changed() is None
    assert watch.changed_in_all() is None


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"other": 50, "ours": 3000}, None),  # what we take is ours to take
        ({"other": 60, "ours": 1000}, None),  # a little is no change
        ({"other": 250, "ours": 1000}, "process 1 (other) took 200 MiB of G"),
        ({"ours": 1000}, "process 1 (other) freed 50 MiB of G"),
        ({"other": 50, "third": 90, "ours": 1000}, "process 2 (third) took 90 MiB of G"),
    ],
)
def test_what_others_take_and_free_is_told_by_process(
    watch: Watch, machine: Machine, after: dict[str, int], said: str | None
) -> None:
    watch.begin()
    machine.now = gpu(other=50, ours=1000)
    watch.start([BUS])
    machine.now = gpu(**after)
    assert watch.changed() == said


def test_one_that_comes_and_goes_between_two_trials_is_seen(watch: Watch, machine: Machine) -> None:
    watch.begin()
    machine.now = gpu(other=50, ours=1000)
    watch.start([BUS])
    machine.now = gpu(other=500, ours=1000)
    while watch._said is None:  # by the thread alone; pytest's own limit ends it
        time.sleep(0.001)
    machine.now = gpu(other=50, ours=1000)
    assert watch.changed() == "process 1 (other) took 450 MiB of G"


def test_where_the_driver_hides_processes_before_and_after_are_compared(
    watch: Watch, machine: Machine
) -> None:
    machine.now = board(used_bytes=100 * MIB)
    watch.begin()
    machine.now = board(used_bytes=3000 * MIB)
    watch.start([BUS])
    assert watch.changed() is None  # it may be ours
    machine.now = board(used_bytes=100 * MIB)
    assert watch.changed_in_all() is None
    machine.now = board(used_bytes=400 * MIB)
    assert watch.changed_in_all() == "another program took 300 MiB of G"


def test_a_gpu_that_is_lost_is_an_error(watch: Watch, machine: Machine) -> None:
    watch.begin()
    machine.now = gpu(ours=1000)
    watch.start([BUS])
    machine.now = board(lost=True, error="GPU is lost. Look at dmesg.")
    with pytest.raises(DeviceError, match="was lost while the probe ran: GPU is lost"):
        watch.changed()


def test_a_gpu_whose_memory_fails_is_an_error(watch: Watch, machine: Machine) -> None:
    machine.now = board(ecc_errors=1)  # of last week
    watch.begin()
    watch.start([BUS])
    assert watch.changed() is None
    machine.now = board(ecc_errors=2)
    with pytest.raises(DeviceError, match="could not be corrected"):
        watch.changed()


def test_a_loss_is_seen_where_the_driver_hides_processes(watch: Watch, machine: Machine) -> None:
    machine.now = board(used_bytes=100 * MIB)
    watch.begin()
    watch.start([BUS])
    machine.now = board(lost=True, error="GPU is lost.")
    with pytest.raises(DeviceError, match="was lost"):
        watch.changed()


def test_a_driver_that_fails_in_mid_search_is_an_error(watch: Watch, machine: Machine) -> None:
    watch.begin()
    machine.now = gpu(ours=1000)
    watch.start([BUS])
    machine.now = NvmlError("NVML could not be read: Unknown Error", code=999)
    with pytest.raises(DeviceError, match="could be read no more"):
        watch.changed()


@pytest.mark.parametrize("bus_ids", [[], ["0000:99:00.0"]])
def test_without_a_driver_or_a_match_nothing_is_watched(
    watch: Watch, machine: Machine, bus_ids: list[str]
) -> None:
    if not bus_ids:
        machine.now = NvmlError("no driver", code=12)
    watch.begin()
    watch.start(bus_ids or [BUS])
    machine.now = gpu(other=2000, ours=1000)
    assert watch.changed() is None
    assert watch.changed_in_all() is None


def test_a_mig_instances_memory_is_nobody_elses(watch: Watch, machine: Machine) -> None:
    machine.now = board(instances=(Instance(uuid="MIG-1"),))
    watch.begin()
    watch.start([BUS])
    machine.now = gpu(other=2000)
    assert watch.changed() is None


def test_neighbours_that_hold_something_are_in_the_answer() -> None:
    crumbs = GpuProcess(pid=3, name="desktop", used_bytes=MIB)
    assert neighbours.warnings([crumbs]) == ()
    [said] = neighbours.warnings([crumbs, GpuProcess(pid=4), GpuProcess(pid=5, used_bytes=GIB)])
    assert "process 4 (unknown: ?), process 5 (unknown: 1 GiB)." in said


# -- waiting -------------------------------------------------------------------------------------


def waiting(*states: Driver, seconds: float = 10, indices: tuple[int, ...] = (0,)) -> list[str]:
    """What is said while the states pass, one a second."""
    said: list[str] = []
    time = [0.0]

    def sleep(_: float) -> None:
        time[0] += 1.0

    wait_for_idle(
        seconds,
        indices,
        {},
        read=lambda: states[min(int(time[0]), len(states) - 1)],
        sleep=sleep,
        clock=lambda: time[0],
        on_wait=said.append,
    )
    return said


def test_an_idle_gpu_needs_no_waiting() -> None:
    assert waiting(gpu()) == []
    assert waiting(gpu(other=10)) == []  # a desktop's crumbs


def test_it_waits_until_the_other_has_gone() -> None:
    said = waiting(gpu(other=500), gpu(other=500), gpu())
    assert said == ["Waiting up to 10 s for the GPU: process 1 (other) holds 500 MiB of G."]


def test_it_waits_no_longer_than_it_may() -> None:
    with pytest.raises(DeviceError, match=r"After 3 s .*process 1 \(other\) holds 500 MiB"):
        waiting(gpu(other=500), seconds=3)


def test_hidden_processes_keep_it_waiting_too() -> None:
    with pytest.raises(DeviceError, match="500 MiB of G are in use"):
        waiting(board(used_bytes=500 * MIB), seconds=3)


def test_others_on_another_gpu_are_in_nobodys_way() -> None:
    assert waiting(gpu(other=500), indices=(1,)) == []
