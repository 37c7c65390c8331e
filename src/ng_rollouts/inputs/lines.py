"""The lines of the input, with a maximum length: a small compressed file may hold one that fills the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import BinaryIO

from ng_rollouts.errors import InputError

MAX_LINE_BYTES = 256_000_000
"""Far above rows with images or long conversations. A row takes several times its length in memory."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, from 1, without blank lines, byte-order mark and space around them.

    Args:
        name: the file, for messages.

    Raises:
        InputError: a line is too long.
    """
    # one byte more than allowed, which tells a line that is too long
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), 1):
        if len(line) > MAX_LINE_BYTES:
            raise _too_long(name, number)
        if stripped := (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).strip():
            yield number, stripped


class LineLimitedWriter:
    """Writes to a file, and checks the length of its lines on the way. No single write may be longer than the maximum.

    Args:
        name: the file that is copied, for messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._number = 1
        self._length = 0  # of the last line so far

    def write(self, data: bytes) -> int:
        """Write a part of the file.

        Raises:
            InputError: a line is too long.
        """
        end = data.find(b"\n")
        if self._length + (len(data) if end < 0 else end) > MAX_LINE_BYTES:
            raise _too_long(self._name, self._number)
        self._number += data.count(b"\n")
        self._length = self._length + len(data) if end < 0 else len(data) - data.rfind(b"\n") - 1
        return self._file.write(data)

    def writelines(self, lines: Iterable[bytes]) -> None:
        """Write several parts."""
        for line in lines:
            self.write(line)


def _too_long(name: str, number: int) -> InputError:
    message = f"input_jsonl_fpath {name}: line {number} is longer than {MAX_LINE_BYTES / 1_000_000:g} MB"
    return InputError(f"{message}: put one task on each line")
