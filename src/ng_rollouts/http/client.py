"""HTTP behind one seam: post or get bytes, have status, headers and bytes back, or one `AttemptFailed`.

Nothing above this room knows which engine sends. What went wrong is named here, once: the engines map their own
errors to the same classes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, Self

from ng_rollouts.errors import ConfigError

KEEPALIVE_EXPIRY_S = 15.0
"""Idle connections are dropped before most servers drop them, so that few requests meet a closing one."""

TCP_KEEPALIVE_S = 60
TCP_KEEPALIVE_INTERVAL_S = 15
TCP_KEEPALIVE_PROBES = 4
"""A connection that was dropped without a word is found out after two minutes, long before a rollout's time is up."""


Headers = Mapping[str, str]
NO_HEADERS: Headers = MappingProxyType({})

_SLOW_ABOVE = 32
"""httpx's own pool looks at every connection for every request: 4 ms of CPU each at 100 in flight."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered, read to its end.

    Attributes:
        header: the value of a header, by its name in any case; None if it is not there.
        headers: all values of a header that may be there more than once.
    """

    status: int
    header: Callable[[str], str | None]
    headers: Callable[[str], Sequence[str]]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Seconds to wait; None for no bound.

    Attributes:
        connect_s: for a connection.
        idle_s: for the next bytes of a reply that is owed.
        total_s: for the whole reply, counted from sending.
    """

    connect_s: float | None = 10.0
    idle_s: float | None = 1800.0
    total_s: float | None = 3600.0


class Http(Protocol):
    """What sends a request.

    Raises:
        AttemptFailed: there was no whole reply; whatever the status, a reply is returned.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def post(self, url: str, body: bytes, headers: Headers = NO_HEADERS) -> Reply:
        """Send JSON, have the reply."""
        ...

    async def get(self, url: str, headers: Headers = NO_HEADERS) -> Reply:
        """Have what is there."""
        ...


def open_http(limits: TimeLimits, engine: str = "auto", *, app: Any = None) -> Http:
    """A client over the network or, given an ASGI app, within the process.

    Args:
        engine: `pyreqwest`, `httpx` or `auto`, which is pyreqwest where it is installed.

    Raises:
        ConfigError: the engine is not installed.
    """
    if engine == "pyreqwest" and not _installed("pyreqwest"):
        raise ConfigError("http_engine=pyreqwest needs pyreqwest: pip install pyreqwest, or use http_engine=httpx")
    if app is None and _sends_by_pyreqwest(engine):
        from ng_rollouts.http.pyreqwest_client import PyreqwestClient  # noqa: PLC0415 - one engine is loaded

        return PyreqwestClient(limits)
    from ng_rollouts.http.httpx_client import HttpxClient  # noqa: PLC0415

    return HttpxClient(limits, app=app)


def is_certificate_failure(message: str) -> bool:
    """Whether an engine says that a server's certificate is not to be trusted."""
    said = message.lower()
    return "certificate" in said and any(word in said for word in ("verify", "invalid", "unknown", "expired"))


def slow_above(engine: str) -> int | None:
    """From how many requests in flight on this engine spends its time in its own pool; None if it does not."""
    return None if _sends_by_pyreqwest(engine) or _installed("httpx_aiohttp") else _SLOW_ABOVE


def _sends_by_pyreqwest(engine: str) -> bool:
    return engine != "httpx" and _installed("pyreqwest")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
