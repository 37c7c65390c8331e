"""How many rollouts are in flight: a fixed number, or as many as the servers turn out to take.

The adaptive limit doubles a window at a time until the first refusal (429 or 503), and falls. What was in flight then,
less all that was refused in that episode, tells where the servers' own limit is: the limit returns to just below it,
and only now and then feels for more, each time after a longer calm, since a refusal may come with a `Retry-After` that
rests the whole server. A refusal met without having grown means that the servers take less now: it falls again, and
comes back by a share a window. All that was sent before a fall belongs to its episode and causes no other.

Source: additive increase, multiplicative decrease (Chiu and Jain, 1989), with the plateau of CUBIC (RFC 9438): halving
would leave a quarter of the servers idle.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from ng_rollouts.errors import AttemptFailed

_FIRST_LIMIT = 8
_FALL = 0.6
_STEP_BACK = 0.97
_RETURN_SHARE = 0.05
_FIRST_CALM_S = 15.0
_LONGEST_CALM_S = 120.0
_REFUSALS = (429, 503)


class ConcurrencyLimit(Protocol):
    """A limit that may change with what comes back."""

    @property
    def current(self) -> int:
        """How many may be in flight."""
        ...

    def record_success(self, now: float) -> None:
        """An attempt was answered."""
        ...

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """An attempt that started then failed now."""
        ...


class FixedLimit:
    """A number."""

    def __init__(self, limit: int) -> None:
        self.current = limit

    def record_success(self, now: float) -> None:
        """Nothing changes."""

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Nothing changes."""


class AdaptiveLimit:
    """Follows what the servers take, up to a ceiling."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(min(_FIRST_LIMIT, ceiling))
        self._growth_a_window = float("inf")
        self._has_grown = False
        self._fell = float("-inf")
        self._calm_s = 0.0
        self._grows_from = float("-inf")
        self._pause = 0
        self._taken: float | None = None

    @property
    def current(self) -> int:
        """How many may be in flight."""
        return max(1, int(self._limit))

    def record_success(self, now: float) -> None:
        """A share of a window's growth for each answer, so that a window of them makes the whole."""
        if self._pause > 0:
            self._pause -= 1
        elif self._taken is not None:
            self._return(now)
        elif now >= self._grows_from and self._limit < self._ceiling:
            growth = min(self._limit, self._growth_a_window)
            self._limit = min(float(self._ceiling), self._limit + growth / self._limit)
            self._growth_a_window *= 1 + 1 / self._limit if self._calm_s else 1.0
            self._has_grown = True

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """A refusal cuts, once an episode; another server error only pauses growth for a window."""
        if failure.status in _REFUSALS:
            if started > self._fell:
                self._fall(now)
            elif self._taken is not None:
                self._taken -= 1
        elif failure.status is not None and failure.status >= 500:
            self._pause = self.current

    def _fall(self, now: float) -> None:
        was_doubling = self._growth_a_window == float("inf")
        if self._has_grown and not was_doubling:
            self._limit = max(1.0, min(self._limit - 1, self._limit * _STEP_BACK))
            self._stay(now)
        else:
            self._taken = self._limit - 1 if was_doubling else None
            self._limit = max(1.0, self._limit * _FALL)
            self._growth_a_window = max(1.0, _RETURN_SHARE * self._limit)
            self._calm_s = 0.0
            self._grows_from = now
        self._has_grown = False
        self._fell = now
        self._pause = self.current

    def _return(self, now: float) -> None:
        """After the first fall: to just below what the servers took."""
        assert self._taken is not None  # noqa: S101 - asked for only then
        self._limit = max(self._limit, self._taken * _STEP_BACK)
        self._taken = None
        self._stay(now)

    def _stay(self, now: float) -> None:
        self._calm_s = min(_LONGEST_CALM_S, 2 * self._calm_s or _FIRST_CALM_S)
        self._grows_from = now + self._calm_s
        self._growth_a_window = 1.0


class Slots:
    """Slots for as many as the limit says; those who wait get them in order."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a slot, and take it."""
        if self._taken < self.limit.current and not self._waiting:
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
        while self._waiting and self._taken < self.limit.current:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
