"""Files that must not be lost, half written, or read by others; and the folder they are kept in.

Every write is whole or not at all: to a file of another name in the same folder, fsynced, then
renamed. What is read is read up to a limit.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from autobatch.errors import StorageError

VARIABLE = "AUTOBATCH_CACHE_DIR"
FOLDER_MODE, FILE_MODE = 0o700, 0o600
PUBLIC_MODE = 0o666  # less the process's umask


def cache_folder() -> Path:
    """Where autobatch keeps results and journals.

    `AUTOBATCH_CACHE_DIR`, else `autobatch` in `XDG_CACHE_HOME`, else in `~/.cache`. As the XDG
    specification asks, a relative `XDG_CACHE_HOME` counts as unset.

    Raises:
        StorageError: There is no home folder either.
    """
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):
        return Path(shared) / "autobatch"
    try:
        return Path.home() / ".cache" / "autobatch"
    except RuntimeError as error:
        raise StorageError(
            f"There is no home folder to keep results in. Name a folder in {VARIABLE}."
        ) from error


def private_folder(path: Path) -> Path:
    """The folder, made where it is missing, and open to its owner alone.

    Raises:
        StorageError: It cannot be made, is no folder, or belongs to another user.
    """
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another probe was faster
                each.mkdir(mode=FOLDER_MODE)
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(0, "it is no folder")
        if status.st_uid != os.geteuid():
            raise PermissionError(0, "it belongs to another user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(FOLDER_MODE)
    except OSError as error:
        raise StorageError(
            f"The folder {path} cannot be used ({error.strerror}). Name another one in {VARIABLE}."
        ) from error
    return path


def write_whole(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Have `path` hold `data`, or leave it as it was.

    A device or a pipe at `path` is written to, never replaced; a link is followed.

    Args:
        path: The file.
        data: What it is to hold.
        mode: Its permissions, less the process's umask.

    Raises:
        StorageError: It could not be written; a file that was there is as it was.
    """
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            _write_into(path, data)
            return
        fresh = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
        try:
            _write_new(fresh, data, mode)
            fresh.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        _sync_folder(path.parent)
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a null byte
        raise StorageError(f"{path} could not be written ({_why(error)}).") from error


def require_writable(path: Path) -> None:
    """Refuse a path that `write_whole` could not write: better before hours of work than after.

    Raises:
        StorageError: The folder is not there or may not be written to, or the path is a folder.
    """
    try:
        path = path.resolve()
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if path.exists() and not path.is_file():
            return
        probe = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        probe.unlink()
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(f"{path} cannot be written ({_why(error)}).") from error


def read_bounded(path: Path, limit: int) -> bytes:
    """What a regular file holds.

    Raises:
        FileNotFoundError: There is none.
        StorageError: It cannot be read, is no regular file, or holds more than `limit` bytes.
    """
    try:
        # Not blocking: opening a pipe that nobody writes to would wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} could not be read ({_why(error)}).") from error
    return _read(fd, path, limit)


def _read(fd: int, path: Path, limit: int) -> bytes:
    try:
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StorageError(f"{path} could not be read (it is no regular file).")
            data = file.read(limit + 1)
    except OSError as error:
        raise StorageError(f"{path} could not be read ({_why(error)}).") from error
    if len(data) > limit:
        raise StorageError(f"{path} holds more than {limit} bytes, which no file of ours does.")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def _write_into(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) or 0 :]


def _sync_folder(path: Path) -> None:
    """Have the folder's own entry outlive a power cut, on file systems that know that."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
