"""Reads the gauges of the engines while a run collects, and passes them to the limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.console import log
from ng_rollouts.http.client import Http, TimeLimits, open_http
from ng_rollouts.http.engine_gauges import Gauges, metrics_url, read_gauges
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer
from ng_rollouts.redaction import without_credentials
from ng_rollouts.scheduling.engine_limit import EngineAwareLimit, EngineSample

_EVERY_S = 1.0
"""Engines update their gauges about once a second."""

_LIMITS = TimeLimits(connect_s=1.0, idle_s=2.0, total_s=2.0)
_MAX_REPLY_BYTES = 4_000_000

_LOST_AFTER = 5
"""Reads without an answer, one after the other, after which an engine's gauges do not steer."""

NEVER = "never"
"""The value of `engine_metrics_url` that asks no server."""


@dataclass(slots=True, eq=False)
class Source:
    """An address of gauges.

    Attributes:
        endpoint: the endpoint of a load balancer that it belongs to, if that is known.
        missed: reads without an answer since the last answer.
    """

    url: str
    endpoint: Endpoint | None = None
    missed: int = 0


def sources_of(wanted: object, load_balancers: Iterable[LoadBalancer]) -> list[Source]:
    """The addresses to ask for gauges.

    Args:
        wanted: the value of `engine_metrics_url`.

    Raises:
        ConfigError: it is not a URL, a list of URLs, `never` or None.
    """
    if wanted == NEVER:
        return []
    if wanted is not None:
        return [Source(url) for url in parse_urls(wanted, "engine_metrics_url")]
    endpoints = (endpoint for balancer in load_balancers for endpoint in balancer.endpoints)
    by_url = {metrics_url(endpoint.url): endpoint for endpoint in endpoints}
    return [Source(url, endpoint) for url, endpoint in by_url.items()]


@asynccontextmanager
async def steering(
    limit: object, sources: list[Source], in_flight: Callable[[], int], engine: str
) -> AsyncIterator[None]:
    """Steer an `EngineAwareLimit` by gauges while the block runs; do nothing for another limit.

    Args:
        in_flight: the number of rollouts in flight.
        engine: the HTTP engine.
    """
    if not isinstance(limit, EngineAwareLimit) or not sources:
        yield
        return
    task = asyncio.create_task(_steer(limit, sources, in_flight, engine))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _steer(limit: EngineAwareLimit, sources: list[Source], in_flight: Callable[[], int], engine: str) -> None:
    """Ask all addresses once, then those that have gauges again and again. An error ends this, but not the run."""
    try:
        async with open_http(_LIMITS, engine, max_reply_bytes=_MAX_REPLY_BYTES) as http:
            steerer = _Steerer(limit, http, in_flight)
            answers = await asyncio.gather(*map(steerer.read, sources))
            found = [source for source, gauges in zip(sources, answers, strict=True) if gauges]
            limit.expect(len(sources))
            if found:
                log(f"parallelism follows the gauges at {', '.join(without_credentials(each.url) for each in found)}")
            while found:
                await asyncio.sleep(_EVERY_S)
                await asyncio.gather(*map(steerer.read, found))
    except Exception as error:  # gauges are a help, so nothing about them may end the run
        log(f"warning: the gauges of the engines cannot be read: {error}")


@dataclass(slots=True)
class _Steerer:
    limit: EngineAwareLimit
    http: Http
    in_flight: Callable[[], int]

    async def read(self, source: Source) -> Gauges | None:
        """Read an address, and pass its gauges to the limit."""
        gauges = await read_gauges(source.url, self.http)
        if gauges is None:
            source.missed += 1
            if source.missed == _LOST_AFTER:
                self.limit.lose(source.url)
            return None
        source.missed = 0
        self.limit.observe(source.url, _sample(gauges), self.in_flight(), engine=gauges.engine)
        if source.endpoint:
            source.endpoint.capacity = self.limit.of(source.url) or 1.0
        return gauges


def _sample(gauges: Gauges) -> EngineSample:
    return EngineSample(
        at=time.monotonic(),
        running=gauges.running,
        waiting=gauges.waiting,
        cache=gauges.cache,
        preemptions=gauges.preemptions,
    )
