"""Lines of a large file by where they are: found, read, copied, appended."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import BinaryIO, Self

COPY_BUFFER_BYTES = 1 << 20
_STRETCH_BITS = 16
_MOST_STRETCHES = 256
"""Linux maps 64 kB around a page that is looked at; no more than 16 MB are to be mapped at once."""

_LENGTH_BITS = 24
_LONG_BYTES = 1 << 15


def lines_of(fd: int) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a file with their offsets, and whether each ends with a newline (which only the last may lack)."""
    offset = 0
    with os.fdopen(os.dup(fd), "rb", COPY_BUFFER_BYTES) as file:
        file.seek(0)
        for line in file:
            yield offset, line, line.endswith(b"\n")
            offset += len(line)


class Copier:
    """Copies stretches of a file to the end of another; neighbours go together.

    Short stretches are taken from a mapping of the file, which spares a call each. Long ones are read: a write from
    pages that are not there yet stops at each of them, and ext4 then clears the whole rest of what it set aside.
    """

    def __init__(self, fd: int, mapped: mmap.mmap, target: BinaryIO) -> None:
        self._fd = fd
        self._mapped = mapped
        self._view = memoryview(mapped)
        self._target = target
        self._start = self._end = 0
        self._stretches: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.release()

    def add(self, offset: int, length: int) -> None:
        """Copy this stretch, sooner or later."""
        if offset != self._end or self._end - self._start > COPY_BUFFER_BYTES:
            self._flush()
            self._start = offset
        self._end = offset + length

    def finish(self) -> None:
        """Bring everything to the disk."""
        self._flush()
        self._target.flush()
        os.fsync(self._target.fileno())

    def _flush(self) -> None:
        length = self._end - self._start
        if length > _LONG_BYTES:
            self._target.write(read_at(self._fd, self._start, length))
            return
        self._target.write(self._view[self._start : self._end])
        self._stretches.add(self._start >> _STRETCH_BITS)
        if len(self._stretches) > _MOST_STRETCHES:
            self._stretches.clear()
            self._mapped.madvise(mmap.MADV_DONTNEED)  # keeps memory flat: what is mapped counts as ours


def encode_span(offset: int, length: int) -> int:
    """Where a line is, in one number; the length of a very long one is left to be found out."""
    return offset << _LENGTH_BITS | (length if length < 1 << _LENGTH_BITS else 0)


def decode_span(fd: int, span: int) -> tuple[int, int]:
    offset, length = span >> _LENGTH_BITS, span & ((1 << _LENGTH_BITS) - 1)
    return offset, length or _length_at(fd, offset)


def _length_at(fd: int, offset: int) -> int:
    at = offset
    while (end := (chunk := os.pread(fd, COPY_BUFFER_BYTES, at)).find(b"\n")) < 0 and chunk:
        at += len(chunk)
    return at + end + 1 - offset


def read_at(fd: int, offset: int, length: int) -> bytes:
    pieces = []
    while length > 0 and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
