"""Replace files atomically: a reader sees the old file or the new one, never a part.

A new file is written under a temporary name in the same folder, synced, and renamed over the old one.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ng_rollouts.jsonl import dumps_indented
from ng_rollouts.redaction import mask_values

_SUFFIX = ".writing"
"""Marks a file that is not complete."""

_TOKEN_BYTES = 4

SUFFIX_BYTES = len(".") + 2 * _TOKEN_BYTES + len(_SUFFIX)
"""How much longer a temporary name is than the name of the file."""

# A temporary file can have one itself, while it is compressed.
_TEMPORARY = re.compile(rf"(\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}{re.escape(_SUFFIX)})+\Z")


def new_temporary(path: Path) -> Path:
    """Create an empty file next to `path`, to be renamed over it.

    The name is random and the file is new (O_EXCL), so that neither another process nor a link that another user of the
    folder has placed there can redirect what is written.

    Raises:
        OSError: the file could not be created.
    """
    while True:
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(_TOKEN_BYTES)}{_SUFFIX}")
        with suppress(FileExistsError):
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
            return temporary


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Replace a file by what the block writes to the temporary path it is given.

    If the block raises, or removes the temporary file, `path` stays as it was.

    Args:
        durable: sync the new file before it replaces the old one. A power cut could otherwise leave an empty file.

    Raises:
        OSError: the file could not be written, or `path` is a folder, a device or a pipe.
    """
    check_regular(path)
    temporary = new_temporary(path)
    try:
        yield temporary
        if not temporary.exists():
            return
        if durable:
            sync(temporary)
        temporary.replace(path)  # rename(2) replaces atomically within a file system
    finally:
        discard(temporary)


def check_regular(path: Path) -> None:
    """Check that a file can be replaced: that it is a regular file or a link, or does not exist.

    Raises:
        OSError: it is a folder, a device or a pipe.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def discard(path: Path) -> None:
    """Remove a temporary file. An error is ignored, because it would hide the error that led here."""
    with suppress(OSError):
        path.unlink()


def remove_leftovers(*paths: Path) -> None:
    """Remove temporary files that a crash has left for `paths`. No other process may write them at the same time."""
    for folder in {path.parent for path in paths}:
        with suppress(OSError), os.scandir(folder) as entries:
            names = {path.name for path in paths if path.parent == folder}
            leftovers = [entry.path for entry in entries if _target_of(entry.name) in names]
            for leftover in leftovers:
                discard(Path(leftover))


def _target_of(name: str) -> str | None:
    """The name of the file that a temporary name stands for; None for another name."""
    match = _TEMPORARY.search(name)
    return name[: match.start()] if match else None


def write_json(path: Path, value: Any) -> None:
    """Replace a file by indented JSON, in which known secrets are masked.

    Raises:
        OSError: the file could not be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(dumps_indented(mask_values(value)))


def back_up(path: Path) -> Path:
    """Rename a file to the first free name of `path.1`, `path.2` and so on; the new name."""
    return path.rename(free_name(path))


def free_name(path: Path) -> Path:
    """The first of `path.1`, `path.2` and so on that does not exist."""
    return next(name for number in itertools.count(1) if not os.path.lexists(name := Path(f"{path}.{number}")))


def sync(path: Path) -> None:
    """Write a file, or the entries of a folder, to the disk.

    Raises:
        OSError: the disk reported an error.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
