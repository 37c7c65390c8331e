"""An upper bound of the limit, from the throughput: more in flight that is not answered faster only waits.

A window is as many successes as the limit allows in flight. The bound has two phases:

1. The limit rises without a cap. The throughput of each window is compared with that of a reference window, the
   last one that was a clear improvement. If the limit has risen by half without an improvement in two windows, the
   servers are saturated, and the reference gives the cap.
2. The cap rests, and probes follow. A probe raises the cap by half. If two windows are clear improvements, the new cap
   stays, and the next probe begins at once. If not, the old cap returns, and the next rest is twice as long.

With a first cap that is known already, it begins with the second phase.

A probe has four windows at most, whether or not the limit follows the cap: a ceiling or refusals may hold it.
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
"""The first cap over the limit of the reference, because throughput levels off gradually."""

_FLAT_WINDOWS = 2
"""Windows without an improvement, after which the servers are saturated."""

_FIRST_REST, _MAX_REST = 4, 64
"""Measured windows of a rest."""

_PASSING = 2
"""Windows after a change of the cap that measure nothing, because requests of before are still in flight."""

_BETTER_WINDOWS = 2
"""Measured windows of a probe that have to be improvements. One alone may be by chance."""

_RECENT = 8
"""Windows of a rest, the last ones, whose mean throughput is that of the cap."""


class ThroughputCap:
    """The number of rollouts in flight beyond which the throughput has not grown.

    Args:
        first: a cap that is known already; infinite for none.

    Attributes:
        current: the cap; infinite as long as none is known.
    """

    def __init__(self, first: float = math.inf) -> None:
        self.current = first
        self._reference: tuple[int, float] | None = None  # limit, and successes per second
        self._flat = 0
        self._cap = first  # without the rise of a probe
        self._rest = _FIRST_REST
        self._best_rate = 0.0  # successes per second at the cap, before a probe
        self._rates: list[float] = []  # of the windows since the cap changed
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
        if self.current == math.inf:
            self._compare(limit, rate)
            return
        self._rates.append(rate)
        measured = self._rates[_PASSING:]
        if self.current > self._cap:
            self._judge_probe(limit, measured)
        elif len(measured) == self._rest:
            self._probe(_mean(measured[-_RECENT:]))

    def _compare(self, limit: int, rate: float) -> None:
        """Compare a window with the reference, until the first cap."""
        if self._reference is None or rate >= _IMPROVEMENT * self._reference[1]:
            self._reference, self._flat = (limit, rate), 0
        elif limit < _RISE * self._reference[0]:
            self._reference = (self._reference[0], (self._reference[1] + rate) / 2)
        else:
            self._flat += 1
            if self._flat == _FLAT_WINDOWS:
                self._set(math.ceil(self._reference[0] * _MARGIN))

    def _probe(self, rate: float) -> None:
        """Raise the cap, whose throughput is `rate`."""
        self._best_rate = rate
        self.current, self._rates = math.ceil(_RISE * self._cap), []

    def _judge_probe(self, limit: int, measured: list[float]) -> None:
        """Keep the raised cap or return to the old one, as soon as the measured windows decide."""
        if any(rate < _IMPROVEMENT * self._best_rate for rate in measured):
            self._set(self._cap)
            self._rest = min(_MAX_REST, 2 * self._rest)
        elif len(measured) == _BETTER_WINDOWS:
            self._set(max(self._cap, limit))
            self._rest = _FIRST_REST
            self._probe(_mean(measured))

    def _set(self, cap: float) -> None:
        self.current = self._cap = cap
        self._rates = []


def _mean(rates: list[float]) -> float:
    return sum(rates) / len(rates)  # the `statistics` module would be imported for this alone
