"""The pyreqwest engine, the default for rollouts."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    DecodeError,
    DetailedPyreqwestError,
    NetworkError,
    RequestTimeoutError,
)
from pyreqwest.request import ConsumedRequest

from ng_rollouts._version import __version__
from ng_rollouts.errors import AttemptFailed, FailureClass
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

_JSON = {"content-type": "application/json"}


class PyreqwestClient:
    """An HTTP client over pyreqwest. The cost of a request does not depend on the number of requests in flight."""

    def __init__(self, limits: TimeLimits) -> None:
        self._client = _client(limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def post(self, url: str, body: bytes, headers: Headers = NO_HEADERS) -> Reply:
        """Send a JSON body and return the reply."""
        try:  # `headers()` is skipped without headers: this runs for every rollout
            request = self._client.post(url).body_bytes(body)
            return await _send((request.headers(headers) if headers else request).build())
        except (DetailedPyreqwestError, ValueError) as error:
            raise _failure(error, url) from error

    async def get(self, url: str, headers: Headers = NO_HEADERS) -> Reply:
        """Return the reply to a GET request."""
        try:
            return await _send(self._client.get(url).headers(headers).build())
        except (DetailedPyreqwestError, ValueError) as error:
            raise _failure(error, url) from error


async def _send(request: ConsumedRequest) -> Reply:
    response = await request.send()
    return Reply(response.status, response.get_header, response.get_header_all, bytes(await response.bytes()))


def _failure(error: DetailedPyreqwestError | ValueError, url: str) -> AttemptFailed:
    """The failed attempt, classified by the error and its chain of causes."""
    details = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    causes = [cause["message"] for cause in details or ()]
    message = causes[-1] if causes else str(error)  # the innermost cause is the most specific
    # reqwest marks errors that occurred before a connection was open
    while_connecting = any("(Connect)" in cause for cause in causes)
    if is_certificate_failure(message):
        return AttemptFailed(FailureClass.CERTIFICATE, message)
    match error:
        case RequestTimeoutError():
            name = FailureClass.CONNECT_TIMEOUT if while_connecting else FailureClass.TIMEOUT
        case NetworkError():
            name = _connect_failure(causes) if while_connecting else FailureClass.CONNECTION_LOST
        case DecodeError():
            name = FailureClass.TRUNCATED
        case ValueError():  # the URL or a header cannot be parsed
            return AttemptFailed(FailureClass.BAD_REQUEST, f"{without_credentials(url)}: {message}")
        case _:
            name = FailureClass.CONNECTION_LOST
    return AttemptFailed(name, message)


def _client(limits: TimeLimits) -> Client:
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
    return builder.build()


def _connect_failure(causes: list[str]) -> FailureClass:
    text = " ".join(causes).lower()
    if FailureClass.DNS in text:  # hyper reports "dns error"
        return FailureClass.DNS
    return FailureClass.CONNECTION_REFUSED if "refused" in text else FailureClass.CONNECT_FAILED
