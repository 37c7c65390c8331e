"""Limits how many rollouts are in flight: a fixed limit, or one that adapts to the capacity of the servers.

The adaptive limit has three phases. A window is as many successes as the limit allows in flight.

1. Slow start: the limit doubles with each window until the first reply of an overloaded server (429 or 503). Then it
   falls sharply. The rollouts in flight at that moment, less those that were rejected, estimate the servers' capacity.
2. Plateau: the limit returns to just below the estimate. It holds there, then grows slowly until the next rejection.
   Each hold is longer than the one before, because a rejection may carry a `Retry-After` that pauses the whole server.
3. Recovery: a rejection while the limit has not grown means that the capacity has dropped. The limit falls sharply
   again, and grows by a constant share per window.

All rejections of requests that were sent before a decrease belong to that decrease and cause no other.

Source: additive increase, multiplicative decrease (Chiu and Jain, 1989), with the plateau of CUBIC (RFC 9438): halving
would leave a quarter of the servers' capacity unused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.retry import OVERLOAD_STATUSES

_INITIAL_LIMIT = 8
"""Where slow start begins."""

_DECREASE_FACTOR = 0.6
"""The limit falls to this share when the capacity is unknown or has dropped."""

_PLATEAU_FACTOR = 0.97
"""The limit holds at this share of the estimated capacity."""

_RECOVERY_SHARE = 0.05
"""Growth per window after a drop in capacity, as a share of the limit."""

_FIRST_HOLD_S = 15.0
"""How long the limit holds for the first time. Each following hold doubles it."""

_MAX_HOLD_S = 120.0
"""Upper bound of a hold, so that the limit follows a capacity that rises."""


class ConcurrencyLimit(Protocol):
    """A limit that may change with the outcomes of attempts.

    Attributes:
        on_rise: called by a limit that has risen without an outcome.
    """

    on_rise: Callable[[], None]

    @property
    def current(self) -> int:
        """The number of rollouts that may be in flight."""
        ...

    def set_ceiling(self, ceiling: int) -> None:
        """Change the upper bound; `Slots.assign` then lets waiting rollouts start."""
        ...

    def record_success(self, now: float) -> None:
        """Count an attempt that succeeded."""
        ...

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Count an attempt that began at `started` and failed at `now`."""
        ...


class FixedLimit:
    """A limit that outcomes do not change."""

    def __init__(self, limit: int) -> None:
        self.current = limit
        self.on_rise: Callable[[], None] = lambda: None

    def set_ceiling(self, ceiling: int) -> None:
        """Replace the limit."""
        self.current = ceiling

    def record_success(self, now: float) -> None:
        """Change nothing."""

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Change nothing."""


class AdaptiveLimit:
    """A limit that follows the capacity of the servers, up to a ceiling; it begins at `first`."""

    def __init__(self, ceiling: int, first: int = _INITIAL_LIMIT) -> None:
        self.on_rise: Callable[[], None] = lambda: None
        self._ceiling = ceiling
        self._limit = float(min(first, ceiling))
        self._growth_per_window = float("inf")  # infinite during slow start
        self._has_grown = False
        self._last_decrease = float("-inf")
        self._hold_s = 0.0  # 0 outside a plateau
        self._hold_until = float("-inf")
        self._ignored_successes = 0
        self._capacity: float | None = None  # an estimate, from the end of slow start until the plateau

    @property
    def current(self) -> int:
        """The number of rollouts that may be in flight."""
        return max(1, int(self._limit))

    def set_ceiling(self, ceiling: int) -> None:
        """Lower the limit to a new ceiling at once, or let it grow up to that."""
        self._ceiling = ceiling
        self._limit = min(self._limit, float(ceiling))

    def record_success(self, now: float) -> None:
        """Grow by one success's share of the growth per window."""
        if self._ignored_successes > 0:
            self._ignored_successes -= 1
        elif self._capacity is not None:
            # A whole window has ended since the decrease, so all rejections of that episode are counted.
            self._return_to_capacity(self._capacity, now)
        elif now >= self._hold_until and self._limit < self._ceiling:
            # `min` makes slow start double: the growth per window is the limit itself.
            growth = min(self._limit, self._growth_per_window)
            self._limit = min(float(self._ceiling), self._limit + growth / self._limit)
            # On a plateau, growth accelerates from window to window, as CUBIC's does away from its plateau.
            self._growth_per_window *= 1 + 1 / self._limit if self._hold_s else 1.0
            self._has_grown = True

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Decrease once per episode of overload; another server error only pauses growth for a window."""
        if failure.status in OVERLOAD_STATUSES:
            if started > self._last_decrease:
                self._decrease(now)
            elif self._capacity is not None:
                # It was in flight when slow start ended, but it did not fit.
                self._capacity -= 1
        elif failure.status is not None and failure.status >= 500:
            self._ignored_successes = self.current

    def _decrease(self, now: float) -> None:
        in_slow_start = self._growth_per_window == float("inf")
        if self._has_grown and not in_slow_start:
            # The limit has just passed the capacity, so a small step is enough.
            self._limit = max(1.0, min(self._limit - 1, self._limit * _PLATEAU_FACTOR))
            self._hold(now)
        else:
            self._capacity = self._limit - 1 if in_slow_start else None
            self._limit = max(1.0, self._limit * _DECREASE_FACTOR)
            self._growth_per_window = max(1.0, _RECOVERY_SHARE * self._limit)
            self._hold_s = 0.0
            self._hold_until = now
        self._has_grown = False
        self._last_decrease = now
        self._ignored_successes = self.current

    def _return_to_capacity(self, capacity: float, now: float) -> None:
        self._limit = max(self._limit, capacity * _PLATEAU_FACTOR)
        self._capacity = None
        self._hold(now)

    def _hold(self, now: float) -> None:
        self._hold_s = min(_MAX_HOLD_S, 2 * self._hold_s or _FIRST_HOLD_S)
        self._hold_until = now + self._hold_s
        self._growth_per_window = 1.0


class Slots:
    """As many slots as the limit allows. Those that wait for one receive it in order."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.limit = limit
        self._in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        limit.on_rise = self.assign

    @property
    def free(self) -> int:
        """How many slots can be taken at once."""
        return max(0, self.limit.current - self._in_use)

    def acquire_at_once(self) -> bool:
        """Take a slot if one is free; False if not."""
        if self._waiters or self._in_use >= self.limit.current:
            return False
        self._in_use += 1
        return True

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        if self.acquire_at_once():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # `release` may have assigned the slot in the same turn of the event loop; it would be lost otherwise.
            if waiter.done() and not waiter.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Return a slot, and assign free slots to those that wait."""
        self._in_use -= 1
        self.assign()

    def assign(self) -> None:
        """Assign free slots to those that wait, after a slot was returned or the limit was raised."""
        # A loop, since the limit may have grown by more than one since the last call.
        while self._waiters and self._in_use < self.limit.current:
            waiter = self._waiters.popleft()
            if not waiter.done():  # a cancelled one leaves its future in the queue
                self._in_use += 1
                waiter.set_result(None)
