"""The output file: appended to while a run goes on, put in order when it is over.

Invariants:
- Locked: one process writes an output at a time.
- Whole lines: a row is written by one call, and a row that could not be written whole is cut off again.
- Kept: until the finished file is complete and synced, the journal stays as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ng_rollouts.errors import OutputError, StorageError

_READ_BYTES = 1 << 16
_COPY_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """The output and the files that belong to it, all in its folder."""

    output: Path

    @property
    def failures(self) -> Path:
        """Rollouts that failed, one a line."""
        return self._beside("_failures.jsonl")

    @property
    def incomplete(self) -> Path:
        """Rollouts whose group is not complete, one a line."""
        return self._beside("_incomplete.jsonl")

    @property
    def finishing(self) -> Path:
        """The finished file while it is being written."""
        return self.output.with_name(self.output.name + ".finishing")

    @property
    def setting_aside(self) -> Path:
        """The incomplete file while it is being written."""
        return self.incomplete.with_name(self.incomplete.name + ".finishing")

    @property
    def all(self) -> tuple[Path, ...]:
        """The output first, then what belongs to it."""
        return (self.output, self.failures, self.incomplete)

    def _beside(self, ending: str) -> Path:
        return self.output.with_name(self.output.stem + ending)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What finishing left: rows in the finished file, and rows set aside."""

    kept: int
    set_aside: int


class Journal:
    """An output file that this process has locked.

    Args:
        fd: the output, locked, empty, open for appending and reading.
        paths: where it and its side files are.
        rollouts: how many are planned.
        moved: where an output that was there has gone, if it was moved aside.
    """

    def __init__(self, fd: int, paths: OutputPaths, rollouts: int, moved: Path | None) -> None:
        self.moved = moved
        self._fd = fd
        self._paths = paths
        self._count = 0
        self._end = 0
        self._unsynced = False
        self._in_order = True
        self._last_position = -1
        self._offsets = array("q", [-1]) * rollouts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def has(self, position: int) -> bool:
        """Whether the row of a position is written."""
        return self._offsets[position] >= 0

    def append(self, position: int, line: bytes) -> None:
        """Write the row of a position; it is the operating system's once this returns.

        Raises:
            StorageError: it could not be written; what was written before is intact.
        """
        try:
            _write_all(self._fd, line + b"\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise StorageError(_storage_message(self._paths.output, error)) from error
        self._in_order = self._in_order and position > self._last_position
        self._last_position = position
        self._count += 1
        self._offsets[position] = self._end
        self._end += len(line) + 1
        self._unsynced = True

    def sync(self) -> None:
        """Bring what was appended to the disk itself.

        Raises:
            StorageError: the disk refused.
        """
        if not self._unsynced:
            return
        self._unsynced = False
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise StorageError(_storage_message(self._paths.output, error)) from error

    def finish(self, whole: Iterable[bool]) -> Finished:
        """Put the file in order, whole groups only; rows of other groups go to the incomplete file.

        Args:
            whole: for each planned position in order, whether its group is complete.

        Raises:
            StorageError: a file could not be written; the journal is as it was.
        """
        self.sync()
        if self._in_order and self._count == len(self._offsets):
            self._paths.incomplete.unlink(missing_ok=True)
            return Finished(kept=self._count, set_aside=0)
        try:
            return self._rewrite(whole)
        except OSError as error:
            message = f"{_storage_message(self._paths.output, error)}; all rows are there, in completion order"
            raise StorageError(message) from error
        finally:
            self._paths.finishing.unlink(missing_ok=True)
            self._paths.setting_aside.unlink(missing_ok=True)

    def _rewrite(self, whole: Iterable[bool]) -> Finished:
        paths = self._paths
        with paths.finishing.open("wb", _COPY_BUFFER_BYTES) as kept, paths.setting_aside.open("wb") as aside:
            counts = {True: 0, False: 0}
            for offset, keep in zip(self._offsets, whole, strict=True):
                if offset >= 0:
                    (kept if keep else aside).write(self._row(offset))
                    counts[keep] += 1
            for file in (kept, aside):
                file.flush()
                os.fsync(file.fileno())
        if counts[False]:
            paths.setting_aside.replace(paths.incomplete)
        _copy_mode(paths.output, paths.finishing)
        paths.finishing.replace(paths.output)
        if not counts[False]:
            paths.incomplete.unlink(missing_ok=True)
        _sync_folder(paths.output.parent)
        return Finished(kept=counts[True], set_aside=counts[False])

    def _row(self, offset: int) -> bytes:
        """The line at an offset, with its newline."""
        chunk = os.pread(self._fd, _READ_BYTES, offset)
        end = chunk.find(b"\n")
        if end >= 0:
            return chunk[: end + 1]
        pieces = [chunk]
        while end < 0 and chunk:
            offset += len(chunk)
            chunk = os.pread(self._fd, _READ_BYTES * 16, offset)
            end = chunk.find(b"\n")
            pieces.append(chunk if end < 0 else chunk[: end + 1])
        return b"".join(pieces)


def open_journal(paths: OutputPaths, rollouts: int, *, overwrite: bool) -> Journal:
    """Lock the output and start it anew, after moving an existing one aside, or removing it if told to.

    Raises:
        OutputError: another process writes it, or its folder cannot be written.
    """
    try:
        paths.output.parent.mkdir(parents=True, exist_ok=True)
        fd = _lock(paths.output)
        moved = None
        if any(_has_content(path) for path in paths.all):
            try:
                if overwrite:
                    _remove(paths)
                else:
                    moved = _move_aside(paths)
                new = _lock(paths.output)
            finally:
                os.close(fd)
            fd = new
    except OSError as error:
        raise OutputError(f"output_jsonl_fpath {paths.output} cannot be written: {error.strerror}") from error
    return Journal(fd, paths, rollouts, moved)


def check_output(paths: OutputPaths, source: Path) -> None:
    """Check, without touching anything, that the output can be a file of its own.

    Raises:
        OutputError: it is no file, or it, or a file that belongs to it, is the input.
    """
    if paths.output.exists() and not paths.output.is_file():
        what = "a folder" if paths.output.is_dir() else "no regular file"
        raise OutputError(f"output_jsonl_fpath {paths.output} is {what}: name a JSONL file")
    for path in paths.all:
        if path.exists() and path.samefile(source):
            raise OutputError(f"output_jsonl_fpath {paths.output} would replace the input {source}: name another")


def _lock(path: Path) -> int:
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


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _remove(paths: OutputPaths) -> None:
    for path in paths.all:
        path.unlink(missing_ok=True)


def _move_aside(paths: OutputPaths) -> Path:
    """Rename the output and what belongs to it to the first number that is free for all; say where it went."""
    for number in itertools.count(1):
        targets = {path: path.with_name(f"{path.name}.{number}") for path in paths.all}
        if not any(target.exists() for target in targets.values()):
            break
    for path, target in targets.items():
        if path.exists():
            path.rename(target)
    return targets[paths.output]


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _copy_mode(source: Path, target: Path) -> None:
    target.chmod(source.stat().st_mode & 0o7777)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _storage_message(path: Path, error: OSError) -> str:
    return f"{path} cannot be written: {error.strerror}"
