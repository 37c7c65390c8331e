"""The httpx engine, for ASGI apps within the process and for installations without pyreqwest.

httpx's own pool scans all connections for every request, so it is slow above a few dozen requests in flight. With
httpx-aiohttp installed, aiohttp's pool replaces it, which does not have this limit.
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
        if hasattr(socket, name)  # macOS has no TCP_KEEPIDLE
    ),
]

_AIOHTTP_FAILURES = {
    "ServerDisconnectedError": FailureClass.CONNECTION_LOST,
    "ClientOSError": FailureClass.CONNECTION_LOST,
    "ClientConnectorDNSError": FailureClass.DNS,
    "ClientPayloadError": FailureClass.TRUNCATED,
}
"""Failure classes by aiohttp error. httpx-aiohttp maps these to other errors: a disconnect to a connect timeout."""

_EMPTY_STREAM = httpx.ByteStream(b"")


class HttpxClient:
    """An HTTP client over httpx.

    Args:
        app: an ASGI app to call within the process, instead of the network.

    Raises:
        ConfigError: the environment sets a proxy of an unsupported kind.
    """

    def __init__(self, limits: TimeLimits, *, app: Any = None) -> None:
        self._limits = limits
        pool_limits = httpx.Limits(keepalive_expiry=KEEPALIVE_EXPIRY_S)
        transport = _network(pool_limits) if app is None else httpx.ASGITransport(app, raise_app_exceptions=False)
        try:
            # httpx does not follow redirects by default: a 3xx reply becomes a failed attempt
            self._client = httpx.AsyncClient(
                transport=transport,
                trust_env=app is None,
                timeout=httpx.Timeout(None, connect=limits.connect_s, read=limits.idle_s),
                limits=pool_limits,
                # stores no cookies: those of one rollout must not reach another
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                headers={"user-agent": f"ng_rollouts/{__version__}"},
            )
        except ImportError as error:
            raise ConfigError(f"the proxy set in the environment cannot be used: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: bytes | AsyncIterator[bytes], headers: Headers = NO_HEADERS) -> Reply:
        """Send a JSON body and return the reply. For a streamed body, set `content-length` in `headers`."""
        return await self._send("POST", url, content=body, headers={"content-type": "application/json", **headers})

    async def get(self, url: str, headers: Headers = NO_HEADERS) -> Reply:
        """Return the reply to a GET request."""
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
        body = response.content
        # the stream refers back to the response; without this cycle, the body is freed at once and not by the
        # garbage collector
        response.stream = _EMPTY_STREAM
        return Reply(response.status_code, response.headers.get, response.headers.get_list, body)


def _network(pool_limits: httpx.Limits) -> httpx.AsyncBaseTransport | None:
    """The transport of httpx-aiohttp if it is installed, else httpx's own; None if httpx is to choose."""
    try:
        from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        proxies = urllib.request.getproxies().keys() - {"no"}
        # httpx uses the proxies of the environment only if it gets no transport
        return None if proxies else httpx.AsyncHTTPTransport(limits=pool_limits, socket_options=_SOCKET_OPTIONS)

    class Transport(AiohttpTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            # httpx has sent the credentials of a URL as a header already, and aiohttp refuses both
            if request.url.userinfo:
                request.url = request.url.copy_with(userinfo=b"")
            return await super().handle_async_request(request)

    return Transport(client=_aiohttp_session)


def _aiohttp_session() -> Any:
    import aiohttp  # noqa: PLC0415 - an extra

    # the transport's default session is limited to 100 connections and ignores the proxies of the environment
    connector = aiohttp.TCPConnector(
        limit=0, keepalive_timeout=KEEPALIVE_EXPIRY_S, ssl=httpx.create_ssl_context(), ttl_dns_cache=300
    )
    return aiohttp.ClientSession(connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar())


def _failure(error: httpx.HTTPError) -> AttemptFailed:
    message = str(error) or type(error).__name__
    if is_certificate_failure(message):
        return AttemptFailed(FailureClass.CERTIFICATE, message)
    # compared by name, because aiohttp is not imported here
    aiohttp_error = type(error.__cause__).__name__
    if failure_class := _AIOHTTP_FAILURES.get(aiohttp_error):
        return AttemptFailed(failure_class, message)
    if aiohttp_error == "ClientConnectorError":
        return AttemptFailed(_connect_failure(error), message)
    match error:
        case httpx.ConnectTimeout():
            name, message = FailureClass.CONNECT_TIMEOUT, "no connection within the connect timeout"
        case httpx.ConnectError():
            name = _connect_failure(error)
        case httpx.TimeoutException():
            name, message = FailureClass.TIMEOUT, "the server sent no bytes within the idle timeout"
        # the same type means a reply that was cut off, or, with this text, a connection closed before any reply
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
    """The failure class of a connection that was not opened, by the chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return FailureClass.DNS
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return FailureClass.CONNECTION_REFUSED
        cause = cause.__cause__ or cause.__context__
    # for a host with several addresses, anyio raises one error without an errno
    return (
        FailureClass.CONNECTION_REFUSED
        if "All connection attempts failed" in str(error)
        else FailureClass.CONNECT_FAILED
    )
