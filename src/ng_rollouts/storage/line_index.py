"""Lines of a large file by offset and length: list, read, copy and append them.

An offset is a position in a file in bytes. A span is the offset and the length of a line, encoded as one integer.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import BinaryIO, Self

COPY_BUFFER_BYTES = 1 << 20
"""Bytes per read or write: 1 MiB."""

_WINDOW_BITS = 16
_MAX_WINDOWS = 256
"""Linux maps 64 KiB around a page that is read (`fault_around_bytes`). At most 16 MiB are mapped at a time."""

_LENGTH_BITS = 16
"""Bits of a span for the length. A span is a signed 64-bit integer, so 47 bits are left for the offset: 128 TiB."""

_MAX_MAPPED_BYTES = 1 << 15
"""Longer ranges are read instead of mapped."""


def lines_of(fd: int) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a file: offset, line, and whether it ends with a newline. Only the last line may have none."""
    offset = 0
    # dup: closing this file object must not close the caller's descriptor
    with os.fdopen(os.dup(fd), "rb", COPY_BUFFER_BYTES) as file:
        file.seek(0)
        for line in file:
            yield offset, line, line.endswith(b"\n")
            offset += len(line)


class Copier:
    """Copies ranges of a file to the end of another. Adjacent ranges are copied together.

    Short ranges are written from a mapping of the file, which saves a system call for each. Long ranges are read
    first: a write from mapped pages that are not in memory stops at each of them, and ext4 then zeroes the rest of the
    blocks that it has prepared for the write.

    Args:
        fd: the descriptor of the source file.
        mapped: a mapping of the whole source file.
        target: the file to append to.
    """

    def __init__(self, fd: int, mapped: mmap.mmap, target: BinaryIO) -> None:
        self._fd = fd
        self._mapped = mapped
        self._view = memoryview(mapped)
        self._target = target
        self._start = self._end = 0
        self._windows: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.release()  # a mapping cannot be closed while a view of it exists

    def add(self, offset: int, length: int) -> None:
        """Copy a range. It may be written later, together with those that follow it."""
        if offset != self._end or self._end - self._start > COPY_BUFFER_BYTES:
            self._flush()
            self._start = offset
        self._end = offset + length

    def finish(self) -> None:
        """Write all ranges to the disk."""
        self._flush()
        self._target.flush()
        os.fsync(self._target.fileno())

    def _flush(self) -> None:
        length = self._end - self._start
        if length > _MAX_MAPPED_BYTES:
            self._target.write(read_at(self._fd, self._start, length))
            return
        self._target.write(self._view[self._start : self._end])
        self._windows.add(self._start >> _WINDOW_BITS)
        if len(self._windows) > _MAX_WINDOWS:
            self._windows.clear()
            self._mapped.madvise(mmap.MADV_DONTNEED)  # mapped pages count as memory of this process


def encode_span(offset: int, length: int) -> int:
    """The offset and the length of a line as one integer. A length of 64 KiB or more is stored as 0."""
    return offset << _LENGTH_BITS | (length if length < 1 << _LENGTH_BITS else 0)


def decode_span(fd: int, span: int) -> tuple[int, int]:
    """The offset and the length of a span. A length that was too large to store is read from the file."""
    offset, length = span >> _LENGTH_BITS, span & ((1 << _LENGTH_BITS) - 1)
    return offset, length or _length_at(fd, offset)


def _length_at(fd: int, offset: int) -> int:
    """The length of the line at an offset, with its newline if it has one."""
    position = offset
    while (end := (chunk := os.pread(fd, COPY_BUFFER_BYTES, position)).find(b"\n")) < 0 and chunk:
        position += len(chunk)
    return position + end + 1 - offset


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Read `length` bytes at an offset, or fewer at the end of the file."""
    chunks = []
    # pread may return fewer bytes than requested; Linux returns at most 2 GiB (pread(2))
    while length > 0 and (chunk := os.pread(fd, length, offset)):
        chunks.append(chunk)
        offset, length = offset + len(chunk), length - len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes, because `os.write` may write only a part.

    Raises:
        OSError: the file could not be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
