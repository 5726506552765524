"""Builds the stand-in for libnvidia-ml.so.1, and writes the file that it answers from.

Real `pynvml` runs against it with real ctypes calls: it loads `libnvidia-ml.so.1` by name, so the
library's folder goes into LD_LIBRARY_PATH of a new process. Every other function that the installed
pynvml knows is there too, and returns NVML_ERROR_NOT_SUPPORTED.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emulated_gpu.build import cached, compiler_for

HERE = Path(__file__).resolve().parent
LIBRARY = "libnvidia-ml.so.1"
NOT_SUPPORTED = 3


def library() -> Path:
    """The library, built now where it is not there yet (a second).

    Raises:
        CannotBuild: There is no compiler.
    """
    compiler = compiler_for("cc")
    source = (HERE / "nvml.c").read_bytes()
    spec = importlib.util.find_spec("pynvml")
    assert spec is not None
    assert spec.origin
    known = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', Path(spec.origin).read_text()))
    ours = set(re.findall(r"^int (nvml\w+)\(", source.decode(), re.MULTILINE))
    stubs = "".join(
        f"int {name}(void) {{ return {NOT_SUPPORTED}; }}\n" for name in sorted(known - ours)
    )

    def build(folder: Path) -> None:
        (folder / "stubs.c").write_text(stubs)
        files = [str(HERE / "nvml.c"), str(folder / "stubs.c")]
        flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
        subprocess.run([compiler, *flags, *files, "-o", str(folder / LIBRARY)], check=True)

    digest = hashlib.sha256(source + stubs.encode()).hexdigest()[:16]
    return cached(f"nvml-{digest}", LIBRARY, build)


@dataclass
class Nvml:
    """The state that the stand-in answers from, in a folder of its own."""

    folder: Path
    lines: tuple[str, ...] = ()

    def say(self, *lines: str) -> None:
        """Replace the whole state at once, also under a probe that runs."""
        self.lines = lines
        new = self.folder / "devices.new"
        new.write_text("".join(f"{line}\n" for line in lines))
        new.rename(self.folder / "devices")

    def add(self, *lines: str) -> None:
        """The same state with more lines at its end: processes of the last GPU, say."""
        self.say(*self.lines, *lines)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that is to see it."""
        paths: Iterable[str] = (str(library().parent), os.environ.get("LD_LIBRARY_PATH", ""))
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths)),
            "NVML_STAND_IN_STATE": str(self.folder),
        }


def gpu(board: int, mib: int, **more: object) -> str:
    """A line for the board of this number, as the emulated GPU numbers them."""
    fields: dict[str, object] = {
        "name": "Emulated_GPU",
        "uuid": f"GPU-emulated-{board}",
        "bus": f"0000:0{board + 1}:00.0",
        "total": mib << 20,
        **more,
    }
    return " ".join(("gpu", *(f"{name}={value}" for name, value in fields.items())))
