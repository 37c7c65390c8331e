"""The pyreqwest engine, the default for rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self, cast

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    DecodeError,
    DetailedPyreqwestError,
    NetworkError,
    RequestTimeoutError,
)
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

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
from ng_rollouts.http.reply_body import ReplyBody
from ng_rollouts.redaction import without_credentials

_JSON = {"content-type": "application/json"}


class PyreqwestClient:
    """An HTTP client over pyreqwest. The cost of a request does not depend on the number of requests in flight."""

    def __init__(self, limits: TimeLimits, *, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self._client = _client(limits)
        self._max_reply_bytes = max_reply_bytes
        # A length with fewer digits than the maximum is below it, without a conversion for every reply.
        self._max_digits = len(str(max_reply_bytes)) - 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def post(self, url: str, body: bytes, headers: Headers = NO_HEADERS) -> Reply:
        """Send a JSON body and return the reply."""
        check_authorities(url)
        try:  # `headers()` is skipped without headers: this runs for every rollout
            request = self._client.post(url).body_bytes(body)
            return await self._send((request.headers(headers) if headers else request).build_streamed())
        except AttemptFailed:
            raise
        except Exception as error:  # one request must not end the run because of an error that a library lets through
            raise _failure(error, url) from error

    async def get(self, url: str, headers: Headers = NO_HEADERS) -> Reply:
        """Return the reply to a GET request."""
        check_authorities(url)
        try:
            return await self._send(self._client.get(url).headers(headers).build_streamed())
        except AttemptFailed:
            raise
        except Exception as error:
            raise _failure(error, url) from error

    async def _send(self, request: StreamRequest) -> Reply:
        # read in chunks, because `Response.bytes` has no maximum; it costs the same for small replies
        async with request as response:
            check_status(response.status)
            # pyreqwest decompresses, and then removes the length
            length = _header(response, "content-length")
            is_small = length is not None and len(length) <= self._max_digits and length.isdecimal()
            # With a transfer coding, the length means nothing (RFC 9112, 6.3).
            if is_small and _header(response, "transfer-encoding") is None:
                # The HTTP library reads no more than the length. Most replies are read here, in one call.
                content = await response.bytes()
                return Reply(response.status, partial(_header, response), partial(_headers, response), bytes(content))
            body = ReplyBody(self._max_reply_bytes, response.status, length)
            reader = response.body_reader
            while (chunk := await reader.read_chunk()) is not None:
                body.add(cast("bytes", chunk))  # a buffer, which is not copied here
            return Reply(response.status, partial(_header, response), partial(_headers, response), body.whole())


def _header(response: Response, name: str) -> str | None:
    try:
        return response.get_header(name)
    except ValueError:  # it is not ASCII, so no header that this program reads
        return None


def _headers(response: Response, name: str) -> Sequence[str]:
    try:
        return response.get_header_all(name)
    except ValueError:
        return ()


def _failure(error: Exception, url: str) -> AttemptFailed:
    """The failed attempt, classified by the error and its chain of causes."""
    details = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    causes = [cause["message"] for cause in details or ()]
    message = causes[-1] if causes else str(error) or type(error).__name__  # the innermost cause is the most specific
    # reqwest marks errors that occurred before a connection was open
    while_connecting = any("(Connect)" in cause for cause in causes)
    if is_certificate_failure(message):
        return AttemptFailed(FailureClass.CERTIFICATE, message)
    if "end of file" in message.lower() or "unexpected eof" in message.lower():
        return AttemptFailed(FailureClass.TRUNCATED, message)
    match error:
        case RequestTimeoutError():
            name = FailureClass.CONNECT_TIMEOUT if while_connecting else FailureClass.TIMEOUT
        case NetworkError():
            name = _connect_failure(causes) if while_connecting else FailureClass.CONNECTION_LOST
        case DecodeError():
            name = FailureClass.MALFORMED_REPLY
        case ValueError():  # the URL or a header cannot be parsed
            return AttemptFailed(FailureClass.BAD_REQUEST, f"{without_credentials(url)}: {message}")
        case _:
            name = FailureClass.CONNECTION_LOST
    return AttemptFailed(name, message)


def _client(limits: TimeLimits) -> Client:
    try:
        return _builder(limits).build()
    except BuilderError:  # probably the system has no certificate authorities; httpx uses those of certifi, too
        import certifi  # noqa: PLC0415 - few systems need it

    authorities = Path(certifi.where()).read_bytes()
    try:
        return _builder(limits).add_root_certificate_pem(authorities).build()
    except BuilderError as error:
        message = error.details["causes"][-1]["message"] if error.details["causes"] else str(error)
        raise ConfigError(f"the HTTP client cannot be created: {message}: use http_engine=httpx") from error


def _builder(limits: TimeLimits) -> ClientBuilder:
    builder = (
        ClientBuilder()
        .user_agent(f"ng_rollouts/{__version__}")
        .default_headers(_JSON)
        .follow_redirects(enable=False)  # a redirected POST may become a GET (RFC 9110, 15.4.2)
        .http1_only()
        .pool_idle_timeout(timedelta(seconds=KEEPALIVE_EXPIRY_S))
        .tcp_nodelay(enabled=True)
        .tcp_keepalive(timedelta(seconds=TCP_KEEPALIVE_S))
        .tcp_keepalive_interval(timedelta(seconds=TCP_KEEPALIVE_INTERVAL_S))
        .tcp_keepalive_retries(TCP_KEEPALIVE_PROBES)
    )
    if limits.connect_s is not None:
        builder = builder.connect_timeout(timedelta(seconds=limits.connect_s))
    if limits.idle_s is not None:
        builder = builder.read_timeout(timedelta(seconds=limits.idle_s))
    if limits.total_s is not None:
        builder = builder.timeout(timedelta(seconds=limits.total_s))
    return builder


def _connect_failure(causes: list[str]) -> FailureClass:
    text = " ".join(causes).lower()
    if FailureClass.DNS in text:  # hyper reports "dns error"
        return FailureClass.DNS
    return FailureClass.CONNECTION_REFUSED if "refused" in text else FailureClass.CONNECT_FAILED
