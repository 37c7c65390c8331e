"""A failed attempt -> how long to wait before the next, or an end to it; failures in a row -> an end to the run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from ng_rollouts.errors import AttemptFailed, StoppedEarly

FIRST_WAIT_S = 0.5
"""Upper bound of the first wait; each following one doubles it."""

LONGEST_WAIT_S = 30.0
"""No wait of our own is longer: a server that is back should not stand idle."""

LONGEST_RETRY_AFTER_S = 120.0
"""A server that asks for more gets this much, so that a wrong clock does not stop a run."""

UNREACHED = frozenset({"connection_refused", "dns", "connect_failed", "connect_timeout"})
"""Classes of failures in which no server was there."""

_POINTLESS = UNREACHED | {"certificate", "http_401", "http_403", "http_404"}
"""Classes that no other task is likely to escape: nobody there or to be trusted, credentials refused, no such agent."""

_MOST_REFUSALS = 100

_POINTLESS_AT_FIRST = 3
_POINTLESS_LATER = 10
_ALIKE_AT_FIRST = 20


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
        bound = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 16))
        asked = min(LONGEST_RETRY_AFTER_S, failure.retry_after_s or 0.0)
        wait = asked + bound * self.jitter()
        return None if self.budget_s is not None and spent_s + wait > self.budget_s else wait


class Breaker:
    """Ends a run that is going nowhere, by the failures of one agent.

    Before the first success: `_POINTLESS` failures of a few rollouts, or any class shared by the first twenty. After
    it: `_POINTLESS` failures of ten rollouts in a row.

    Args:
        agent: its name.
        rollouts: how many are planned.
    """

    def __init__(self, agent: str, rollouts: int) -> None:
        self._agent = agent
        self._rollouts = rollouts
        self._succeeded = False
        self._in_a_row = 0
        self._kind = ""

    def success(self) -> None:
        """A rollout was answered."""
        self._succeeded = True
        self._in_a_row = 0

    def failure(self, failure_class: str, message: str) -> None:
        """A rollout failed for good.

        Raises:
            StoppedEarly: there is no point in going on.
        """
        kind = "pointless" if failure_class in _POINTLESS else failure_class
        self._in_a_row = self._in_a_row + 1 if kind == self._kind else 1
        self._kind = kind
        if self._in_a_row >= self._most():
            what = "the last" if self._succeeded else "the first"
            count = f"{what} {self._in_a_row} rollouts" if self._in_a_row > 1 else "the rollout"
            raise StoppedEarly(
                f"{count} of agent {self._agent!r} failed alike, so going on is pointless: {failure_class}: {message}"
            )

    def _most(self) -> float:
        if self._kind == "pointless":
            return _POINTLESS_LATER if self._succeeded else min(_POINTLESS_AT_FIRST, self._rollouts)
        return float("inf") if self._succeeded else _ALIKE_AT_FIRST


def is_retryable(status: int) -> bool:
    """Whether a server may answer otherwise later (RFC 9110, 15.5.9, 15.6; RFC 6585; RFC 8470)."""
    return status in (408, 425, 429) or status >= 500


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
