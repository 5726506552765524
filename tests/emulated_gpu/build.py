"""Builds libemulated_gpu.so for the installed tensorflow-cpu, once for each version and source.

    python tests/emulated_gpu/build.py        # prints the library's path

The library lies in the user's cache folder, never in the repository.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("device.cc", "grappler.cc", "kernels.cc", "xla.cc")
TABLE = "gpu_kernels.pb"
LIBRARY = "libemulated_gpu.so"
DEFINED = ("_GLIBCXX_USE_CXX11_ABI=1", "EIGEN_MAX_ALIGN_BYTES=64", "NDEBUG")
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-Wall", *(f"-D{each}" for each in DEFINED)]


class CannotBuild(Exception):
    """Why there is no emulated GPU here."""


def library() -> Path:
    """The library, built now where it is not there yet (half a minute to a minute).

    Raises:
        CannotBuild: There is no compiler, or the installed TensorFlow is not tensorflow-cpu.
    """
    try:
        version = importlib.metadata.version("tensorflow-cpu")
    except importlib.metadata.PackageNotFoundError:
        raise CannotBuild("the emulated GPU is built for tensorflow-cpu alone") from None
    compiler = compiler_for("c++")
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for name in (*SOURCES, TABLE):
        digest.update((HERE / name).read_bytes())
    name = f"emulated_gpu-{version}-{digest.hexdigest()[:16]}"
    return cached(name, LIBRARY, lambda folder: _build(compiler, folder))


def _build(compiler: str, folder: Path) -> None:
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None
    assert spec.submodule_search_locations
    tensorflow = spec.submodule_search_locations[0]
    objects, running = [], []
    for name in SOURCES:
        objects.append(str(folder / f"{name}.o"))
        command = [compiler, *FLAGS, "-isystem", f"{tensorflow}/include", "-c", str(HERE / name)]
        running.append(subprocess.Popen([*command, "-o", objects[-1]]))
    statuses = [each.wait() for each in running]
    assert not any(statuses), f"{compiler} failed"
    linked = [f"-L{tensorflow}", "-l:libtensorflow_framework.so.2", "-l:libtensorflow_cc.so.2"]
    library = ["-shared", *objects, "-o", str(folder / LIBRARY), *linked]
    subprocess.run([compiler, *library], check=True)
    for each in objects:
        os.unlink(each)
    shutil.copy(HERE / TABLE, folder / TABLE)


def compiler_for(language: str) -> str:
    """The compiler of C (`cc`) or C++ (`c++`).

    Raises:
        CannotBuild: There is none.
    """
    asked = os.environ.get({"cc": "CC", "c++": "CXX"}[language], language)
    found = shutil.which(asked) or shutil.which({"cc": "gcc", "c++": "g++"}[language])
    if found is None:
        raise CannotBuild(f"there is no compiler ({asked})")
    return found


def cached(name, file, build):
    """The file in the folder of this name in the user's cache; `build(folder)` fills it.

    Two that build at once do not meet: each fills a folder of its own and renames it.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "autobatch-tests" / name
    if not (folder / file).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        mine = folder.with_name(f"{name}.{os.getpid()}")
        mine.mkdir(exist_ok=True)
        try:
            build(mine)
            if not (folder / file).exists():
                mine.rename(folder)
        finally:
            shutil.rmtree(mine, ignore_errors=True)
    return folder / file


def environment(memory_mib: int | str = 1024, count: int = 1) -> dict[str, str]:
    """Variables that give a process emulated GPUs.

    Args:
        memory_mib: Of each; `"512,768"` for unequal ones.
        count: How many.
    """
    return {
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": str(library()),
        "EMULATED_GPU_MEMORY_MB": str(memory_mib),
        "EMULATED_GPU_COUNT": str(count),
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(HERE / "site"), os.environ.get("PYTHONPATH")))
        ),
    }


if __name__ == "__main__":
    try:
        print(library())
    except CannotBuild as error:
        sys.exit(f"No emulated GPU: {error}.")
