"""The order in which tasks are sent: those with the largest estimates first. Their rows are read by their offset.

Longest processing time first (R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969) keeps slots busy until
the end: the last rollouts are the shortest ones.

The offset of every 32nd row is kept, and of more rows if they are long, so that little is read to find a row.

Memory is at most 8 bytes for each task, besides its plan, and 36 for each 64 KB of the input. A task takes 4 bytes for
its number in the order, 1 for offsets, and 2 for the estimate until the order is made. `TaskMeans` takes 5 bytes,
before the order takes its 4.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from ng_rollouts.types import Json

_KEYS = 1 << 16

_MAX_ESTIMATE = 3e38
"""Larger estimates, also infinite ones, count as this one, which a 32-bit float can have."""

_MAX_COUNT = 255

_BLOCK_ROWS, _BLOCK_BYTES = 32, 1 << 16
"""The most rows, and about the most bytes, between two offsets that are kept: the lines of a block.

A row is found by reading from the offset before it.
"""

UNKNOWN = _KEYS - 1
"""The key of a task without an estimate. Such tasks are sent first, because they may be long."""


def key_of_estimate(estimate: float | None) -> int:
    """An estimate as a number of 16 bits in the same order: the upper half of a 32-bit float, exact to 1 %.

    Negative estimates count as 0, None and NaN as unknown. An integer may be larger than any float.
    """
    if estimate is None or estimate != estimate:  # noqa: PLR0124 - `isnan` fails for such integers
        return UNKNOWN
    return int(struct.unpack(">H", struct.pack(">f", min(max(estimate, 0), _MAX_ESTIMATE))[:2])[0])


def field_estimate(name: str) -> Callable[[Json], float | None]:
    """A function that reads an estimate from a field of a row; None if it is not a number there."""

    def estimate(row: Json) -> float | None:
        value = row.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    return estimate


@dataclass(slots=True)
class TaskMeans:
    """The mean of a number by task, over the first 255 values of each. A task takes 5 bytes."""

    _sums: array[float] = field(default_factory=lambda: array("f"))
    _counts: array[int] = field(default_factory=lambda: array("B"))

    def add(self, row: int, value: float) -> None:
        """Count a value of a task, given by the number of its row in the plan."""
        if (missing := row + 1 - len(self._sums)) > 0:
            self._sums.extend(array("f", bytes(4 * missing)))
            self._counts.extend(array("B", bytes(missing)))
        if self._counts[row] < _MAX_COUNT:
            self._counts[row] += 1
            self._sums[row] += value

    def mean(self, row: int) -> float | None:
        """The mean of a task; None without values."""
        count = self._counts[row] if row < len(self._counts) else 0
        return self._sums[row] / count if count else None


@dataclass(slots=True)
class LongestFirst:
    """The rows of a plan by falling estimate, and where they are in the input. They are added in the input's order."""

    _keys: array[int] = field(default_factory=lambda: array("H"))
    _rows: array[int] | None = None
    # For each block: its first row; and the offset of that, the number of the line before it, its ordinal in the input,
    # and its first position.
    _firsts: array[int] = field(default_factory=lambda: array("I", [0]))
    _places: array[int] = field(default_factory=lambda: array("q", [0] * 4))

    def add(self, estimate: float | None) -> None:
        """Append the estimate of the next row."""
        self._keys.append(key_of_estimate(estimate))

    @property
    def unknown(self) -> int:
        """The number of rows without an estimate, before the order is read."""
        return self._keys.count(UNKNOWN)

    def __len__(self) -> int:
        return len(self._keys)

    def begins_block(self, offset: int) -> bool:
        """True if the next row, at this offset, begins a block."""
        return len(self._keys) - self._firsts[-1] >= _BLOCK_ROWS or offset - self._places[-4] >= _BLOCK_BYTES

    def add_block(self, offset: int, number: int, ordinal: int, position: int) -> None:
        """Keep the place of the next row.

        Args:
            offset: where it begins in the input.
            number: the number of the line before it.
            ordinal: its number among the rows of the input, from 0.
            position: that of its first rollout.
        """
        self._firsts.append(len(self._keys))
        self._places.extend((offset, number, ordinal, position))

    def block(self, row: int) -> tuple[int, tuple[int, int, int, int]]:
        """The first row of a row's block, and the place of that: the arguments of its `add_block`."""
        block = bisect_right(self._firsts, row) - 1
        offset, number, ordinal, position = self._places[4 * block : 4 * block + 4]
        return self._firsts[block], (offset, number, ordinal, position)

    @property
    def rows(self) -> array[int]:
        """The numbers of all rows, longest first; rows with the same estimate in the order of the input."""
        if self._rows is None:
            self._rows, self._keys = self._sorted(), array("H")
        return self._rows

    def _sorted(self) -> array[int]:
        # A counting sort, because a list to sort would take 40 bytes for each row.
        counts = array("q", bytes(8 * _KEYS))
        for key in self._keys:
            counts[UNKNOWN - key] += 1
        starts = array("q", accumulate(counts, initial=0))
        order = array("I", bytes(4 * len(self._keys)))
        for row, key in enumerate(self._keys):
            order[starts[UNKNOWN - key]] = row
            starts[UNKNOWN - key] += 1
        return order
