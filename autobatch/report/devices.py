"""A survey of the GPUs as text."""

from __future__ import annotations

import textwrap

from autobatch.report.text import one_line, to_ascii
from autobatch.survey import Survey, SurveyedGpu
from autobatch.units import format_bytes

NO_GPU = "No GPU here: autobatch probes on the CPU, behind TensorFlow's GPU allocator"


def devices(found: Survey, *, width: int = 80, color: bool = False, unicode: bool = True) -> str:
    """The survey for a terminal.

    Args:
        found: What there is.
        width: Of a line.
        color: Unused: the text has none.
        unicode: Whether other characters than ASCII may be used.
    """
    lines: list[str] = []
    if not found.gpus:
        why = "" if found.problems else f" ({_reason(found)})"
        lines.append(f"{NO_GPU}, with {format_bytes(found.host_bytes)}{why}.")
    for gpu in found.gpus:
        lines += _gpu(gpu, width)
    lines += [f"Problem: {one_line(text)}" for text in found.problems]
    if found.gpus:
        lines += [f"Note: {one_line(text)}" for text in found.notes]
        lines.append(_versions(found))
    text = "\n".join(lines)
    return text if unicode else to_ascii(text)


def _reason(found: Survey) -> str:
    return "NVML finds no driver, and TensorFlow no device" if found.notes else "none is listed"


def _gpu(gpu: SurveyedGpu, width: int) -> list[str]:
    name = one_line(gpu.name) or "GPU"
    head = f"{gpu.device or 'unseen by TensorFlow'}: {name}"
    details = [
        f"compute capability {gpu.compute_capability}" if gpu.compute_capability else "",
        f"PCI bus {gpu.bus_id}" if gpu.bus_id else "",
        f"MIG instance {gpu.mig}" if gpu.mig else gpu.uuid,
    ]
    memory = [
        f"{format_bytes(gpu.total_bytes)} in all" if gpu.total_bytes is not None else "",
        f"{format_bytes(gpu.used_bytes)} in use" if gpu.used_bytes is not None else "",
        f"{format_bytes(gpu.allocatable_bytes)} for a training that starts now"
        if gpu.allocatable_bytes is not None
        else "",
    ]
    lines = [head, *_joined(details, width), *_joined(memory, width)]
    for process in gpu.processes or ():
        held = "memory unknown" if process.used_bytes is None else format_bytes(process.used_bytes)
        lines.append(f"  in use by process {process.pid} ({one_line(process.name) or '?'}): {held}")
    if gpu.processes is None and gpu.uuid:
        lines.append("  the driver does not say which processes use it")
    for problem in gpu.problems:
        lines += textwrap.wrap(
            f"Problem: {one_line(problem)}", width, initial_indent="  ", subsequent_indent="  "
        )
    return lines


def _joined(parts: list[str], width: int) -> list[str]:
    text = ", ".join(part for part in parts if part)
    indent = {"initial_indent": "  ", "subsequent_indent": "  "}
    words = {"break_long_words": False, "break_on_hyphens": False}  # a UUID is one word
    return textwrap.wrap(one_line(text), width, **indent, **words)  # type: ignore[arg-type]


def _versions(found: Survey) -> str:
    parts = [
        f"driver {found.driver}" if found.driver else "",
        f"CUDA up to {found.driver_cuda}" if found.driver_cuda else "",
        f"TensorFlow {found.tensorflow}" if found.tensorflow else "",
        f"built for CUDA {found.tensorflow_cuda}" if found.tensorflow_cuda else "",
        f"allocator {found.allocator}" if found.allocator else "",
    ]
    return ", ".join(part for part in parts if part)
