"""The lock of a device: with real processes that hold it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import autobatch
from autobatch import device_lock, devices
from autobatch.device_lock import DeviceLock, DeviceLocks
from autobatch.errors import DeviceError
from autobatch.events import Notice

HOLDER = """
import sys, time
from pathlib import Path
from autobatch.device_lock import DeviceLock
sys.argv = ["/usr/bin/autobatch", "probe", "their model.py"]
with DeviceLock({device!r}, 0, print, Path({folder!r})) as lock:
    print("held", flush=True)
    {then}
    sys.stdin.read()
"""
LONG = 30.0
TINY = Path(__file__).resolve().parent / "samples" / "tiny.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "autobatch"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that holds the lock of a GPU until its stdin ends."""
    started = []

    def start(then: str = "", device: str = "GPU-1") -> subprocess.Popen[str]:
        program = HOLDER.format(folder=str(tmp_path / "autobatch"), then=then, device=device)
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_the_second_is_told_who_holds_it_and_waits(holder, folder):
    first = holder()
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        first.stdin.close()

    with DeviceLock("GPU-1", LONG, tell, folder) as lock:
        assert lock.held
    assert not lock.held
    (text,) = said
    assert f"GPU-1 is in use by another probe, process {first.pid} " in text
    assert "(autobatch probe 'their model.py'), since 20" in text


def test_the_wait_has_a_limit(holder, folder):
    first = holder()
    said: list[str] = []
    with (
        pytest.raises(DeviceError, match=rf"process {first.pid} .*waited 0\.3 s.*--device-wait"),
        DeviceLock("GPU-1", 0.3, said.append, folder),
    ):
        raise AssertionError("it was held")
    assert len(said) == 1


def test_another_device_is_free(holder, folder):
    holder()
    said: list[str] = []
    with DeviceLock("GPU-2", 0, said.append, folder) as lock:
        assert lock.held
    assert not said


def test_a_killed_owner_leaves_no_stale_lock(holder, folder):
    holder().kill()
    with DeviceLock("GPU-1", LONG, lambda _: None, folder) as lock:
        assert lock.held


def test_it_is_held_until_the_last_process_with_the_descriptor_has_ended(holder, folder):
    """A killed probe's wardens still end its workers: their memory is not free yet."""
    first = holder(
        "import subprocess; child = subprocess.Popen(['sleep', '60'], pass_fds=lock.held, "
        "stdout=subprocess.DEVNULL); print(child.pid, flush=True)"
    )
    warden = int(first.stdout.readline())
    first.kill()
    first.wait()
    try:
        with pytest.raises(DeviceError), DeviceLock("GPU-1", 0.3, lambda _: None, folder):
            raise AssertionError("it was held")
    finally:
        os.kill(warden, 9)
    with DeviceLock("GPU-1", LONG, lambda _: None, folder) as lock:
        assert lock.held


def test_a_probe_on_a_gpu_waits_for_another_and_then_gives_up(holder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = holder(device=devices.gpu_identity(0))
    said = []
    with pytest.raises(DeviceError, match=f"process {first.pid} .*waited 0.5 s"):
        autobatch.probe(str(TINY), device="gpu", device_wait=0.5, observer=said.append)
    assert [type(event) for event in said] == [Notice]


def test_where_it_cannot_be_locked_the_probe_goes_on_with_a_warning(folder):
    folder.mkdir()
    folder.chmod(0o777)
    said: list[str] = []
    with DeviceLock("GPU-1", 0, said.append, folder) as lock:
        assert lock.held == ()
    (folder / "file").touch()
    with DeviceLock("GPU-1", 0, said.append, folder / "file") as lock:
        assert lock.held == ()
    assert len(said) == 2
    assert "can be written by others): another probe on it would go unnoticed" in said[0]


@pytest.mark.parametrize(
    "record",
    [b"", b"{", b"[]", b"\xff", b"null", b'{"pid": 1}', b"[" * 4000,
     b'{"pid": 1, "command": "x", "since": 1e300}', b'{"pid": "x", "command": 1, "since": 0}'],
)  # fmt: skip
def test_a_damaged_record_is_only_an_owner_unknown(record):
    assert device_lock._owner(record) == "of which nothing more is known"


def test_a_record_cannot_steer_the_terminal():
    record = b'{"pid": 7, "command": "a\\u001b[31m\\nb", "since": 0}'
    assert "process 7 (a?[31m?b), since 19" in device_lock._owner(record)


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with DeviceLock("GPU/../0", 0, pytest.fail) as lock:
        assert lock.held
        (file,) = (tmp_path / "cache" / "autobatch").iterdir()
        assert file.name == "GPU_0.lock"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with DeviceLock("GPU-0", 0, pytest.fail):
        assert (tmp_path / "autobatch" / "GPU-0.lock").exists()


def test_several_devices_are_held_all_or_none(
    folder: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    holder(device="GPU-2")
    with DeviceLocks(("GPU-3", "GPU-1", "GPU-3"), 0, pytest.fail, folder) as locks:
        assert len(locks.held) == 2
    with pytest.raises(DeviceError, match="GPU-2 is in use by another probe"):
        DeviceLocks(("GPU-2", "GPU-1"), 0, lambda _: None, folder).__enter__()
    with DeviceLocks(("GPU-1",), 0, pytest.fail, folder):  # let go of again
        pass
    assert DeviceLocks((), 0, pytest.fail, folder).held == ()
