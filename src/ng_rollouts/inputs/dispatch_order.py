"""The order in which tasks are sent: longest first, by an estimate. The rows are then read from the input by offset.

Longest processing time first (R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969) keeps slots busy until
the end: the last rollouts are the shortest ones.

Memory is at most 8 bytes for each task, besides its plan: 4 for its number in the order, 1 for offsets, of which
every 32nd is kept, and 2 for the estimate until it is sorted. `TaskMeans` takes 5 bytes before the order takes its 4.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from ng_rollouts.types import Json

_KEYS = 1 << 16

_MAX_ESTIMATE = 3e38
"""Larger estimates, also infinite ones, count as this one, which a 32-bit float can have."""

_MAX_COUNT = 255

BLOCK_ROWS = 32
"""Rows between two offsets that are kept. A row is found by reading from the offset before it."""

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
    """The mean of a number by task, in 5 bytes for each task: of up to 255 values."""

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
    """The rows of a plan by falling estimate, and where they are in the input."""

    _keys: array[int] = field(default_factory=lambda: array("H"))
    _rows: array[int] | None = None
    # For every 32nd row: its offset, the number of its line, its ordinal in the input, and its first position.
    _blocks: array[int] = field(default_factory=lambda: array("q"))

    def add(self, estimate: float | None) -> None:
        """Append the estimate of the next row."""
        self._keys.append(key_of_estimate(estimate))

    @property
    def unknown(self) -> int:
        """The number of rows without an estimate, before the order is read."""
        return self._keys.count(UNKNOWN)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def begins_block(self) -> bool:
        """Whether the place of the next row is kept."""
        return len(self._keys) % BLOCK_ROWS == 0

    def add_block(self, offset: int, number: int, ordinal: int, position: int) -> None:
        """Keep the place of the next row: offset, line number, ordinal in the input, position of its first rollout."""
        self._blocks.extend((offset, number, ordinal, position))

    def block(self, row: int) -> tuple[int, tuple[int, int, int, int]]:
        """The first row of a row's block, and its place."""
        block = row // BLOCK_ROWS
        offset, number, ordinal, position = self._blocks[4 * block : 4 * block + 4]
        return block * BLOCK_ROWS, (offset, number, ordinal, position)

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
