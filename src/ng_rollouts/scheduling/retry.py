"""A failed attempt -> how long to wait before the next, or an end to it; failures in a row -> an end to the run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ng_rollouts.errors import MAX_RETRY_AFTER_S, AttemptFailed

FIRST_WAIT_S = 0.5
"""Upper bound of the first wait; each following one doubles it."""

MAX_WAIT_S = 30.0
"""No wait of our own is longer: a server that is back should not stand idle."""


_MOST_REFUSALS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When another attempt is made.

    Attributes:
        max_attempts: attempts at a rollout, the first one included.
        budget_s: no attempt begins later than this after the first; None for no bound.
        patient: whether a refusal (429, 503) is tried again far more often, since it says nothing of the rollout.
        jitter: draws from [0, 1).
    """

    max_attempts: int = 3
    budget_s: float | None = None
    patient: bool = False
    jitter: Callable[[], float] = random.random

    def wait_s(self, failure: AttemptFailed, attempts: int, spent_s: float = 0.0) -> float | None:
        """Seconds to wait after `attempts` failed attempts, `spent_s` after the first began; None to give up.

        Waits are drawn evenly from zero to a bound that doubles ("full jitter", M. Brooker, "Exponential Backoff
        And Jitter", AWS Architecture Blog, 2015), and are no shorter than the server asked for.
        """
        refused = self.patient and failure.status in (429, 503)
        if not failure.retryable or attempts >= (_MOST_REFUSALS if refused else self.max_attempts):
            return None
        bound = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 16))
        asked = min(MAX_RETRY_AFTER_S, failure.retry_after_s or 0.0)
        wait = asked + bound * self.jitter()
        return None if self.budget_s is not None and spent_s + wait > self.budget_s else wait
