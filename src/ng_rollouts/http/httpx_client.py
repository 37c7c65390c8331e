"""The engine over httpx: for ASGI apps within the process, and where pyreqwest is not installed.

Its own pool looks at every connection for every request, so it is slow beyond a few dozen in flight; over
httpx-aiohttp, where that is installed, it is not.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import urllib.request
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self

import httpx

from ng_rollouts._version import __version__
from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass
from ng_rollouts.http.client import (
    KEEPALIVE_EXPIRY_S,
    NO_HEADERS,
    TCP_KEEPALIVE_INTERVAL_S,
    TCP_KEEPALIVE_PROBES,
    TCP_KEEPALIVE_S,
    Headers,
    Reply,
    TimeLimits,
    is_certificate_failure,
)
from ng_rollouts.redaction import without_credentials

_KEEPALIVE = {
    "TCP_KEEPIDLE": TCP_KEEPALIVE_S,
    "TCP_KEEPINTVL": TCP_KEEPALIVE_INTERVAL_S,
    "TCP_KEEPCNT": TCP_KEEPALIVE_PROBES,
}
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _KEEPALIVE.items()
        if hasattr(socket, name)
    ),
]


_OF_AIOHTTP = {
    "ServerDisconnectedError": FailureClass.CONNECTION_LOST,
    "ClientOSError": FailureClass.CONNECTION_LOST,
    "ClientConnectorDNSError": FailureClass.DNS,
    "ClientPayloadError": FailureClass.TRUNCATED,
}
"""Errors of aiohttp that httpx-aiohttp calls by another name."""


_READ = httpx.ByteStream(b"")


class HttpxClient:
    """Sends by httpx, over the network or, given an ASGI app, within the process.

    Raises:
        ConfigError: the environment names a proxy of a kind that cannot be used.
    """

    def __init__(self, limits: TimeLimits, *, app: Any = None) -> None:
        self._limits = limits
        pool_limits = httpx.Limits(keepalive_expiry=KEEPALIVE_EXPIRY_S)
        transport = _network(pool_limits) if app is None else httpx.ASGITransport(app, raise_app_exceptions=False)
        try:
            self._client = httpx.AsyncClient(
                transport=transport,
                trust_env=app is None,
                timeout=httpx.Timeout(None, connect=limits.connect_s, read=limits.idle_s),
                limits=pool_limits,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # cookies belong to rollouts, not to us
                headers={"user-agent": f"ng_rollouts/{__version__}"},
            )
        except ImportError as error:
            raise ConfigError(f"the proxy that the environment names cannot be used: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: bytes | AsyncIterator[bytes], headers: Headers = NO_HEADERS) -> Reply:
        """Send JSON, have the reply; a body that comes in pieces wants its `content-length` among the headers."""
        return await self._send("POST", url, content=body, headers={"content-type": "application/json", **headers})

    async def get(self, url: str, headers: Headers = NO_HEADERS) -> Reply:
        """Have what is there."""
        return await self._send("GET", url, headers=headers)

    async def _send(self, method: str, url: str, **content: Any) -> Reply:
        try:
            async with asyncio.timeout(self._limits.total_s):
                response = await self._client.request(method, url, **content)
        except TimeoutError as error:
            message = f"no reply within {self._limits.total_s:g} s"
            raise AttemptFailed(FailureClass.TIMEOUT, message) from error
        except httpx.HTTPError as error:
            raise _failure(error) from error
        except httpx.InvalidURL as error:
            raise AttemptFailed(FailureClass.BAD_REQUEST, f"{without_credentials(url)}: {error}") from error
        read = response.content
        response.stream = _READ  # its own refers back to it: together they would wait for the garbage collection
        return Reply(response.status_code, response.headers.get, response.headers.get_list, read)


def _network(pool_limits: httpx.Limits) -> httpx.AsyncBaseTransport | None:
    """Over httpx-aiohttp if that is installed, else httpx's own; None leaves proxies of the environment to httpx."""
    try:
        from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        proxies = urllib.request.getproxies().keys() - {"no"}
        return None if proxies else httpx.AsyncHTTPTransport(limits=pool_limits, socket_options=_SOCKET_OPTIONS)
    return AiohttpTransport(client=_aiohttp_session)


def _aiohttp_session() -> Any:
    import aiohttp  # noqa: PLC0415 - an extra

    # by itself the transport admits a hundred connections and knows no proxies
    connector = aiohttp.TCPConnector(
        limit=0, keepalive_timeout=KEEPALIVE_EXPIRY_S, ssl=httpx.create_ssl_context(), ttl_dns_cache=300
    )
    return aiohttp.ClientSession(connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar())


def _failure(error: httpx.HTTPError) -> AttemptFailed:
    message = str(error) or type(error).__name__
    if is_certificate_failure(message):
        return AttemptFailed(FailureClass.CERTIFICATE, message)
    if under := _OF_AIOHTTP.get(type(error.__cause__).__name__):
        return AttemptFailed(under, message)
    match error:
        case httpx.ConnectTimeout():
            name, message = FailureClass.CONNECT_TIMEOUT, "no connection within the time allowed"
        case httpx.ConnectError():
            name = _connect_failure(error)
        case httpx.TimeoutException():
            name, message = FailureClass.TIMEOUT, "the server sent nothing for too long"
        case httpx.RemoteProtocolError() if "without sending a response" not in message:
            name = FailureClass.TRUNCATED
        case httpx.RemoteProtocolError() | httpx.NetworkError() | httpx.ProxyError():
            name, message = FailureClass.CONNECTION_LOST, str(error) or "the connection was reset"
        case httpx.DecodingError():
            name = FailureClass.TRUNCATED
        case _:
            return AttemptFailed(FailureClass.BAD_REQUEST, message)
    return AttemptFailed(name, message)


def _connect_failure(error: BaseException) -> FailureClass:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return FailureClass.DNS
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return FailureClass.CONNECTION_REFUSED
        cause = cause.__cause__ or cause.__context__
    return (
        FailureClass.CONNECTION_REFUSED
        if "All connection attempts failed" in str(error)
        else FailureClass.CONNECT_FAILED
    )
