"""An upper bound of the limit, from the throughput: more in flight that is not answered faster only waits.

A window is as many successes as the limit allows in flight. While the limit rises, the throughput of each window is
compared with that of a reference window, the last one that was a clear improvement. If the limit has risen by half
without an improvement in two windows, the servers are saturated, and the reference gives the cap. After some windows, a
probe raises the cap by half. If that is not an improvement either, the cap returns, and the next probe comes later.
"""

from __future__ import annotations

import math

_FEWEST = 16
"""Successes in a window, at least: fewer measure no throughput."""

_RISE = 1.5
"""A window says something if its limit is this multiple of the reference's. A probe raises the cap by as much."""

_IMPROVEMENT = 1.1
"""The least increase of the throughput that counts."""

_MARGIN = 1.25
"""The cap over the limit of the reference, because throughput levels off gradually."""

_FLAT_WINDOWS = 2
_FIRST_PAUSE, _MAX_PAUSE = 4, 64
"""Windows until a probe; their number doubles each time."""


class ThroughputCap:
    """The number of rollouts in flight beyond which the throughput has not grown.

    Attributes:
        current: the cap; infinite as long as none is known.
    """

    def __init__(self) -> None:
        self.current = math.inf
        self._reference: tuple[int, float] | None = None  # limit, and successes per second
        self._flat = 0
        self._pause = _FIRST_PAUSE
        self._windows_left = 0
        self._limit = 0
        self._began: float | None = None
        self._successes = 0

    def record_success(self, limit: int, now: float) -> None:
        """Count a success at a limit."""
        if self._began is None:
            self._began, self._limit = now, limit
            return
        self._successes += 1
        if self._successes >= max(_FEWEST, self._limit) and now > self._began:
            self._end_window(self._limit, self._successes / (now - self._began))
            self._began, self._limit, self._successes = now, limit, 0

    def _end_window(self, limit: int, rate: float) -> None:
        if self._windows_left:
            self._windows_left -= 1
            if not self._windows_left:  # probe
                self._reference, self._flat = (limit, rate), 0
                self.current *= _RISE
        elif self._reference is None or rate >= _IMPROVEMENT * self._reference[1]:
            self._reference, self._flat = (limit, rate), 0
        elif limit < _RISE * self._reference[0]:
            self._reference = (self._reference[0], (self._reference[1] + rate) / 2)
        else:
            self._flat += 1
            if self._flat >= _FLAT_WINDOWS:
                self._settle(self._reference[0])

    def _settle(self, limit: int) -> None:
        first = self.current == math.inf
        self.current = math.ceil(limit * _MARGIN) if first else min(self.current, limit)
        self._windows_left, self._pause = self._pause, min(_MAX_PAUSE, 2 * self._pause)
        self._flat = 0
