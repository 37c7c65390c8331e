"""Decides whether a failed attempt is retried, and how long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ng_rollouts.errors import MAX_RETRY_AFTER_S, AttemptFailed

OVERLOAD_STATUSES = (429, 503)
"""HTTP statuses of an overloaded server: Too Many Requests (RFC 6585) and Service Unavailable (RFC 9110)."""

FIRST_WAIT_S = 0.5
"""Upper bound of the first wait. Each following wait doubles it."""

MAX_WAIT_S = 30.0
"""Upper bound of the waits that this program draws, so that a server that has recovered does not stay idle."""

_MAX_OVERLOAD_ATTEMPTS = 100
"""Used instead of `max_attempts` if `tolerate_overload` is set; finite, so that permanent overload ends a rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When another attempt is made.

    Attributes:
        max_attempts: attempts at a rollout, the first one included.
        budget_s: no attempt begins later than this after the first; None for no bound.
        tolerate_overload: whether an overloaded server (429, 503) is retried far more often than `max_attempts`.
            Such a reply does not depend on the rollout.
        jitter: draws from [0, 1).
    """

    max_attempts: int = 3
    budget_s: float | None = None
    tolerate_overload: bool = False
    jitter: Callable[[], float] = random.random

    def wait_s(self, failure: AttemptFailed, attempts: int, spent_s: float = 0.0) -> float | None:
        """Seconds to wait after `attempts` failed attempts, `spent_s` after the first began; None to give up.

        A wait is the server's `Retry-After`, if any, plus a random wait. The random wait is drawn evenly from zero to
        a bound that doubles with each attempt ("full jitter", M. Brooker, "Exponential Backoff And Jitter", AWS
        Architecture Blog, 2015).
        """
        overloaded = self.tolerate_overload and failure.status in OVERLOAD_STATUSES
        if not failure.retryable or attempts >= (_MAX_OVERLOAD_ATTEMPTS if overloaded else self.max_attempts):
            return None
        # MAX_WAIT_S is the smaller one long before the 16th attempt; limiting the exponent only prevents an overflow.
        bound = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 16))
        retry_after = min(MAX_RETRY_AFTER_S, failure.retry_after_s or 0.0)
        # Jitter is added even to a `Retry-After`: otherwise all clients that received it would return at once.
        wait = retry_after + bound * self.jitter()
        return None if self.budget_s is not None and spent_s + wait > self.budget_s else wait
