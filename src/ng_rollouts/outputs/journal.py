"""The output file: appended to while a run goes on, put in order when it is over.

Invariants:
- Locked: one process writes an output at a time, from before it is opened until all that is made of it is in place.
- Whole lines: a row is written by one call, and a row that could not be written whole is cut off again, at once or,
  after a crash, when the file is next opened.
- Kept: until the finished file is complete and synced, the journal stays as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ng_rollouts.errors import StorageError
from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.storage.atomic import back_up, replacing, sync, temporary_name
from ng_rollouts.storage.compression import compress
from ng_rollouts.storage.line_index import (
    COPY_BUFFER_BYTES,
    Copier,
    decode_span,
    encode_span,
    lines_of,
    read_at,
    write_all,
)
from ng_rollouts.types import Json

_NOWHERE, _ASIDE = -1, -2
"""Spots that are none: the row is not there; the row is in the incomplete file."""


PositionOf = Callable[[Json], int | None]
"""The position that a row found in a file belongs to; None for a row that is not wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What finishing left: rows in the finished file, and rows set aside."""

    kept: int
    set_aside: int


class Journal:
    """An output file that this process has locked.

    Args:
        fd: the output, locked, open for appending and reading.
        paths: where it and its side files are.
        rollouts: how many are planned.
        is_only_a_copy: whether the output was unpacked just now, and may go unless it is written to.
        others: files that have the output's name packed, and are not what it was unpacked from.

    Attributes:
        backup: the new name of an output that existed, if it was renamed.
        count: rollouts that are written.
        unreadable: lines that were found and could not be read.
    """

    def __init__(
        self,
        fd: int,
        paths: OutputPaths,
        rollouts: int,
        *,
        is_decompressed_copy: bool = False,
        others: Sequence[Path] = (),
    ) -> None:
        self.backup: Path | None = None
        self.count = 0
        self.unreadable = 0
        self._fd = fd
        self._paths = paths
        self._end = 0
        self._needs_newline = False
        self._unsynced = False
        self._in_order = True
        self._last_position = -1
        self._spans = array("q", [_NOWHERE]) * rollouts
        self._aside: list[tuple[int, int]] = []
        self._is_decompressed_copy = is_decompressed_copy
        self._others = others

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_decompressed_copy:
            self._paths.output.unlink(missing_ok=True)
        os.close(self._fd)

    def has(self, position: int) -> bool:
        """Whether the row of a position is written."""
        return self._spans[position] != _NOWHERE

    def rows(self) -> Iterator[tuple[int, Json]]:
        """Positions and rows of what the output itself holds, by position."""
        for position, span in enumerate(self._spans):
            if span >= 0:
                yield position, loads(read_at(self._fd, *decode_span(self._fd, span)))

    def read_back(self, position_of: PositionOf) -> None:
        """Take over the rows that are there, in the output and in the incomplete file; nothing is changed yet.

        Of several rows for one position the first counts. A last line without its newline is kept if it is whole and
        forgotten if it is torn.
        """
        for offset, line, is_whole in lines_of(self._fd):
            row = _row(line)
            if row is not None:
                self._take(position_of(row), encode_span(offset, len(line) + (not is_whole)))
            if row is None and not is_whole:
                break
            if row is None:
                self.unreadable += bool(line.strip())
                self._in_order = False
            self._end = offset + len(line)
            self._needs_newline = not is_whole
        for position, span in self._rows_aside(position_of):
            self._in_order = False
            self._aside.append((position, span))
            self._spans[position] = _ASIDE
            self.count += 1

    def open_for_appending(self) -> None:
        """Cut off a torn line, and bring back the rows that were set aside.

        Raises:
            StorageError: the output cannot be written.
        """
        self._is_decompressed_copy = False
        try:
            os.ftruncate(self._fd, self._end)
            if self._needs_newline:
                write_all(self._fd, b"\n")
                self._end += 1
                self._needs_newline = False
        except OSError as error:
            raise StorageError(_storage_message(self._paths.output, error)) from error
        if self._aside:
            self._bring_back()

    def append(self, position: int, line: bytes) -> None:
        """Write the row of a position; it is the operating system's once this returns.

        Raises:
            StorageError: it could not be written; what was written before is intact.
        """
        try:
            write_all(self._fd, line + b"\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise StorageError(_storage_message(self._paths.output, error)) from error
        self._in_order = self._in_order and position > self._last_position
        self._last_position = position
        self.count += 1
        self._spans[position] = encode_span(self._end, len(line) + 1)
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
            self._unsynced = True
            raise StorageError(_storage_message(self._paths.output, error)) from error

    def finish(self, whole: Iterable[bool]) -> Finished:
        """Put the file in order, whole groups only; rows of other groups go to the incomplete file.

        Args:
            whole: for each planned position in order, whether its group is complete.

        Raises:
            StorageError: a file could not be written; the journal is as it was.
        """
        self.sync()
        if not self._end or (self._in_order and self.count == len(self._spans)):
            self._paths.incomplete.unlink(missing_ok=True)
            return Finished(kept=self.count, set_aside=0)
        try:
            return self._rewrite(whole)
        except OSError as error:
            message = f"{_storage_message(self._paths.output, error)}; all rows are in it, in completion order"
            raise StorageError(message) from error
        finally:
            for path in (self._paths.output, self._paths.incomplete):
                with contextlib.suppress(OSError):
                    temporary_name(path).unlink()

    def compress(self) -> list[Path]:
        """Have the finished file under the name that was asked for, packed if that says so, and under no other.

        While it is locked, the plain file stays, empty.

        Returns:
            Where files have gone that had its name packed, and were not it.

        Raises:
            StorageError: it could not be written; the finished file is there as it is.
        """
        output, finished = self._paths.output, self._paths.finished
        try:
            moved = self._compress_into(finished) if finished != output else list(map(back_up, self._others))
            for path in self._paths.names:
                if path not in (output, finished):
                    path.unlink(missing_ok=True)
            sync(output.parent)
        except OSError as error:
            raise StorageError(f"{_storage_message(finished, error)}; all rows are in {output}") from error
        return moved

    def _compress_into(self, finished: Path) -> list[Path]:
        output = self._paths.output
        with replacing(finished) as temporary:
            compress(output, temporary, finished)
            moved = list(map(back_up, self._others))
        sync(output.parent)  # or a power cut could leave only the emptied file
        os.truncate(output, 0)
        self._is_decompressed_copy = True
        return moved

    def _take(self, position: int | None, span: int) -> None:
        if position is None or self.has(position):
            self._in_order = False
            return
        self._in_order = self._in_order and position > self._last_position
        self._last_position = position
        self._spans[position] = span
        self.count += 1

    def _rows_aside(self, position_of: PositionOf) -> Iterator[tuple[int, int]]:
        """Positions and spots of the rows of the incomplete file that the output does not have."""
        with contextlib.suppress(FileNotFoundError), self._paths.incomplete.open("rb") as file:
            for offset, line, _ in lines_of(file.fileno()):
                row = _row(line)
                position = None if row is None else position_of(row)
                if position is not None and not self.has(position):
                    yield position, encode_span(offset, len(line))

    def _bring_back(self) -> None:
        with self._paths.incomplete.open("rb") as file:
            for position, span in self._aside:
                self.count -= 1
                self.append(position, read_at(file.fileno(), *decode_span(file.fileno(), span)).rstrip(b"\n"))
        self._aside = []
        self.sync()
        self._paths.incomplete.unlink()

    def _rewrite(self, whole: Iterable[bool]) -> Finished:
        output, incomplete = self._paths.output, self._paths.incomplete
        counters = {True: 0, False: 0}
        with (
            mmap.mmap(self._fd, self._end, access=mmap.ACCESS_READ) as journal,
            temporary_name(output).open("wb", COPY_BUFFER_BYTES) as kept,
            temporary_name(incomplete).open("wb", COPY_BUFFER_BYTES) as aside,
            Copier(self._fd, journal, kept) as keeping,
            Copier(self._fd, journal, aside) as setting_aside,
        ):
            for span, keep in zip(self._spans, whole, strict=True):
                if span >= 0:
                    (keeping if keep else setting_aside).add(*decode_span(self._fd, span))
                    counters[keep] += 1
            keeping.finish()
            setting_aside.finish()
            fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = os.dup(kept.fileno())
        os.close(self._fd)
        self._fd = locked
        if counters[False]:
            temporary_name(incomplete).replace(incomplete)
        temporary_name(output).chmod(output.stat().st_mode & 0o7777)
        temporary_name(output).replace(output)
        if not counters[False]:
            incomplete.unlink(missing_ok=True)
        sync(output.parent)
        return Finished(kept=counters[True], set_aside=counters[False])


def _row(line: bytes) -> Json | None:
    try:
        row = loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _storage_message(path: Path, error: OSError) -> str:
    return f"{path} cannot be written: {error.strerror}"
