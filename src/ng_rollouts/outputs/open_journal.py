"""An output that this process has locked, as a journal: begun anew, or gone on with."""

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
    """Lock the output and start it anew, after moving an existing one aside, or removing it if told to.

    Raises:
        OutputError: another process writes it, or its folder cannot be written.
    """
    with _as_output_error(paths.output):
        paths.output.parent.mkdir(parents=True, exist_ok=True)
        fd = lock(paths.output)
        backup = None
        if any(has_content(path) for path in paths.all):
            try:
                if overwrite:
                    remove(paths)
                else:
                    backup = back_up_output(paths)
                new = lock(paths.output)
            finally:
                os.close(fd)
            fd = new
        journal = Journal(fd, paths, rollouts)
        journal.backup = backup
        return journal


def open_for_resume(paths: OutputPaths, rollouts: int) -> Journal:
    """Lock the output as it is, to go on with it; if it is packed, an unpacked copy of it.

    Raises:
        OutputError: another process writes it, or it cannot be written.
    """
    with _as_output_error(paths.output):
        paths.output.parent.mkdir(parents=True, exist_ok=True)
        fd = lock(paths.output)
        packed = sorted((path for path in paths.names[1:] if path.exists()), key=lambda path: path.stat().st_mtime_ns)
        newest = packed.pop() if packed and not os.fstat(fd).st_size else None
        if newest:
            try:
                _unpack_into_place(newest, paths.output)
                new = lock(paths.output)
            finally:
                os.close(fd)
            fd = new
        return Journal(fd, paths, rollouts, is_decompressed_copy=newest is not None, others=packed)


def _unpack_into_place(packed: Path, output: Path) -> None:
    try:
        with replacing(output) as temporary, packed.open("rb") as file, temporary.open("wb") as plain:
            decompress(packed.name, file, plain)
    except OSError as error:
        output.unlink(missing_ok=True)
        if error.errno != errno.EINVAL:
            raise
        cure = "move it away to start again, or to fetch a copy from upload_to"
        raise OutputError(f"{packed} cannot be read: {error.strerror}: {cure}") from error


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"output_jsonl_fpath {path} cannot be written: {error.strerror}") from error
