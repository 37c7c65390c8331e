"""Lock an output and open it as a journal: empty for a new run, or with its rows for a resume."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ng_rollouts.errors import OutputError
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.paths import OutputPaths, back_up_output, has_content, remove
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.storage.compression import decompress
from ng_rollouts.storage.lock import lock


def open_new(paths: OutputPaths, rollouts: int, *, overwrite: bool) -> Journal:
    """Lock an empty output; an existing one is renamed with its side files, or removed with `overwrite`.

    Raises:
        OutputError: another process writes the output, or its folder cannot be written.
    """
    with _as_output_error(paths.output):
        paths.output.parent.mkdir(parents=True, exist_ok=True)
        fd = lock(paths.output)
        backup = None
        # The lock is on the file, not on its name. Between the renaming and the next lock, another run may have taken
        # the name, and even have finished: its files are then renamed, too.
        while any(has_content(path) for path in paths.all):
            try:
                if overwrite:
                    remove(paths)
                else:
                    backup = back_up_output(paths)
                new_fd = lock(paths.output)
            finally:
                os.close(fd)
            fd = new_fd
        journal = Journal(fd, paths, rollouts)
        journal.backup = backup
        return journal


def open_for_resume(paths: OutputPaths, rollouts: int) -> Journal:
    """Lock an existing output; if it is compressed, a decompressed copy of it.

    Raises:
        OutputError: another process writes the output, or it cannot be read or written.
    """
    with _as_output_error(paths.output):
        paths.output.parent.mkdir(parents=True, exist_ok=True)
        fd = lock(paths.output)
        compressed = [path for path in paths.names[1:] if path.exists()]
        compressed.sort(key=lambda path: path.stat().st_mtime_ns)
        # A plain file with rows is the output itself, and all compressed files are other files. An empty one only
        # holds the lock.
        newest = compressed.pop() if compressed and not os.fstat(fd).st_size else None
        if newest:
            try:
                _decompress_into_place(newest, paths.output)
                new_fd = lock(paths.output)
            finally:
                os.close(fd)
            fd = new_fd
        return Journal(fd, paths, rollouts, is_decompressed_copy=newest is not None, other_compressed=compressed)


def _decompress_into_place(compressed: Path, output: Path) -> None:
    try:
        with replacing(output) as temporary, compressed.open("rb") as file, temporary.open("wb") as decompressed:
            decompress(compressed.name, file, decompressed)
    except OSError as error:
        # The empty file that holds the lock would otherwise stay next to the compressed file.
        output.unlink(missing_ok=True)
        if error.errno != errno.EINVAL:  # `decompress` reports damaged content as EINVAL
            raise
        fix = "move it away to start a new run, or to fetch a copy from upload_to"
        raise OutputError(f"{compressed} cannot be read: {error.strerror}: {fix}") from error


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"output_jsonl_fpath {path} cannot be written: {error.strerror}") from error
