"""What TensorFlow and CUDA say when the GPU itself fails, and what to do about it. Pure.

A trial that ends so says nothing of its batch size, and no other trial on that GPU would.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Wordings of cudaGetErrorString, cuGetErrorName and the kernel's driver (CUDA Runtime API, "Error
# handling"; NVIDIA, "Xid errors") -> what is wrong, and the remedy.
_FAULTS = tuple(
    (re.compile(pattern, re.IGNORECASE), said)
    for pattern, said in (
        (
            r"devices?(?:\(s\))? (?:is/)?are busy or unavailable|CUDA_ERROR_DEVICE_UNAVAILABLE",
            "it lets this process in no more: its compute mode is 'exclusive' and another process "
            "has it, or 'prohibited'. autobatch devices says which; wait for the other "
            "(--wait-for-idle), or nvidia-smi -c 0 (as root) allows several",
        ),
        (
            r"uncorrectable ECC|CUDA_ERROR_ECC_UNCORRECTABLE|Xid\b[^\n]{0,40}: (?:48|94|95),",
            "its memory has an error that could not be corrected (ECC). Reset it (nvidia-smi "
            "--gpu-reset, as root) and look at nvidia-smi -q -d ECC,ROW_REMAPPER; where errors "
            "come back, have the card replaced",
        ),
        (
            r"fallen off the bus|GPU is lost|Xid\b[^\n]{0,40}: 79,",
            "it fell off the bus. Look at dmesg for NVRM: Xid, at its power and its "
            "temperature, and restart the machine",
        ),
        (
            r"CUDA_ERROR_SYSTEM_NOT_READY|system not yet initialized",
            "its machine is not ready for CUDA: on systems with NVSwitch start the fabric manager "
            "(systemctl start nvidia-fabricmanager)",
        ),
        (
            r"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|driver version is insufficient for CUDA"
            r"|unsupported display driver",
            "its driver does not go with the CUDA libraries here. Update the driver, or restart "
            "the machine after an update",
        ),
    )
)


def find(texts: Iterable[str]) -> str | None:
    """What is wrong with the GPU, with the words that tell; None where nothing says so.

    Args:
        texts: Messages of exceptions, and the end of the log of a process that died.
    """
    for text in texts:
        for pattern, said in _FAULTS:
            found = pattern.search(text)
            if found is not None:
                return f"{said} ({found[0]!r})"
    return None
