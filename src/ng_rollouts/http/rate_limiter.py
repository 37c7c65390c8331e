"""Rate limiting: requests at an even rate, by requests and by tokens per minute.

This is the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371) with a tolerance of 0: requests
never leave in a burst. The cost of a request is corrected when its reply reports the tokens that it consumed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

_CHARACTERS_PER_TOKEN = 4
_DEFAULT_OUTPUT_TOKENS = 512
"""Estimates for the first requests. Later estimates are the mean of earlier replies."""

_MAX_UNSETTLED = 4
"""Requests in flight before the first reply has reported tokens, because the first estimates may be far too low."""

_POLL_S = 0.25
"""Interval of the waits. A reply may move the time of the next request while one waits for it."""


@dataclass(slots=True)
class Reservation:
    """The permission to send one request.

    Attributes:
        cost_s: seconds by which the request delays the next one.
    """

    cost_s: float


UNLIMITED = Reservation(0.0)
"""The reservation without a rate limit, shared by all requests: nothing is counted for it."""


class RateLimiter:
    """Admits requests one after another, at an even rate.

    Each request delays the next one by its share of a minute. When its reply reports the tokens that it consumed, the
    delay is corrected. Idle time is not saved up for later requests.

    Args:
        requests_per_minute, tokens_per_minute: limits; None for no limit.
        clock: returns seconds, as `time.monotonic` does.

    Attributes:
        is_unlimited: whether neither requests nor tokens are limited.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next_at = 0.0
        self._mean_tokens: float | None = None
        self._unsettled = 0
        self._queue = asyncio.Lock()
        self.is_unlimited = not self._request_s and not self._token_s

    def set_requests_per_minute(self, requests_per_minute: float | None) -> None:
        """Replace the limit of requests, also for those that wait; None for no limit."""
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        if not self._token_s:  # else, the delay may be that of tokens
            self._next_at = min(self._next_at, self._clock() + self._request_s)
        self.is_unlimited = not self._request_s and not self._token_s

    async def acquire(self, characters: int, output_tokens: int | None = None) -> Reservation:
        """Wait until a request may be sent, and reserve it. Requests are admitted in the order of the calls.

        Args:
            characters: the size of the request.
            output_tokens: the maximum number of output tokens; None if it is not known.
        """
        if self.is_unlimited:
            return UNLIMITED
        async with self._queue:  # an asyncio.Lock is fair: the first to wait is the first to continue
            while self._token_s and self._mean_tokens is None and self._unsettled >= _MAX_UNSETTLED:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            while (seconds := self.seconds_until_next()) > 0:  # noqa: ASYNC110 - it waits for a time, not for an event
                await asyncio.sleep(min(seconds, _POLL_S))
            return self.reserve(characters, output_tokens)

    def seconds_until_next(self) -> float:
        """Seconds until the next request may be sent; negative if that time has passed."""
        return self._next_at - self._clock()

    def reserve(self, characters: int, output_tokens: int | None = None) -> Reservation:
        """Reserve a request without waiting, and delay the next one by its estimated cost."""
        estimate = characters / _CHARACTERS_PER_TOKEN + (output_tokens or _DEFAULT_OUTPUT_TOKENS)
        self._unsettled += 1
        reservation = Reservation(self._cost_s(estimate if self._mean_tokens is None else self._mean_tokens))
        # counted from now at the earliest, so idle time is lost and cannot become a burst
        self._next_at = max(self._clock(), self._next_at) + reservation.cost_s
        return reservation

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """Replace the estimated cost of a request by its real one.

        Args:
            tokens: the tokens that the request consumed; 0 if they are not known.
        """
        if reservation is UNLIMITED:
            return
        self._unsettled -= 1
        # a server that reports no tokens must not keep `acquire` waiting for a first report
        if self._token_s and not tokens and self._mean_tokens is None:
            self._mean_tokens = _DEFAULT_OUTPUT_TOKENS
        if self._token_s and tokens:
            # an exponential moving average
            self._mean_tokens = tokens if self._mean_tokens is None else 0.9 * self._mean_tokens + 0.1 * tokens
            self._next_at += self._cost_s(tokens) - reservation.cost_s

    def cancel(self, reservation: Reservation) -> None:
        """Give back the tokens of a request that was not sent or failed. It still counts as a request."""
        if reservation is UNLIMITED:
            return
        self._unsettled -= 1
        self._next_at -= reservation.cost_s - min(reservation.cost_s, self._request_s)

    def _cost_s(self, tokens: float) -> float:
        """Seconds of the stricter limit that a request uses up."""
        return max(self._request_s, tokens * self._token_s)
