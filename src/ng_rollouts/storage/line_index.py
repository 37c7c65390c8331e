"""Lines of a large file by offset and length: list, read, copy and append them.

An offset is a position in a file in bytes. A span is the offset and the length of a line, encoded as one integer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

COPY_BUFFER_BYTES = 1 << 20
"""Bytes per read or write: 1 MiB."""

_LENGTH_BITS = 19
"""Bits of a span for the length: up to 512 KiB. A span is a signed 64-bit integer, so 44 bits are left for the offset:
16 TiB, the size of the largest file of ext4."""

_LENGTH_MASK = (1 << _LENGTH_BITS) - 1


def lines_of(fd: int) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a file: offset, line, and whether it ends with a newline. Only the last line may have none."""
    offset = 0
    # dup: closing this file object must not close the caller's descriptor
    with os.fdopen(os.dup(fd), "rb", COPY_BUFFER_BYTES) as file:
        file.seek(0)
        for line in file:
            yield offset, line, line.endswith(b"\n")
            offset += len(line)


def copy_lines(fd: int, spans: Iterable[int], target: BinaryIO) -> int:
    """Write lines of a file to another one; the number of lines. Lines that are adjacent in the file are read together.

    The lines are read, because mapped pages would count as memory of this process. `copy_file_range` and `sendfile`
    take longer: they copy page by page.

    Raises:
        OSError: a line could not be read or written.
    """
    start = end = count = 0
    for span in spans:
        offset, length = span >> _LENGTH_BITS, span & _LENGTH_MASK
        if offset != end:
            _copy(fd, start, end, target)
            start = offset
        end = offset + (length or _length_at(fd, offset))
        count += 1
    _copy(fd, start, end, target)
    return count


def _copy(fd: int, start: int, end: int, target: BinaryIO) -> None:
    while start < end:
        chunk = os.pread(fd, min(COPY_BUFFER_BYTES, end - start), start)
        if not chunk:
            raise OSError(errno.EIO, "another program has cut off the file")
        target.write(chunk)
        start += len(chunk)


def encode_span(offset: int, length: int) -> int:
    """The offset and the length of a line as one integer. A length of 512 KiB or more is stored as 0."""
    return offset << _LENGTH_BITS | (length if length <= _LENGTH_MASK else 0)


def decode_span(fd: int, span: int) -> tuple[int, int]:
    """The offset and the length of a span. A length that was too large to store is read from the file."""
    offset, length = span >> _LENGTH_BITS, span & _LENGTH_MASK
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
