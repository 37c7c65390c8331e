"""HTTP behind one seam: post or get bytes, have status, headers and bytes back, or one `AttemptFailed`.

Nothing above this room knows which client sends. What went wrong is named here, once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from ng_rollouts import __version__
from ng_rollouts.errors import AttemptFailed, ConfigError

KEEPALIVE_EXPIRY_S = 15.0
"""Idle connections are dropped before most servers drop them, so that few requests meet a closing one."""

_KEEPALIVE_SECONDS = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
KEEPALIVE_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), n)
        for name, n in _KEEPALIVE_SECONDS.items()
        if hasattr(socket, name)
    ),
]
"""A connection that was dropped without a word is found out after two minutes, long before a rollout's time is up."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http(Protocol):
    """What sends a request.

    Raises:
        AttemptFailed: there was no whole reply; whatever the status, a reply is returned.
    """

    async def post(self, url: str, body: bytes) -> Reply: ...

    async def get(self, url: str) -> Reply: ...


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


class HttpxClient:
    """Sends by httpx, over the network or, given an ASGI app, within the process."""

    def __init__(self, limits: TimeLimits, *, app: Any = None) -> None:
        self._limits = limits
        pool = httpx.Limits(keepalive_expiry=KEEPALIVE_EXPIRY_S)
        transport: httpx.AsyncBaseTransport
        if app is not None:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        else:
            transport = httpx.AsyncHTTPTransport(limits=pool, socket_options=KEEPALIVE_OPTIONS)
        try:
            self._client = self._open(transport, pool, use_proxies=app is None)
        except ImportError as error:
            raise ConfigError(f"the proxy that the environment names cannot be used: {error}") from error

    def _open(self, transport: httpx.AsyncBaseTransport, pool: httpx.Limits, *, use_proxies: bool) -> httpx.AsyncClient:
        limits = self._limits
        return httpx.AsyncClient(
            transport=transport,
            trust_env=use_proxies,
            timeout=httpx.Timeout(None, connect=limits.connect_s, read=limits.idle_s),
            limits=pool,
            headers={"user-agent": f"ng_rollouts/{__version__}"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: bytes) -> Reply:
        """Send JSON, have the reply."""
        headers = {"content-type": "application/json"}
        return await self._send("POST", url, content=body, headers=headers)

    async def get(self, url: str) -> Reply:
        """Have what is there."""
        return await self._send("GET", url)

    async def _send(self, method: str, url: str, **content: Any) -> Reply:
        try:
            async with asyncio.timeout(self._limits.total_s):
                response = await self._client.request(method, url, **content)
        except TimeoutError as error:
            message = f"no reply within {self._limits.total_s:g} s"
            raise AttemptFailed("timeout", message, retryable=True) from error
        except httpx.HTTPError as error:
            raise _failure(error) from error
        except httpx.InvalidURL as error:
            raise AttemptFailed("bad_request", f"{without_credentials(url)}: {error}") from error
        return Reply(response.status_code, response.headers, response.content)


def without_credentials(url: str) -> str:
    """A URL as it may be shown: no user, no password, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _failure(error: httpx.HTTPError) -> AttemptFailed:
    message = str(error) or type(error).__name__
    match error:
        case httpx.ConnectTimeout():
            name, message = "connect_timeout", "no connection within the time allowed"
        case httpx.ConnectError():
            name = _connect_failure(error)
        case httpx.TimeoutException():
            name, message = "timeout", "the server sent nothing for too long"
        case httpx.RemoteProtocolError() if "without sending a response" not in message:
            name = "truncated"
        case httpx.RemoteProtocolError() | httpx.NetworkError() | httpx.ProxyError():
            name, message = "connection_lost", str(error) or "the connection was reset"
        case httpx.DecodingError():
            name = "truncated"
        case _:
            return AttemptFailed("bad_request", message)
    return AttemptFailed(name, message, retryable=True)


def _connect_failure(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "dns"
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return "connection_refused"
        cause = cause.__cause__ or cause.__context__
    return "connection_refused" if "All connection attempts failed" in str(error) else "connect_failed"
