"""Load balancing over equivalent endpoints: least requests in flight, sticky tasks, and cooldowns after failures.

The requests of a task stay with one endpoint, which has their prompt in its prefix cache, unless that endpoint is
busier than the least busy one by a margin. A failing endpoint gets no requests during a cooldown. After the cooldown,
one request at a time probes it until one succeeds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from ng_rollouts.errors import MAX_RETRY_AFTER_S, UNREACHABLE, AttemptFailed, FailureClass
from ng_rollouts.http.attempt_endpoints import ATTEMPT_ENDPOINTS
from ng_rollouts.http.rate_limiter import UNLIMITED, RateLimiter, Reservation
from ng_rollouts.redaction import without_credentials

FIRST_COOLDOWN_S = 2.0
"""The first cooldown of an endpoint; it doubles with every further failure. A single endpoint has no cooldown."""

MAX_COOLDOWN_S = 60.0
"""Upper bound of a cooldown."""

_FAILURES_TO_COOL_DOWN = 3
"""Consecutive failures before a cooldown. Fewer may be caused by the rows that were sent."""

_REQUEST_FAILURES = frozenset({"http_400", "http_413", "http_422", FailureClass.UNSUPPORTED_PARAMETER})
"""Failure classes that are caused by the request and do not count against the endpoint."""

_STICKY_MARGIN = 8
_STICKY_MARGIN_SHARE = 0.25
"""Requests, and share of requests, by which a task's endpoint may be busier than the least busy one."""

_MAX_JITTER_S = 5.0
"""Upper bound of the random delay after a `Retry-After`."""

_MIN_SLEEP_S = 0.001
"""The shortest wait. uvloop would make a shorter one no wait at all, and the loop busy."""

_MAX_STICKY_TASKS = 1 << 16
"""Tasks and second attempts whose endpoint is kept. It bounds memory; the oldest entry is dropped first."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server of a load balancer, with its statistics and its cooldown.

    Attributes:
        url: the address that requests are sent to. It may contain credentials.
        in_flight: requests sent that have not completed.
        requests_sent: all requests sent.
        answered: requests that succeeded.
        failed: requests that failed.
        reply_seconds: the total duration of the successful requests.
        capacity: how much it can have in flight, relative to the other endpoints.
    """

    url: str
    in_flight: int = 0
    requests_sent: int = 0
    answered: int = 0
    failed: int = 0
    reply_seconds: float = 0.0
    capacity: float = 1.0
    _consecutive_failures: int = 0
    _cooldown_s: float = FIRST_COOLDOWN_S
    _cooldown_until: float = 0.0
    _retry_after_until: float = 0.0

    @property
    def display_url(self) -> str:
        """The URL without credentials, for messages."""
        return without_credentials(self.url)

    @property
    def mean_seconds(self) -> float:
        """The mean duration of a successful request in seconds; 0 before the first."""
        return self.reply_seconds / self.answered if self.answered else 0.0

    @property
    def retry_after_left(self) -> float:
        """The remaining seconds of the last `Retry-After`."""
        if not self._retry_after_until:
            return 0.0
        return max(0.0, self._retry_after_until - time.monotonic())

    @property
    def cooldown_left(self) -> float:
        """Seconds until its cooldown ends."""
        return max(0.0, self._cooldown_until - time.monotonic()) if self._cooldown_until else 0.0

    @property
    def is_avoided(self) -> bool:
        """Whether other endpoints are preferred: during a `Retry-After`, a cooldown, or a probe."""
        # only a success resets _cooldown_until, so after the cooldown each request is a probe
        needs_probe = self._cooldown_until > 0
        return self.retry_after_left > 0 or (
            needs_probe and (self.in_flight > 0 or time.monotonic() < self._cooldown_until)
        )

    def sort_key(self) -> tuple[bool, float, int]:
        """The order of preference: the best endpoint has the lowest key."""
        # requests_sent breaks ties, so that idle endpoints take turns
        return self.is_avoided, self.in_flight / self.capacity, self.requests_sent

    def record_success(self, seconds: float) -> None:
        """Count a request that succeeded after `seconds`, and end the cooldown."""
        self.answered += 1
        self.reply_seconds += seconds
        self._consecutive_failures, self._cooldown_s, self._cooldown_until = 0, FIRST_COOLDOWN_S, 0.0

    def record_failure(self, failure: AttemptFailed) -> None:
        """Count a failed request, and start a cooldown or a `Retry-After` if one is due."""
        self.failed += 1
        # a server that sends Retry-After is working, and says itself when to continue
        if failure.retry_after_s is not None:
            wait_s = min(failure.retry_after_s, MAX_RETRY_AFTER_S)
            self._retry_after_until = max(self._retry_after_until, time.monotonic() + wait_s)
            return
        is_down = failure.failure_class in UNREACHABLE or failure.failure_class == FailureClass.CONNECTION_LOST
        self._consecutive_failures += failure.failure_class not in _REQUEST_FAILURES
        if is_down or self._consecutive_failures >= _FAILURES_TO_COOL_DOWN:
            self._cooldown_until = time.monotonic() + self._cooldown_s
            self._cooldown_s = min(MAX_COOLDOWN_S, 2 * self._cooldown_s)


class LoadBalancer:
    """Sends each request to the best endpoint, within a rate limit.

    Args:
        urls: the URLs of the endpoints, at least one.
        rate_limiter: the rate limit for all endpoints together; None for no limit.

    Attributes:
        waiting: requests that wait for the rate limiter or a `Retry-After`.
    """

    def __init__(self, urls: list[str], rate_limiter: RateLimiter | None = None) -> None:
        self.endpoints = [Endpoint(url) for url in urls]
        self.waiting = 0
        self._rate_limiter = rate_limiter or RateLimiter()
        self._sticky: OrderedDict[Hashable, Endpoint] = OrderedDict()  # by task, or second attempt

    def set_requests_per_minute(self, requests_per_minute: float | None) -> None:
        """Replace the limit of requests of all balancers that share the rate limiter."""
        self._rate_limiter.set_requests_per_minute(requests_per_minute)

    def cooling_down(self) -> list[str]:
        """The endpoints that get no requests at present, for messages."""
        several = len(self.endpoints) > 1
        return [
            endpoint.display_url
            for endpoint in self.endpoints
            if endpoint.retry_after_left or (several and endpoint.is_avoided)
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
        """Call `send` with the URL of the best endpoint for a task, and return its result.

        If an endpoint cannot be reached, the next best one is tried at once.

        Args:
            task: the task's index. Requests of one task stay with one endpoint where possible.
            send: sends the request to a URL.
            characters: the size of the request, for the rate limiter.
            output_tokens: the maximum number of output tokens, for the rate limiter; None if it is not known.
            tokens_of: the tokens that a result consumed; 0 if they are not known.

        Raises:
            AttemptFailed: the failure of the last endpoint that was tried.
        """
        attempt = ATTEMPT_ENDPOINTS.get()
        tried = self._avoided(attempt.avoided) if attempt and attempt.avoided else set()
        # The endpoint of a second attempt is kept apart: the task's one has the prompt in its cache.
        key: Hashable = attempt if tried else task
        while True:
            endpoint, reservation = self._reserve_at_once(key, tried) or await self._reserve(
                key, tried, characters, output_tokens
            )
            endpoint.in_flight += 1
            endpoint.requests_sent += 1
            if attempt:
                attempt.visited.add(endpoint)
            began = time.monotonic()
            try:
                reply = await send(endpoint.url)
            except AttemptFailed as failure:
                failure.sent_at = began  # without the wait for the rate limiter; the concurrency limit needs it
                endpoint.record_failure(failure)
                self._rate_limiter.cancel(reservation)
                if self._sticky.get(key) is endpoint:
                    del self._sticky[key]
                tried.add(endpoint)
                # after other failures the server may have got the request: the scheduler decides about a retry
                if failure.failure_class not in UNREACHABLE or len(tried) == len(self.endpoints):
                    raise
            except BaseException:  # also a cancellation: a lost reservation would block later requests
                self._rate_limiter.cancel(reservation)
                raise
            else:
                endpoint.record_success(time.monotonic() - began)
                if not self._rate_limiter.is_unlimited:
                    self._rate_limiter.settle(reservation, tokens_of(reply))
                return reply
            finally:
                endpoint.in_flight -= 1

    def _avoided(self, endpoints: frozenset[Endpoint]) -> set[Endpoint]:
        """Those of the endpoints that are this balancer's; none, if no usable one would be left."""
        others = [endpoint for endpoint in self.endpoints if endpoint not in endpoints and not endpoint.is_avoided]
        return set(self.endpoints).intersection(endpoints) if others else set()

    def _reserve_at_once(self, key: Hashable, tried: set[Endpoint]) -> tuple[Endpoint, Reservation] | None:
        """An endpoint and a reservation without a wait; None if one may be necessary."""
        if not self._rate_limiter.is_unlimited:
            return None
        endpoint = self._pick(key, tried)
        return None if endpoint.retry_after_left else (endpoint, UNLIMITED)

    async def _reserve(
        self, key: Hashable, tried: set[Endpoint], characters: int, output_tokens: int | None
    ) -> tuple[Endpoint, Reservation]:
        """Wait for an endpoint and a reservation.

        After `MAX_RETRY_AFTER_S` the request is sent even if `Retry-After` has not passed: other requests may
        prolong it again and again.
        """
        deadline = time.monotonic() + MAX_RETRY_AFTER_S
        self.waiting += 1
        try:
            while True:
                await self._wait_for_retry_after(key, tried, deadline)
                reservation = await self._rate_limiter.acquire(characters, output_tokens)
                # pick only now, because endpoints may have become busy or failed during the wait
                endpoint = self._pick(key, tried)
                if not endpoint.retry_after_left or time.monotonic() >= deadline:
                    return endpoint, reservation
                self._rate_limiter.cancel(reservation)
        finally:
            self.waiting -= 1

    async def _wait_for_retry_after(self, key: Hashable, tried: set[Endpoint], deadline: float) -> None:
        """Wait until the best endpoint's `Retry-After` has passed, but not longer than until `deadline`."""
        while (endpoint := self._pick(key, tried)).retry_after_left and (left := deadline - time.monotonic()) > 0:
            waits = [other.retry_after_left or other.cooldown_left for other in self.endpoints if other not in tried]
            # only positive waits: an endpoint that is being probed after its cooldown would make this loop busy
            await asyncio.sleep(max(_MIN_SLEEP_S, min([left, *(wait for wait in waits if wait > 0)])))
            # spread the waiting requests over the duration of one request: a burst would be refused again
            await asyncio.sleep(random.uniform(0, min(_MAX_JITTER_S, endpoint.mean_seconds)))  # noqa: S311

    def _pick(self, key: Hashable, tried: set[Endpoint]) -> Endpoint:
        """The endpoint kept for a key if it is usable and not too busy, else the least busy one that was not tried."""
        if len(self.endpoints) == 1:
            return self.endpoints[0]
        best = min((endpoint for endpoint in self.endpoints if endpoint not in tried), key=Endpoint.sort_key)
        sticky = self._sticky.get(key)
        if sticky is None or sticky in tried or sticky.is_avoided or _is_busier(sticky, best):
            self._stick(key, best)
            return best
        return sticky

    def _stick(self, key: Hashable, endpoint: Endpoint) -> None:
        self._sticky[key] = endpoint
        if len(self._sticky) > _MAX_STICKY_TASKS:
            self._sticky.popitem(last=False)


def _is_busier(endpoint: Endpoint, best: Endpoint) -> bool:
    """True if an endpoint is busier than the least busy one by a margin."""
    least = best.in_flight * endpoint.capacity / best.capacity
    return endpoint.in_flight > max(least + _STICKY_MARGIN, least * (1 + _STICKY_MARGIN_SHARE))
