"""Files: whole or not at all, their owner's alone, and what stands in their way is an error."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from autobatch import storage
from autobatch.errors import StorageError

ROOT_USER = os.geteuid() == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def little_room():
    """Files of this process end at 100 bytes, as those on a full disk do.

    Only around one call: what pytest writes meanwhile may go to a file, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_folder_is_asked_for_in_its_order(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOBATCH_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.cache_folder() == tmp_path / "own"
    monkeypatch.setenv("AUTOBATCH_CACHE_DIR", "")
    assert storage.cache_folder() == tmp_path / "xdg" / "autobatch"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert storage.cache_folder() == tmp_path / "home" / ".cache" / "autobatch"


def test_folders_are_their_owners_alone(tmp_path):
    old = os.umask(0)
    try:
        made = storage.private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert mode(made) == mode(made.parent) == 0o700
    made.chmod(0o777)
    assert mode(storage.private_folder(made)) == 0o700


def test_a_folder_that_cannot_be_one_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="AUTOBATCH_CACHE_DIR"):
            storage.private_folder(path)


@pytest.mark.skipif(not ROOT_USER, reason="only root can make a folder another user's")
def test_another_users_folder_is_refused(tmp_path):
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(StorageError, match="belongs to another user"):
        storage.private_folder(tmp_path)
    os.chown(tmp_path, 0, 0)


def test_a_write_is_whole_and_private(tmp_path):
    path = tmp_path / "file"
    old = os.umask(0)
    try:
        storage.write_whole(path, b"one")
        assert mode(path) == 0o600
    finally:
        os.umask(old)
    storage.write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"], "no other file is left"


def test_a_results_file_has_the_permissions_of_the_users_own_files(tmp_path):
    old = os.umask(0o027)
    try:
        storage.write_whole(tmp_path / "result", b"{}", mode=storage.PUBLIC_MODE)
    finally:
        os.umask(old)
    assert mode(tmp_path / "result") == 0o640


def test_on_a_full_disk_the_old_file_stays_and_no_half_one(tmp_path):
    path = tmp_path / "file"
    storage.write_whole(path, b"old")
    with pytest.raises(StorageError, match="could not be written"), little_room():
        storage.write_whole(path, b"x" * 1000)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_device_is_written_to_and_never_replaced():
    before = os.stat("/dev/full")
    with pytest.raises(StorageError, match="No space left"):
        storage.write_whole(Path("/dev/full"), b"{}")
    storage.write_whole(Path("/dev/null"), b"{}")
    assert os.path.samestat(before, os.stat("/dev/full"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    storage.require_writable(Path("/dev/null"))


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "link").symlink_to("real")
    storage.write_whole(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"
    (tmp_path / "circle").symlink_to("circle")
    for refuse in (storage.require_writable, lambda p: storage.write_whole(p, b"")):
        with pytest.raises(StorageError):
            refuse(tmp_path / "circle")


@pytest.mark.parametrize("path", ["/nowhere/result", "/proc/result", ".", "a\0b", "x" * 300])
def test_what_cannot_be_written_is_refused_before_and_after(path):
    for refuse in (storage.require_writable, lambda p: storage.write_whole(p, b"")):
        if refuse is not storage.require_writable and path == ".":
            continue  # rename onto a folder: the system's own words
        with pytest.raises(StorageError):
            refuse(Path(path))


def test_a_read_is_bounded_and_never_waits(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)
    assert storage.read_bounded(path, 11) == b"x" * 11
    with pytest.raises(StorageError, match="more than 10 bytes"):
        storage.read_bounded(path, 10)
    os.mkfifo(tmp_path / "pipe")
    for each in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(StorageError):
            storage.read_bounded(each, 10)
    with pytest.raises(FileNotFoundError):
        storage.read_bounded(tmp_path / "none", 10)


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    path = tmp_path / "file"
    texts = [bytes([65 + n]) * 5000 for n in range(8)]
    threads = [threading.Thread(target=storage.write_whole, args=(path, t)) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts
    assert os.listdir(tmp_path) == ["file"]
