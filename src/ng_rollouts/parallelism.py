"""How many rollouts are in flight: a fixed number, or as many as the servers turn out to take.

The adaptive limit doubles a window at a time until the first refusal (429 or 503), then probes: it falls to a share of
what was refused, once an episode, comes back quickly to just below it, and then grows by a percent a window. An episode
is all that was sent before the fall.

Source: additive increase, multiplicative decrease (Chiu and Jain, 1989), with the return of CUBIC (RFC 9438): halving
would leave a quarter of the server idle.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from ng_rollouts.errors import AttemptFailed

_FIRST_LIMIT = 8
_FALL = 0.9
_FALL_FROM_DOUBLING = 0.6
_NEARLY = 0.97
_RETURN_SHARE = 0.03
_PROBE_SHARE = 0.005
_REFUSALS = (429, 503)


class Limit(Protocol):
    """A limit that may change with what comes back."""

    @property
    def now(self) -> int:
        """How many may be in flight."""
        ...

    def answered(self) -> None:
        """An attempt was answered."""
        ...

    def failed(self, failure: AttemptFailed, started: float, now: float) -> None:
        """An attempt that started then failed now."""
        ...


class FixedLimit:
    """A number."""

    def __init__(self, limit: int) -> None:
        self.now = limit

    def answered(self) -> None:
        """Nothing changes."""

    def failed(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Nothing changes."""


class AdaptiveLimit:
    """Follows what the servers take, up to a ceiling."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(min(_FIRST_LIMIT, ceiling))
        self._refused_at: float | None = None
        self._fell = float("-inf")
        self._pause = 0

    @property
    def now(self) -> int:
        """How many may be in flight."""
        return max(1, int(self._limit))

    def answered(self) -> None:
        """A share of a window's growth for each answer, so that a window of them makes the whole."""
        if self._pause > 0:
            self._pause -= 1
            return
        self._limit = min(float(self._ceiling), self._limit + self._growth_a_window() / self._limit)

    def failed(self, failure: AttemptFailed, started: float, now: float) -> None:
        """A refusal cuts, once an episode; another server error only pauses growth for a window."""
        if failure.status in _REFUSALS:
            if started > self._fell:
                self._fall(now)
        elif failure.status is not None and failure.status >= 500:
            self._pause = self.now

    def _fall(self, now: float) -> None:
        share = _FALL_FROM_DOUBLING if self._refused_at is None else _FALL
        self._refused_at = self._limit
        self._limit = max(1.0, self._limit * share)
        self._fell = now
        self._pause = self.now

    def _growth_a_window(self) -> float:
        if self._refused_at is None:
            return self._limit
        share = _RETURN_SHARE if self._limit < _NEARLY * self._refused_at else _PROBE_SHARE
        return max(1.0, share * self._limit)


class Slots:
    """Slots for as many as the limit says; those who wait get them in order."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a slot, and take it."""
        if self._taken < self.limit.now and not self._waiting:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._taken -= 1
        while self._waiting and self._taken < self.limit.now:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
