"""Decides whether a failed attempt is retried, and how long to wait before the next attempt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ng_rollouts.errors import MAX_RETRY_AFTER_S, AttemptFailed

T = TypeVar("T")

OVERLOAD_STATUSES = (429, 503)
"""HTTP statuses of an overloaded server: Too Many Requests (RFC 6585) and Service Unavailable (RFC 9110)."""

FIRST_WAIT_S = 0.5
"""Upper bound of the first wait, which is at least half of it. Each following wait doubles both."""

MAX_WAIT_S = 30.0
"""Upper bound of the waits that this program draws, so that a server that has recovered does not stay idle."""

_MAX_OVERLOAD_ATTEMPTS = 1000
"""Used instead of `max_attempts` for an overloaded server; finite, so that without a budget it ends a rollout, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When another attempt is made.

    Attributes:
        max_attempts: attempts at a rollout, the first one included. 1 for no retries. Otherwise, an overloaded server
            (429, 503) is retried for as long as the budget allows: such a reply does not depend on the rollout.
        budget_s: no attempt begins later than this after the first; None for no bound.
        jitter: draws from [0, 1).
    """

    max_attempts: int = 3
    budget_s: float | None = None
    jitter: Callable[[], float] = random.random

    def wait_s(self, failure: AttemptFailed, attempts: int, spent_s: float = 0.0) -> float | None:
        """Seconds to wait after `attempts` failed attempts, `spent_s` after the first began; None to give up.

        A wait is the server's `Retry-After`, if any, plus a random wait. The random wait is drawn evenly from the upper
        half of a bound that doubles with each attempt ("equal jitter", M. Brooker, "Exponential Backoff And Jitter",
        AWS Architecture Blog, 2015). With draws from zero, several attempts in a row could be spent at once.
        """
        overloaded = self.max_attempts > 1 and failure.status in OVERLOAD_STATUSES
        if not failure.retryable or attempts >= (_MAX_OVERLOAD_ATTEMPTS if overloaded else self.max_attempts):
            return None
        # MAX_WAIT_S is the smaller one long before the 16th attempt; limiting the exponent only prevents an overflow.
        bound = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 16))
        retry_after = min(MAX_RETRY_AFTER_S, failure.retry_after_s or 0.0)
        # Jitter is added even to a `Retry-After`: otherwise all clients that received it would return at once.
        wait = retry_after + bound * (1 + self.jitter()) / 2
        return None if self.budget_s is not None and spent_s + wait > self.budget_s else wait


async def with_retries(call: Callable[[], Awaitable[T]], policy: RetryPolicy) -> T:
    """Await a call, again as often as the policy allows.

    Raises:
        AttemptFailed: the last attempt failed.
    """
    attempts, began = 0, time.monotonic()
    while True:
        attempts += 1
        try:
            return await call()
        except AttemptFailed as failure:
            wait_s = policy.wait_s(failure, attempts, time.monotonic() - began)
            if wait_s is None:
                raise
        await asyncio.sleep(wait_s)
