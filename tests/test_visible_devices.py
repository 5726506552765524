"""Which GPUs CUDA shows to a process: the variables in all their forms."""

from __future__ import annotations

import pytest

from autobatch.nvml import Gpu, Instance, canonical_bus_id
from autobatch.visible_devices import match, visible

A = Gpu(index=0, name="A", uuid="GPU-aaaa-1", bus_id="0000:01:00.0", compute_capability="7.5")
B = Gpu(index=1, name="B", uuid="GPU-bbbb-1", bus_id="0000:02:00.0", compute_capability="9.0")
C = Gpu(index=2, name="A", uuid="GPU-aaaa-2", bus_id="0000:03:00.0", compute_capability="7.5")
BY_BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, [A, B, C]),
        ("0,1,2", [A, B, C]),
        ("2,0", [C, A]),
        (" 2 , 0 ", [C, A]),
        ("1", [B]),
        ("", []),
        ("-1", []),
        ("0,-1,2", [A]),
        ("0,7,2", [A]),
        ("2,nonsense,0", [C]),
        ("GPU-bbbb", [B]),
        ("GPU-aaaa-2,0", [C, A]),
        ("GPU-aaaa", []),  # the beginning of two
        ("GPU-cccc,0", []),
        ("0,0", [A]),
        ("0,GPU-aaaa-1", [A]),
        ("NoDevFiles", []),
    ],
)
def test_entries_count_up_to_the_first_that_names_nothing(
    asked: str | None, names: list[Gpu]
) -> None:
    environment = BY_BUS if asked is None else {**BY_BUS, "CUDA_VISIBLE_DEVICES": asked}
    seen = visible((A, B, C), environment)
    assert [each.gpu for each in seen.devices] == names
    assert seen.certain
    if len(names) < 3:
        assert repr(asked) in seen.note


def test_by_default_numbers_go_by_speed_and_only_cuda_knows_it() -> None:
    seen = visible((A, B, C), {})
    assert [each.gpu for each in seen.devices] == [B, A, C]
    assert not seen.certain
    assert not visible((A, B, C), {"CUDA_VISIBLE_DEVICES": "0"}).certain
    # UUIDs leave no doubt, nor do GPUs that are all alike
    assert visible((A, B, C), {"CUDA_VISIBLE_DEVICES": "GPU-aaaa-1,GPU-bbbb-1"}).certain
    assert visible((A, C), {}).certain


MIG = Gpu(
    index=0,
    name="M",
    uuid="GPU-mmmm",
    bus_id="0000:07:00.0",
    instances=(
        Instance(uuid="MIG-1111", total_bytes=10),
        Instance(uuid="MIG-2222", total_bytes=20),
    ),
)


@pytest.mark.parametrize(
    ("asked", "instance"),
    [
        ("MIG-2222", "MIG-2222"),
        ("MIG-1111,MIG-2222", "MIG-1111"),
        ("MIG-GPU-mmmm/1/0", "MIG-1111"),
        ("GPU-mmmm", "MIG-1111"),
        ("0", "MIG-1111"),
        ("1,MIG-2222", "MIG-2222"),
    ],
)
def test_one_mig_instance_serves_a_process(asked: str, instance: str) -> None:
    seen = visible((MIG, A), {**BY_BUS, "CUDA_VISIBLE_DEVICES": asked})
    assert len(seen.devices) == 1
    assert seen.devices[0].gpu == MIG
    assert seen.devices[0].instance is not None
    assert seen.devices[0].instance.uuid == instance


def test_an_instance_that_is_not_there_names_nothing() -> None:
    assert visible((MIG,), {"CUDA_VISIBLE_DEVICES": "MIG-3333"}).devices == ()


@pytest.mark.parametrize(
    "bus_id", ["0000:02:00.0", "00000000:02:00.0", "02:00.0", "00000000:02:00.0\n", "0000:02:00.0 "]
)
def test_a_bus_id_in_any_form_finds_its_gpu(bus_id: str) -> None:
    assert match((A, B, C), bus_id) == B


def test_bus_ids_are_compared_in_lower_case_and_with_their_domain() -> None:
    assert canonical_bus_id("00000001:AF:00.0") == "0001:af:00.0"
    assert match((A, B, C), "0001:02:00.0") is None
    assert canonical_bus_id("x:y:z") == "x:y:z"
