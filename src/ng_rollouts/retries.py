"""A failed attempt -> how long to wait before the next, or an end to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from ng_rollouts.errors import AttemptFailed

FIRST_WAIT_S = 0.5
"""Upper bound of the first wait; each following one doubles it."""

LONGEST_WAIT_S = 30.0
"""No wait of our own is longer: a server that is back should not stand idle."""

LONGEST_RETRY_AFTER_S = 120.0
"""A server that asks for more gets this much, so that a wrong clock does not stop a run."""

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The server may answer otherwise later (RFC 9110, 15.5.9, 15.6; RFC 6585; RFC 8470)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When another attempt is made.

    Attributes:
        max_attempts: attempts at a rollout, the first one included.
        jitter: draws from [0, 1).
    """

    max_attempts: int = 3
    jitter: Callable[[], float] = random.random

    def wait_s(self, failure: AttemptFailed, attempts: int) -> float | None:
        """Seconds to wait after `attempts` failed attempts; None to give up.

        Waits are drawn evenly from zero to a bound that doubles ("full jitter", M. Brooker, "Exponential Backoff
        And Jitter", AWS Architecture Blog, 2015), and are no shorter than the server asked for.
        """
        if not failure.retryable or attempts >= self.max_attempts:
            return None
        bound = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 16))
        asked = min(LONGEST_RETRY_AFTER_S, failure.retry_after_s or 0.0)
        return asked + bound * self.jitter()


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, given as seconds or as an HTTP date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    header = header.strip()
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
