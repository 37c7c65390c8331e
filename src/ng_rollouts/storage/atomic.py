"""Replace files atomically: a reader sees the old file or the new one, never a part.

A new file is written under a temporary name in the same folder, synced, and renamed over the old one.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ng_rollouts.redaction import mask_values

TEMPORARY_SUFFIX = ".writing"
"""Marks a file that is not complete. A crash may leave one behind, and the next write replaces it."""


def temporary_name(path: Path) -> Path:
    """The name under which a file is written before it replaces `path`."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Replace a file by what the block writes to the temporary path it is given.

    If the block raises, or writes no file, `path` stays as it was.

    Args:
        durable: sync the new file before it replaces the old one. A power cut could otherwise leave an empty file.

    Raises:
        OSError: the file could not be written.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        if not temporary.exists():
            return
        if durable:
            sync(temporary)
        temporary.replace(path)  # rename(2) replaces atomically within a file system
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace a file by indented JSON, in which known secrets are masked.

    Raises:
        OSError: the file could not be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(mask_values(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def back_up(path: Path) -> Path:
    """Rename a file to the first free name of `path.1`, `path.2` and so on; the new name."""
    backup = next(name for number in itertools.count(1) if not (name := Path(f"{path}.{number}")).exists())
    path.rename(backup)
    return backup


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
