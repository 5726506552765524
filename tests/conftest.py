"""What all tests share: how Hypothesis runs, and that no test leaves a process or a pipe behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from nvml_stand_in.build import Nvml

# Everyone runs the same examples, on machines that may be busy; AUTOBATCH_TEST_RANDOM=1 looks for
# new ones, AUTOBATCH_TEST_EXAMPLES multiplies the number of them.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("exploring", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("exploring" if os.environ.get("AUTOBATCH_TEST_RANDOM") else "repeatable")


def open_files() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the listing's own
            continue
    return found


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What outlives a single test (fixtures of a module) keeps nothing in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOBATCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache_folder(
    no_cache_of_the_users: None,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A cache of its own for each test, so that none takes another's answer; and locks of its own,
    so that none waits for another's emulated GPU."""
    folder = tmp_path_factory.mktemp("cache") / "autobatch"
    monkeypatch.setenv("AUTOBATCH_CACHE_DIR", str(folder))
    runtime = folder.with_name("runtime")
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    return folder


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """Fails the test if it leaves a file, a pipe or a child process behind."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = open_files()
    yield
    assert open_files() == before
    with pytest.raises(ChildProcessError):  # no child left, not even one that nobody waited for
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives processes that the test starts emulated GPUs: `emulated_gpu(512)` one of 512 MiB."""
    from emulated_gpu import build

    try:
        build.library()
    except build.CannotBuild as error:
        pytest.skip(str(error))

    def give(memory_mib: int | str = 1024, count: int = 1, **variables: str) -> None:
        for name, value in {**build.environment(memory_mib, count), **variables}.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """A driver for processes that the test starts; emulated GPUs tell it what they use."""
    from emulated_gpu.build import CannotBuild

    made = Nvml(tmp_path / "nvml")
    made.folder.mkdir()
    try:
        variables = made.environment
    except CannotBuild as error:
        pytest.skip(str(error))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return made
