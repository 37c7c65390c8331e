"""An exclusive lock on the output file, so that one process writes it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from ng_rollouts.errors import OutputError


def lock(path: Path) -> int:
    """Open and lock the file that has this name now, made if there is none.

    Raises:
        OutputError: another process has it locked.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"output_jsonl_fpath {path} is being written by {_holder(fd)}: wait for it, or name another"
            os.close(fd)
            raise OutputError(message) from error
        if _has_name(fd, path):
            return fd
        os.close(fd)


def holder_of(fd: int) -> str | None:
    """The process that has a file locked; None if it can be locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(fd)
    fcntl.flock(fd, fcntl.LOCK_UN)
    return None


def _has_name(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _holder(fd: int) -> str:
    """The process that holds a lock on a file, as far as the system tells."""
    inode = f":{os.fstat(fd).st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if "FLOCK" in fields and any(word.endswith(inode) for word in fields):
                return f"process {fields[fields.index('WRITE') + 1]}"
    return "another process"
