"""The httpx engine, for ASGI apps within the process and for installations without pyreqwest.

httpx's own pool scans all connections for every request, so it is slow above a few dozen requests in flight. With
httpx-aiohttp installed, aiohttp's pool replaces it, which does not have this limit.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self, cast

import httpx

from ng_rollouts._version import __version__
from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass
from ng_rollouts.http.client import (
    KEEPALIVE_EXPIRY_S,
    MAX_REPLY_BYTES,
    NO_HEADERS,
    TCP_KEEPALIVE_INTERVAL_S,
    TCP_KEEPALIVE_PROBES,
    TCP_KEEPALIVE_S,
    Headers,
    Reply,
    TimeLimits,
    check_authorities,
    check_status,
    is_certificate_failure,
)
from ng_rollouts.http.reply_body import ACCEPT_ENCODING, ReplyBody
from ng_rollouts.redaction import redact, without_credentials

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
    "ClientConnectionResetError": FailureClass.CONNECTION_LOST,
    "ClientConnectorDNSError": FailureClass.DNS,
    "ClientResponseError": FailureClass.MALFORMED_REPLY,
}
"""Failure classes by aiohttp error. httpx-aiohttp maps some of them to other errors, and lets the rest through."""

_MAX_HEADER_BYTES = 1 << 16
"""Size of a header line that aiohttp accepts. Its default of 8 KiB is less than that of the other engines."""

_EMPTY_STREAM = httpx.ByteStream(b"")


class HttpxClient:
    """An HTTP client over httpx.

    Args:
        app: an ASGI app to call within the process, instead of the network.

    Raises:
        ConfigError: the environment sets a proxy of an unsupported kind.
    """

    def __init__(self, limits: TimeLimits, *, max_reply_bytes: int = MAX_REPLY_BYTES, app: Any = None) -> None:
        self._limits = limits
        self._max_reply_bytes = max_reply_bytes
        pool_limits = httpx.Limits(keepalive_expiry=KEEPALIVE_EXPIRY_S)
        tls = _tls_context()
        transport = _network(pool_limits, tls) if app is None else httpx.ASGITransport(app, raise_app_exceptions=False)
        try:
            # httpx does not follow redirects by default: a 3xx reply becomes a failed attempt
            self._client = httpx.AsyncClient(
                transport=transport,
                verify=tls,
                trust_env=app is None,
                # aiohttp's limit for all of a connection, with the name lookup, is called `pool` by httpx-aiohttp
                timeout=httpx.Timeout(None, connect=limits.connect_s, read=limits.idle_s, pool=limits.connect_s),
                limits=pool_limits,
                # stores no cookies: those of one rollout must not reach another
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                headers={"user-agent": f"ng_rollouts/{__version__}", "accept-encoding": ACCEPT_ENCODING},
                event_hooks={"response": [_drop_location]},
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ConfigError(f"the proxy set in the environment cannot be used: {redact(str(error))}") from error

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
        check_authorities(url)
        deadline = asyncio.timeout(self._limits.total_s)
        try:
            async with deadline:
                return await self._exchange(self._client.build_request(method, url, **content))
        except AttemptFailed:
            raise
        except Exception as error:  # one request must not end the run because of an error that a library lets through
            if deadline.expired():
                message = f"no reply within {self._limits.total_s:g} s"
                raise AttemptFailed(FailureClass.TIMEOUT, message) from error
            raise _failure(error, url) from error

    async def _exchange(self, request: httpx.Request) -> Reply:
        response = await self._client.send(request, stream=True)
        try:
            check_status(response.status_code)
            body = await self._read(response)
        finally:
            await response.aclose()
        # the stream refers back to the response; without this cycle, the body is freed at once and not by the
        # garbage collector
        response.stream = _EMPTY_STREAM
        return Reply(response.status_code, response.headers.get, response.headers.get_list, body)

    async def _read(self, response: httpx.Response) -> bytes:
        # as received: httpx decompresses without a maximum
        length, coding = response.headers.get("content-length"), response.headers.get("content-encoding")
        body = ReplyBody(self._max_reply_bytes, response.status_code, length, coding)
        # closed at once, also after a failure, and not by the garbage collector
        async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as chunks:
            async for chunk in chunks:
                body.add(chunk)
                if coding:  # a chunk may decompress to a thousand times its size: other tasks get their turn
                    await asyncio.sleep(0)
        return body.whole()


async def _drop_location(response: httpx.Response) -> None:
    """Remove the target of a redirect. httpx would parse it even though it follows no redirects."""
    response.headers.pop("location", None)


def _network(pool_limits: httpx.Limits, tls: ssl.SSLContext) -> httpx.AsyncBaseTransport | None:
    """The transport of httpx-aiohttp if it is installed, else httpx's own; None if httpx is to choose."""
    try:
        from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        # httpx uses the proxies of the environment only if it gets no transport
        if _has_proxies():
            return None
        return httpx.AsyncHTTPTransport(verify=tls, limits=pool_limits, socket_options=_SOCKET_OPTIONS)

    class Transport(AiohttpTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            # httpx has sent the credentials of a URL as a header already, and aiohttp refuses both
            if request.url.userinfo:
                request.url = request.url.copy_with(userinfo=b"")
            return await super().handle_async_request(request)

    return Transport(verify=tls, client=partial(_aiohttp_session, tls))


def _aiohttp_session(tls: ssl.SSLContext) -> Any:
    import aiohttp  # noqa: PLC0415 - an extra

    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            await super().start(connection)
            self.reason = None  # httpx-aiohttp cannot encode one that is not UTF-8
            return self

    # the transport's default session is limited to 100 connections and ignores the proxies of the environment
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_EXPIRY_S, ssl=tls, ttl_dns_cache=300)
    return aiohttp.ClientSession(
        connector=connector,
        # with it, aiohttp also looks up credentials in ~/.netrc, and refuses a request that has its own
        trust_env=_has_proxies(),
        cookie_jar=aiohttp.DummyCookieJar(),
        response_class=Response,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
    )


def _tls_context() -> ssl.SSLContext:
    """The certificate authorities to trust: those in `SSL_CERT_FILE` or `SSL_CERT_DIR`, else those of certifi."""
    try:
        return httpx.create_ssl_context()
    except OSError:  # `check_authorities` reports it if there is an https request; this context trusts no server
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _has_proxies() -> bool:
    return bool(urllib.request.getproxies().keys() - {"no"})


def _failure(error: Exception, url: str) -> AttemptFailed:
    """The failed attempt, classified by the error and its cause."""
    # aiohttp's own message is without the URL, which may contain credentials
    original = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
    message = " ".join(str(getattr(original, "message", "") or error).split()) or type(error).__name__
    if is_certificate_failure(message):
        return AttemptFailed(FailureClass.CERTIFICATE, message)
    if failure_class := _aiohttp_failure(original, message):
        return AttemptFailed(failure_class, message)
    match error:
        case httpx.ConnectTimeout():
            return AttemptFailed(FailureClass.CONNECT_TIMEOUT, "no connection within the connect timeout")
        case httpx.TimeoutException():
            return AttemptFailed(FailureClass.TIMEOUT, "the server sent no bytes within the idle timeout")
        case httpx.InvalidURL() | ValueError():  # the URL or a header cannot be encoded
            return AttemptFailed(FailureClass.BAD_REQUEST, f"{without_credentials(url)}: {message}")
    return AttemptFailed(_httpx_failure(error, message), message)


def _aiohttp_failure(error: BaseException, message: str) -> FailureClass | None:
    """The failure class of an error of aiohttp; None for others. It is known by its name: aiohttp may be missing."""
    name = type(error).__name__
    if name == "ClientPayloadError":
        return FailureClass.TRUNCATED if "not completed" in message else FailureClass.MALFORMED_REPLY
    return _connect_failure(error) if name == "ClientConnectorError" else _AIOHTTP_FAILURES.get(name)


def _httpx_failure(error: Exception, message: str) -> FailureClass:
    match error:
        case httpx.ConnectError():
            return _connect_failure(error)
        case httpx.RemoteProtocolError():
            return _protocol_failure(message)
        case httpx.NetworkError() | httpx.ProxyError():
            return FailureClass.CONNECTION_LOST
        case httpx.HTTPError():
            return FailureClass.BAD_REQUEST
        case _:
            return FailureClass.CONNECTION_LOST


def _protocol_failure(message: str) -> FailureClass:
    """The failure class of a `RemoteProtocolError`, by its text, which is that of h11 or httpcore."""
    if "without sending a response" in message:
        return FailureClass.CONNECTION_LOST
    return FailureClass.TRUNCATED if "peer closed connection" in message else FailureClass.MALFORMED_REPLY


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
