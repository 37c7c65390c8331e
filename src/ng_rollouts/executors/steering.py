"""Reads the gauges of the engines while a run collects, and passes them to the limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.console import log
from ng_rollouts.executors.engine_addresses import match
from ng_rollouts.http.client import TimeLimits, open_http
from ng_rollouts.http.engine_gauges import metrics_url, read_gauges
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer
from ng_rollouts.redaction import without_credentials
from ng_rollouts.scheduling.engine_limit import EngineAwareLimit
from ng_rollouts.types import EngineSample

_EVERY_S = 1.0
"""Engines update their gauges about once a second."""

_LIMITS = TimeLimits(connect_s=1.0, idle_s=2.0, total_s=2.0)
_MAX_REPLY_BYTES = 4_000_000

_LOST_AFTER = 5
"""Reads without an answer, one after the other, after which an engine's gauges do not steer."""

_ASK_AGAIN_S = 30.0
"""How often an address without answers is asked."""

NEVER = "never"
"""The value of `engine_metrics_url` that asks no server."""


@dataclass(slots=True, eq=False)
class Source:
    """An address of gauges.

    Attributes:
        url: may contain credentials.
        missed: reads without an answer since the last answer.
        is_followed: whether its gauges steer, as the log says; None before the first ones, False once they are lost.
    """

    url: str
    missed: int = 0
    is_followed: bool | None = None

    @property
    def display_url(self) -> str:
        """The URL without credentials, for messages."""
        return without_credentials(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The addresses of gauges, and the endpoints that use the engines.

    Attributes:
        address_of: of the endpoints that an address could be matched to.
        are_named: whether `engine_metrics_url` names the addresses.
    """

    all: list[Source]
    balancers: list[LoadBalancer]
    address_of: dict[Endpoint, str]
    are_named: bool = False

    @property
    def endpoints(self) -> list[Endpoint]:
        """All endpoints."""
        return [endpoint for balancer in self.balancers for endpoint in balancer.endpoints]

    @property
    def number(self) -> int:
        """The number of engines: as many as addresses or as endpoints, whichever are more."""
        return max(len(self.all), len({metrics_url(endpoint.url) for endpoint in self.endpoints}))

    @property
    def are_balanced(self) -> bool:
        """True if load balancers of this process distribute the requests over the engines."""
        is_matched = {source.url for source in self.all} <= set(self.address_of.values())
        # Attempts in other processes, such as the actors of Ray, use load balancers of theirs.
        return is_matched and any(endpoint.requests_sent for endpoint in self.endpoints)

    @property
    def waiting(self) -> int:
        """Requests that wait before they are sent."""
        return sum(balancer.waiting for balancer in self.balancers)


def sources_of(wanted: object, load_balancers: Iterable[LoadBalancer]) -> Sources:
    """The addresses to ask for gauges.

    Args:
        wanted: the value of `engine_metrics_url`.

    Raises:
        ConfigError: it is not a URL, a list of URLs, `never` or None.
    """
    if wanted == NEVER:
        return Sources(all=[], balancers=[], address_of={})
    balancers = list(load_balancers)
    endpoints = [endpoint for balancer in balancers for endpoint in balancer.endpoints]
    if wanted is None:
        address_of = {endpoint: metrics_url(endpoint.url) for endpoint in endpoints}
        addresses = list(dict.fromkeys(address_of.values()))
    else:
        addresses = list(dict.fromkeys(parse_urls(wanted, "engine_metrics_url")))
        matches = match([endpoint.url for endpoint in endpoints], addresses)
        address_of = {endpoint: matches[endpoint.url] for endpoint in endpoints if endpoint.url in matches}
    sources = [Source(url) for url in addresses]
    return Sources(all=sources, balancers=balancers, address_of=address_of, are_named=wanted is not None)


@asynccontextmanager
async def steering(limit: object, sources: Sources, in_flight: Callable[[], int], engine: str) -> AsyncIterator[None]:
    """Steer an `EngineAwareLimit` by gauges while the block runs; do nothing for another limit.

    Args:
        in_flight: the number of rollouts in flight.
        engine: the HTTP engine.
    """
    if not isinstance(limit, EngineAwareLimit) or not sources.all:
        yield
        return
    task = asyncio.create_task(_steer(limit, sources, in_flight, engine))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _steer(limit: EngineAwareLimit, sources: Sources, in_flight: Callable[[], int], engine: str) -> None:
    """Ask all addresses again and again. An error ends this, but not the run."""
    try:
        async with open_http(_LIMITS, engine, max_reply_bytes=_MAX_REPLY_BYTES) as http:
            steerer = Steerer(limit, sources, partial(read_gauges, http=http), in_flight)
            await steerer.read_all()
            await asyncio.gather(*map(steerer.follow, sources.all))
    except Exception as error:  # gauges are a help, so nothing about them may end the run
        log(f"warning: the gauges of the engines cannot be read: {error}")


@dataclass(slots=True)
class Steerer:
    """Reads addresses, and passes their gauges to the limit and the limits to the load balancers.

    Attributes:
        gauges_at: reads the gauges at an address; None if it has none.
        in_flight: the number of rollouts in flight.
    """

    limit: EngineAwareLimit
    sources: Sources
    gauges_at: Callable[[str], Awaitable[EngineSample | None]]
    in_flight: Callable[[], int]

    async def read_all(self) -> None:
        """Read all addresses for the first time, and log which have gauges."""
        await asyncio.gather(*map(self.read, self.sources.all))
        found = [source for source in self.sources.all if not source.missed]
        for source in found:
            source.is_followed = True
        if found:
            log(f"parallelism follows the gauges at {', '.join(source.display_url for source in found)}")
        for source in self.sources.all:
            if self.sources.are_named and source.missed:
                log(f"warning: no gauges at {source.display_url}: {self._instead}")

    async def follow(self, source: Source) -> None:
        """Read an address again and again, less often if it does not answer."""
        while True:
            await asyncio.sleep(_EVERY_S if source.missed < _LOST_AFTER else _ASK_AGAIN_S)
            await self.read(source)
            self._log_change(source)

    async def read(self, source: Source) -> None:
        """Read an address. An error counts as no answer."""
        try:
            is_answered = await self._observe(source)
        except Exception as error:  # it may concern this address alone
            if not source.missed:
                log(f"warning: the gauges at {source.display_url} cannot be read: {error}")
            is_answered = False
        source.missed = 0 if is_answered else source.missed + 1
        if source.missed == _LOST_AFTER:
            self.limit.lose(source.url)
        self._set_capacities()

    def _log_change(self, source: Source) -> None:
        """Log that gauges are found or lost."""
        if source.is_followed and source.missed >= _LOST_AFTER:
            source.is_followed = False
            log(f"warning: the gauges at {source.display_url} are lost: {self._instead}")
        elif not source.is_followed and not source.missed:
            again = "" if source.is_followed is None else " again"
            source.is_followed = True
            log(f"parallelism follows the gauges at {source.display_url}{again}")

    @property
    def _instead(self) -> str:
        """The rule that replaces missing gauges, for messages."""
        if any(source.is_followed for source in self.sources.all):
            return "this engine counts like the mean of the others"
        return "parallelism follows the throughput"

    async def _observe(self, source: Source) -> bool:
        sample = await self.gauges_at(source.url)
        if sample is None:
            return False
        self.limit.expect(self.sources.number, evenly=not self.sources.are_balanced)
        self.limit.observe(source.url, sample, self.in_flight() - self.sources.waiting)
        return True

    def _set_capacities(self) -> None:
        """Let each endpoint get requests in proportion to its limit."""
        is_balanced = self.sources.are_balanced
        for endpoint in self.sources.endpoints:
            limit = self.limit.of(self.sources.address_of.get(endpoint, "")) if is_balanced else None
            endpoint.capacity = limit or 1.0
