"""A GPU that fails by itself is told as such, and nothing else is."""

from __future__ import annotations

import pytest

from autobatch import device_faults, endings, protocol
from autobatch.endings import End, device_fault
from autobatch.errors import DeviceError
from autobatch.records import Outcome

SAID = [
    ("CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered", "corrected (ECC)"),
    ("NVRM: Xid (PCI:0000:03:00): 48, pid=1, Double Bit ECC Error", "corrected (ECC)"),
    ("NVRM: Xid (PCI:0000:03:00): 79, GPU has fallen off the bus.", "fell off the bus"),
    ("cudaSetDevice() on GPU:0 failed. Status: all CUDA-capable devices are busy or unavailable",
     "'exclusive'"),
    ("failed. Status: CUDA-capable device(s) is/are busy or unavailable", "'exclusive'"),
    ("cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE: ...", "'exclusive'"),
    ("CUDA_ERROR_SYSTEM_NOT_READY: system not yet initialized", "fabric manager"),
    ("cudaGetDevice() failed. Status: CUDA driver version is insufficient for CUDA runtime version",
     "Update the driver"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), SAID)
def test_each_wording_has_its_remedy(text: str, said: str) -> None:
    found = device_faults.find(["something else", f"2025-01-01 F {text}"])
    assert found is not None
    assert said in found


@pytest.mark.parametrize(
    "text",
    [
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
        "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
        "NVRM: Xid (PCI:0000:03:00): 31, pid=1, MMU Fault",
        "my data loader is busy or unavailable",
    ],
)
def test_what_a_kernel_or_a_script_did_is_no_fault_of_the_card(text: str) -> None:
    assert device_faults.find([text]) is None


def end(**fields: object) -> End:
    return End(**{"phase": "step", "device": "gpu", **fields})  # type: ignore[arg-type]


def failed(kind: str, message: str) -> protocol.Failed:
    return protocol.Failed(exception_types=(kind,), message=message)


def test_a_worker_that_died_is_judged_by_its_log_and_one_that_answered_by_its_error() -> None:
    log = "F could not synchronize: CUDA_ERROR_ECC_UNCORRECTABLE"
    died = device_fault(end(log=log, exit_status=-6))
    assert died is not None
    assert "failed while training: its memory" in died.message
    assert device_fault(end(log=log, exit_status=-6, device="cpu")) is None
    # what a script writes is not what its training failed of
    assert device_fault(end(log=log, failed=failed("ValueError", "no"))) is None
    cause = (("InternalError",), "uncorrectable ECC")
    caused = protocol.Failed(exception_types=("E",), message="no", causes=(cause,))
    assert device_fault(end(failed=caused)) is not None


def test_one_that_could_not_be_loaded_for_it_is_no_error_of_the_models() -> None:
    busy = failed("InternalError", "CUDA-capable device(s) is/are busy or unavailable")
    failure = endings.loading_failed(end(phase="building", failed=busy), None)
    assert failure.outcome is Outcome.FAILED
    assert type(failure.error) is DeviceError
