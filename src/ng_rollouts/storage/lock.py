"""An exclusive lock on the output file, so that one process writes it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ng_rollouts.errors import OutputError
from ng_rollouts.storage.atomic import remove_leftovers

_PROBE_S = 0.2
"""How long a lock is tried. `holder_of` of a command that reads the file holds it for some microseconds."""


def lock(path: Path) -> int:
    """Open and lock a file. It is created if it does not exist.

    Returns:
        The descriptor, opened for reading and appending. Closing it releases the lock.

    Raises:
        OutputError: another process has locked the file.
    """
    deadline = time.monotonic() + _PROBE_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                os.close(fd)
                time.sleep(_PROBE_S / 10)
                continue
            message = f"{path} is being written by {_holder(fd)}: wait for it, or set another path"
            os.close(fd)
            raise OutputError(message) from error
        # the file may have been renamed or replaced between open and flock; the lock would then be on the old file
        if has_name(fd, path):
            return fd
        os.close(fd)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the block replaces it, so that no run writes it at the same time.

    Temporary files that a crash has left for it are removed.

    Raises:
        OutputError: another process has locked the file.
        OSError: it cannot be opened.
    """
    existed = path.exists()
    fd = lock(path)
    try:
        remove_leftovers(path)
        yield
    finally:
        # An empty file that was created for the lock goes again, unless the block has replaced it.
        if not existed and has_name(fd, path):
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(fd)


def holder_of(fd: int) -> str | None:
    """The process that has locked a file; None if the file is not locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(fd)
    fcntl.flock(fd, fcntl.LOCK_UN)
    return None


def is_locked_by_parent(path: Path) -> bool:
    """Whether the parent process has locked a file: whether this is a child of the run that writes it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return holder_of(file.fileno()) == f"process {os.getppid()}"
    return False


def has_name(fd: int, path: Path) -> bool:
    """Whether `path` is still the name of an open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _holder(fd: int) -> str:
    """The process that has locked a file, by its id if /proc/locks shows it (proc(5), Linux only)."""
    inode = f":{os.fstat(fd).st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if "FLOCK" in fields and any(field.endswith(inode) for field in fields):
                return f"process {fields[fields.index('WRITE') + 1]}"
    return "another process"
