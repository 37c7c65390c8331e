"""The journal: the output file while a run writes it, in completion order; `finish` puts it in order.

Invariants:
- Locked: one process writes an output at a time. It holds the lock from before the first row is read or written until
  every file that is made from the output is in place.
- Whole lines: a row is one line, written by one call. A row that was not written completely is cut off again: at once,
  or after a crash when the output is next opened.
- Kept until the finished file is synced: the journal is not changed until a complete replacement is on the disk.
- First row counts: of several rows for one position, the first is used. A crash may therefore leave a row twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ng_rollouts.console import counted
from ng_rollouts.errors import OutputTaken, StorageError
from ng_rollouts.jsonl import is_torn, loads
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.storage.atomic import back_up, discard, free_name, new_temporary, replacing, sync
from ng_rollouts.storage.compression import compress
from ng_rollouts.storage.line_index import (
    COPY_BUFFER_BYTES,
    copy_lines,
    decode_span,
    encode_span,
    lines_of,
    read_at,
    write_all,
)
from ng_rollouts.storage.lock import has_name
from ng_rollouts.types import Json

_MISSING, _IN_INCOMPLETE_FILE = -1, -2
"""Values in place of a span: no row yet; the row is in the incomplete file, not in the output."""


PositionOf = Callable[[Json], int | None]
"""Maps a row of a file to its position; None for a row that is not planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The result of `Journal.finish`.

    Attributes:
        kept: number of rows in the finished file.
        set_aside: number of rows in the incomplete file.
    """

    kept: int
    set_aside: int


class Journal:
    """An output file that this process has locked.

    Args:
        fd: the output, locked, open for appending and reading.
        paths: the output and its side files.
        rollouts: number of planned rollouts.
        is_decompressed_copy: whether the output was decompressed from another file and can be removed on exit. False
            once the journal was opened for appending.
        other_compressed: compressed files with the output's name that the output was not decompressed from.

    Attributes:
        backup: the new name of an existing output, if it was renamed.
        count: number of rollouts that are written.
        unreadable: number of existing lines that are not rows of this run.
    """

    def __init__(
        self,
        fd: int,
        paths: OutputPaths,
        rollouts: int,
        *,
        is_decompressed_copy: bool = False,
        other_compressed: Sequence[Path] = (),
    ) -> None:
        self.backup: Path | None = None
        self.count = 0
        self.unreadable = 0
        self._fd = fd
        self._paths = paths
        self._end = 0
        self._needs_newline = False
        self._unsynced = False
        self._sync_error: StorageError | None = None
        # Whether the rows are in another file, because the output has lost its name.
        self._is_saved = False
        # Whether the file holds nothing but planned rows, in order. If all are there, `finish` has nothing to do.
        self._in_order = True
        self._last_position = -1
        # One 64-bit integer per planned rollout: the offset and length of its row, or one of the values above.
        self._spans = array("q", [_MISSING]) * rollouts
        self._set_aside_rows: list[tuple[int, int]] = []
        self._is_decompressed_copy = is_decompressed_copy
        self._other_compressed = other_compressed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(StorageError):
            self.restore_name()
        # Removed before it is unlocked, or another process could lock a file that is about to disappear. A copy that
        # cannot be removed does no harm: all rows are in the compressed file as well.
        if self._is_decompressed_copy:
            discard(self._paths.output)
        os.close(self._fd)

    @property
    def is_named(self) -> bool:
        """Whether the open file still has the output's name."""
        return has_name(self._fd, self._paths.output)

    def has(self, position: int) -> bool:
        """Whether the row of a position is written."""
        return self._spans[position] != _MISSING

    def collected(self) -> bytes:
        """For every position, 1 if its row is written, otherwise 0."""
        return bytes(map(_MISSING.__ne__, self._spans))

    def rows(self) -> Iterator[tuple[int, Json]]:
        """Position and row of every rollout in the output, by position; without those in the incomplete file."""
        for position, span in enumerate(self._spans):
            if span >= 0:
                yield position, loads(read_at(self._fd, *decode_span(self._fd, span)))

    def read_back(self, position_of: PositionOf) -> None:
        """Index the existing rows of the output and of the incomplete file; no file is changed.

        Of several rows for one position, the first counts. A last line without a newline is kept if it is valid JSON,
        and dropped if it was cut off by a crash.
        """
        for offset, line, is_terminated in lines_of(self._fd):
            if not is_terminated and is_torn(line):
                # `_end` stays in front of the torn tail, so that `open_for_appending` cuts it off.
                break
            row = _parse_row(line)
            if row is not None:
                # The span includes the newline that `open_for_appending` will add.
                position = position_of(row)
                self.unreadable += position is None
                self._index(position, encode_span(offset, len(line) + (not is_terminated)))
            else:
                # Not a JSON object, or a blank line. `finish` leaves it out, so the file must be rewritten.
                self.unreadable += bool(line.strip())
                self._in_order = False
            self._end = offset + len(line)
            self._needs_newline = not is_terminated
        for position, span in self._read_set_aside(position_of):
            self._in_order = False
            self._set_aside_rows.append((position, span))
            self._spans[position] = _IN_INCOMPLETE_FILE
            self.count += 1

    def open_for_appending(self) -> None:
        """Cut off a torn tail, and move the rows of the incomplete file back into the output.

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
        if self._set_aside_rows:
            self._restore_set_aside()

    def append(self, position: int, line: bytes) -> None:
        """Write the row of a position.

        The row then survives a crash of this process, because the kernel has it. After the next `sync`, it survives a
        power cut too.

        Raises:
            StorageError: the row could not be written, or earlier rows may not be on the disk; earlier rows are intact.
        """
        if self._sync_error:
            raise self._sync_error
        try:
            write_all(self._fd, line + b"\n")
        except OSError as error:
            self._cut_off_part_of(line)
            raise StorageError(_storage_message(self._paths.output, error)) from error
        self._in_order = self._in_order and position > self._last_position
        self._last_position = position
        self.count += 1
        self._spans[position] = encode_span(self._end, len(line) + 1)
        self._end += len(line) + 1
        self._unsynced = True

    def _cut_off_part_of(self, line: bytes) -> None:
        """Cut off the part of a row that a full disk has taken. If this fails too, the next command does it."""
        with contextlib.suppress(OSError):
            # Not if another program has appended to the file: that would cut off rows of this run.
            if os.fstat(self._fd).st_size <= self._end + len(line):
                os.ftruncate(self._fd, self._end)

    def sync(self) -> None:
        """Write the appended rows to the disk.

        Raises:
            StorageError: the disk reported an error.
        """
        if self._sync_error:
            raise self._sync_error
        if not self._unsynced:
            return
        # Cleared first: this runs in a thread, and a row that is appended during the fsync has to set it again.
        self._unsynced = False
        try:
            os.fsync(self._fd)
        except OSError as error:
            # The kernel reports a failed write once, and a second fsync succeeds (fsync(2)). So the error is kept.
            self._sync_error = StorageError(f"{self._paths.output} may not be on the disk: {error.strerror}")
            raise self._sync_error from error

    def finish(self, keep: Sequence[int]) -> Finished:
        """Put the output in order. Rows that are not kept move to the incomplete file.

        Args:
            keep: for each planned position in order, 1 if its row stays in the output, otherwise 0.

        Raises:
            StorageError: a file could not be written; the journal is unchanged.
        """
        self.sync()
        self._check_size()
        self._check_name()
        if not self._end or (self._in_order and self.count == len(self._spans) and self.is_named):
            # Nothing to sort: the output is empty, or has every planned row, in order.
            self._remove_incomplete()
            return Finished(kept=self.count, set_aside=0)
        temporaries: list[Path] = []
        try:
            self._paths.output.parent.mkdir(parents=True, exist_ok=True)
            temporaries += [new_temporary(self._paths.output), new_temporary(self._paths.incomplete)]
            return self._rewrite(keep, *temporaries)
        except OSError as error:
            where = "; all rows are in it, in completion order" if self.is_named else ""
            raise StorageError(f"{_storage_message(self._paths.output, error)}{where}") from error
        finally:
            for temporary in temporaries:
                discard(temporary)

    def _remove_incomplete(self) -> None:
        """Remove the incomplete file, whose rows are in the output.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            self._paths.incomplete.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._paths.incomplete} cannot be removed: {error.strerror}") from error

    def _check_size(self) -> None:
        """Check that the file has what this run wrote and nothing else: offsets of rows would be wrong otherwise.

        Raises:
            StorageError: another program has appended to the file, or has cut it off.
        """
        size = os.fstat(self._fd).st_size
        if size != self._end:
            raise StorageError(
                f"{self._paths.output} has {size} bytes instead of {self._end}, so another program has changed it: it "
                "stays as it is, and +resume_from_cache=true keeps its valid rows and collects the others"
            )

    def _check_name(self) -> None:
        """Check that no other file has taken the output's name, for example after `rm` or `mv`.

        Raises:
            OutputTaken: another file has; all rows are in a new file, in completion order.
        """
        output = self._paths.output
        if self.is_named or not output.exists():
            return
        kept = free_name(output.with_name(f"{output.name}.saved"))
        self._copy_rows_to(kept)
        self._is_saved = True
        raise OutputTaken(
            f"{output} is another file now, so this run leaves it alone: its "
            f"{counted(self.count, 'row', 'is', 'are')} in {kept}, in completion order"
        )

    def restore_name(self) -> None:
        """Write the rows under the output's name again, if the output or its folder was removed or renamed.

        Raises:
            OutputTaken: another file has the name; all rows are in a new file, in completion order.
            StorageError: the file cannot be written.
        """
        if not self._end or self._is_saved or self.is_named:
            return
        self._check_name()
        with contextlib.suppress(OSError):  # the copy reports it
            self._paths.output.parent.mkdir(parents=True, exist_ok=True)
        self._copy_rows_to(self._paths.output)
        self._is_saved = True

    def _copy_rows_to(self, path: Path) -> None:
        """Copy everything that this run wrote, also if the file has no name any more.

        Raises:
            StorageError: the copy cannot be written.
        """
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                for offset in range(0, self._end, COPY_BUFFER_BYTES):
                    file.write(read_at(self._fd, offset, min(COPY_BUFFER_BYTES, self._end - offset)))
        except OSError as error:
            raise StorageError(_storage_message(path, error)) from error

    def compress(self) -> list[Path]:
        """Compress the finished file if its name asks for it, and remove it under all other names.

        An empty plain file remains while the journal is locked, because the lock is on it.

        Returns:
            The new names of compressed files with the output's name that were other files.

        Raises:
            StorageError: the compressed file could not be written; the finished file is unchanged.
        """
        output, finished = self._paths.output, self._paths.finished
        try:
            if finished == output:
                backups = list(map(back_up, self._other_compressed))
            else:
                backups = self._compress_into(finished)
        except OSError as error:
            raise StorageError(f"{_storage_message(finished, error)}; all rows are in {output}") from error
        try:
            for path in self._paths.names:
                if path not in (output, finished):
                    path.unlink(missing_ok=True)
            sync(output.parent)
        except OSError as error:
            raise StorageError(f"{_storage_message(output.parent, error)}; all rows are in {finished}") from error
        return backups

    def _compress_into(self, finished: Path) -> list[Path]:
        output = self._paths.output
        with replacing(finished) as temporary:
            compress(output, temporary, finished)
            # Rename other compressed files before `replacing` gives the new file its name.
            backups = list(map(back_up, self._other_compressed))
        # The rename is synced before the plain file is emptied. After a power cut, one of the two has all rows.
        sync(output.parent)
        os.truncate(output, 0)
        self._is_decompressed_copy = True
        return backups

    def _index(self, position: int | None, span: int) -> None:
        """Store the span of an existing row, unless it is not planned or its position already has a row."""
        if position is None or self.has(position):
            self._in_order = False
            return
        self._in_order = self._in_order and position > self._last_position
        self._last_position = position
        self._spans[position] = span
        self.count += 1

    def _read_set_aside(self, position_of: PositionOf) -> Iterator[tuple[int, int]]:
        """Positions and spans of the rows of the incomplete file that are not in the output."""
        with contextlib.suppress(FileNotFoundError), self._paths.incomplete.open("rb") as file:
            for offset, line, _ in lines_of(file.fileno()):
                row = _parse_row(line)
                position = None if row is None else position_of(row)
                if position is not None and not self.has(position):
                    yield position, encode_span(offset, len(line))

    def _restore_set_aside(self) -> None:
        with self._paths.incomplete.open("rb") as file:
            for position, span in self._set_aside_rows:
                self.count -= 1  # `read_back` has counted it, and `append` counts it again
                self.append(position, read_at(file.fileno(), *decode_span(file.fileno(), span)).rstrip(b"\n"))
        self._set_aside_rows = []
        # Synced before the incomplete file is removed. A crash in between leaves rows twice, and the first counts.
        self.sync()
        self._remove_incomplete()

    def _rewrite(self, keep: Sequence[int], new_output_path: Path, new_incomplete_path: Path) -> Finished:
        """Copy the rows in order to a new output and a new incomplete file, which then replace the old ones."""
        output, incomplete = self._paths.output, self._paths.incomplete
        with (
            new_output_path.open("wb", COPY_BUFFER_BYTES) as new_output,
            new_incomplete_path.open("wb", COPY_BUFFER_BYTES) as new_incomplete,
        ):
            kept = copy_lines(self._fd, self._spans_to(keep, 1), new_output)
            set_aside = copy_lines(self._fd, self._spans_to(keep, 0), new_incomplete)
            # Both files are synced before either replaces an old one.
            for file in (new_output, new_incomplete):
                file.flush()
                os.fsync(file.fileno())
            # The new file is locked before it gets the output's name. The lock belongs to the open file description
            # (flock(2)), so the duplicate descriptor holds it after this block has closed the file.
            fcntl.flock(new_output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new_fd = os.dup(new_output.fileno())
        try:
            # The incomplete file first: until the output is replaced, its rows are in the journal as well.
            if set_aside:
                new_incomplete_path.replace(incomplete)
            new_output_path.chmod(os.fstat(self._fd).st_mode & 0o7777)
            new_output_path.replace(output)
        except OSError:
            os.close(new_fd)
            raise
        # The old lock is released last: another process that waits for it then gets the lock of the deleted old file,
        # and has to open the new one.
        os.close(self._fd)
        self._fd = new_fd
        if not set_aside:
            incomplete.unlink(missing_ok=True)
        # Renames are on the disk only when the folder is synced.
        sync(output.parent)
        return Finished(kept=kept, set_aside=set_aside)

    def _spans_to(self, keep: Sequence[int], destination: int) -> Iterator[int]:
        """The rows in the output whose element of `keep` is `destination`, by position."""
        return (span for span, place in zip(self._spans, keep, strict=True) if place == destination and span >= 0)


def _parse_row(line: bytes) -> Json | None:
    try:
        row = loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _storage_message(path: Path, error: OSError) -> str:
    return f"{path} cannot be written: {error.strerror}"
