"""Addresses that answer alike: the least busy one is asked, and one that fails is left alone for a while.

A task's rollouts stay with one address, where their prompt is in the cache, unless that one is busier than another by
a margin. An address that failed gets one request at a time, a probe, until it answers again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ng_rollouts.errors import MAX_RETRY_AFTER_S, UNREACHABLE, AttemptFailed, FailureClass
from ng_rollouts.http.rate_limiter import RateLimiter, Reservation
from ng_rollouts.redaction import without_credentials

FIRST_COOLDOWN_S = 2.0
MAX_COOLDOWN_S = 60.0
"""An address that fails is left alone for so long, twice as long each time, while there are others."""

_FAILURES_TO_COOL_DOWN = 3
"""So many failures in a row count as failing; fewer may be the fault of rows."""

_OF_THE_ROW = frozenset({"http_400", "http_413", "http_422", FailureClass.UNSUPPORTED_PARAMETER})
"""Classes that say nothing of the server."""

_MARGIN = 8
_MARGIN_SHARE = 0.25
"""By so many requests, or such a share, may the address that a task knows be busier than the least busy one."""

_LONGEST_SPREAD_S = 5.0

_TASKS_REMEMBERED = 1 << 16

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Endpoint:
    """One of a pool's servers, and how it has been doing.

    Attributes:
        asked, failed: requests sent, and how many of them failed.
        answered_s: seconds that the others took in all.
    """

    url: str
    in_flight: int = 0
    requests_sent: int = 0
    failed: int = 0
    reply_seconds: float = 0.0
    _failures_in_a_row: int = 0
    _cooldown_s: float = FIRST_COOLDOWN_S
    _cooldown_until: float = 0.0
    _retry_after_until: float = 0.0

    @property
    def display_url(self) -> str:
        """As it may be shown."""
        return without_credentials(self.url)

    @property
    def mean_seconds(self) -> float:
        """Seconds that an answer takes on average."""
        answered = self.requests_sent - self.failed - self.in_flight
        return self.reply_seconds / answered if answered > 0 else 0.0

    @property
    def retry_after_left(self) -> float:
        """Seconds for which it still asked to be left alone."""
        if not self._retry_after_until:
            return 0.0
        return max(0.0, self._retry_after_until - time.monotonic())

    @property
    def is_cooling_down(self) -> bool:
        """Whether it is not to be asked while there are others."""
        suspect = self._cooldown_until > 0
        return self.retry_after_left > 0 or (
            suspect and (self.in_flight > 0 or time.monotonic() < self._cooldown_until)
        )

    def sort_key(self) -> tuple[bool, int, int]:
        """What orders addresses, the one to ask first."""
        return self.is_cooling_down, self.in_flight, self.requests_sent

    def record_success(self, seconds: float) -> None:
        self.reply_seconds += seconds
        self._failures_in_a_row, self._cooldown_s, self._cooldown_until = 0, FIRST_COOLDOWN_S, 0.0

    def record_failure(self, failure: AttemptFailed) -> None:
        self.failed += 1
        if failure.retry_after_s is not None:
            requests_sent = min(failure.retry_after_s, MAX_RETRY_AFTER_S)
            self._retry_after_until = max(self._retry_after_until, time.monotonic() + requests_sent)
            return
        is_gone = failure.failure_class in UNREACHABLE or failure.failure_class == FailureClass.CONNECTION_LOST
        self._failures_in_a_row += failure.failure_class not in _OF_THE_ROW
        if is_gone or self._failures_in_a_row >= _FAILURES_TO_COOL_DOWN:
            self._cooldown_until = time.monotonic() + self._cooldown_s
            self._cooldown_s = min(MAX_COOLDOWN_S, 2 * self._cooldown_s)


class LoadBalancer:
    """Sends by one address or another, at a pace.

    Args:
        urls: what is asked; at least one.
    """

    def __init__(self, urls: list[str], rate_limiter: RateLimiter | None = None) -> None:
        self.endpoints = [Endpoint(url) for url in urls]
        self._rate_limiter = rate_limiter or RateLimiter()
        self._of_task: OrderedDict[int, Endpoint] = OrderedDict()

    def cooling_down(self) -> list[str]:
        """The addresses that are being left alone."""
        several = len(self.endpoints) > 1
        return [
            endpoint.display_url
            for endpoint in self.endpoints
            if endpoint.retry_after_left or (several and endpoint.is_cooling_down)
        ]

    async def send(
        self,
        task: int,
        send: Callable[[str], Awaitable[T]],
        *,
        characters: int = 0,
        output_tokens: int | None = None,
        tokens_of: Callable[[T], int] = lambda _: 0,
    ) -> T:
        """What `send` makes of the address that is best for a task; the next best if nobody is there.

        Args:
            characters, output_tokens: size of the request and the most tokens of its answer, by which it is paced.
            tokens_of: what an answer took.

        Raises:
            AttemptFailed: what the last address asked came to.
        """
        tried: set[Endpoint] = set()
        while True:
            endpoint, reservation = await self._turn(task, tried, characters, output_tokens)
            try:
                answer = await _timed(endpoint, send)
            except AttemptFailed as failure:
                self._rate_limiter.cancel(reservation)
                self._of_task.pop(task, None)
                tried.add(endpoint)
                if failure.failure_class not in UNREACHABLE or len(tried) == len(self.endpoints):
                    raise
            except BaseException:
                self._rate_limiter.cancel(reservation)
                raise
            else:
                self._rate_limiter.settle(reservation, tokens_of(answer))
                return answer

    async def _turn(
        self, task: int, tried: set[Endpoint], characters: int, output_tokens: int | None
    ) -> tuple[Endpoint, Reservation]:
        """An address that may be asked, and the turn to ask it, whatever its rest after the longest there is."""
        until = time.monotonic() + MAX_RETRY_AFTER_S
        while True:
            await self._wait_for_retry_after(task, tried, until)
            reservation = await self._rate_limiter.acquire(characters, output_tokens)
            endpoint = self._pick(task, tried)
            if not endpoint.retry_after_left or time.monotonic() >= until:
                return endpoint, reservation
            self._rate_limiter.cancel(reservation)

    async def _wait_for_retry_after(self, task: int, tried: set[Endpoint], until: float) -> None:
        """Wait for as long as the best address asks for, others prolonging it or not, but not beyond `until`."""
        while (endpoint := self._pick(task, tried)).retry_after_left and (left := until - time.monotonic()) > 0:
            excused = min(other.retry_after_left for other in self.endpoints if other not in tried)
            await asyncio.sleep(min(excused, left))
            # one after another over the time of a request, as they would come by themselves, not all at once
            await asyncio.sleep(random.uniform(0, min(_LONGEST_SPREAD_S, endpoint.mean_seconds)))  # noqa: S311

    def _pick(self, task: int, tried: set[Endpoint]) -> Endpoint:
        if len(self.endpoints) == 1:
            return self.endpoints[0]
        least = min((endpoint for endpoint in self.endpoints if endpoint not in tried), key=Endpoint.sort_key)
        known = self._of_task.get(task)
        most = max(least.in_flight + _MARGIN, least.in_flight * (1 + _MARGIN_SHARE))
        if known is None or known in tried or known.is_cooling_down or known.in_flight > most:
            self._remember(task, least)
            return least
        return known

    def _remember(self, task: int, endpoint: Endpoint) -> None:
        self._of_task[task] = endpoint
        if len(self._of_task) > _TASKS_REMEMBERED:
            self._of_task.popitem(last=False)


async def _timed(endpoint: Endpoint, send: Callable[[str], Awaitable[T]]) -> T:
    endpoint.in_flight += 1
    endpoint.requests_sent += 1
    began = time.monotonic()
    try:
        answer = await send(endpoint.url)
    except AttemptFailed as failure:
        failure.sent_at = began
        endpoint.record_failure(failure)
        raise
    else:
        endpoint.record_success(time.monotonic() - began)
        return answer
    finally:
        endpoint.in_flight -= 1
