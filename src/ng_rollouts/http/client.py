"""The interface of HTTP clients: send a request, return the whole reply or raise `AttemptFailed`.

Other packages do not depend on the engine that sends. Both engines map their own errors to the same failure classes.
"""

from __future__ import annotations

import importlib.util
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self

from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass

KEEPALIVE_EXPIRY_S = 15.0
"""Idle connections are closed before most servers close them. A request on a closing connection would fail."""

TCP_KEEPALIVE_S = 60
TCP_KEEPALIVE_INTERVAL_S = 15
TCP_KEEPALIVE_PROBES = 4
"""A connection that was dropped silently is detected after 60 + 4 * 15 = 120 seconds, before a rollout times out."""

POLL_EVERY_S = 0.5
"""Pause between two checks of whether a server is up: short compared with a model server's start."""

MAX_REPLY_BYTES = 256_000_000
"""Default of the maximum size of a reply. Log probabilities of long responses take a hundred megabytes."""

Headers = Mapping[str, str]
NO_HEADERS: Headers = MappingProxyType({})

_HTTPX_SLOW_ABOVE = 32
"""httpx's own pool scans all connections for every request: 4 ms of CPU per request at 100 in flight."""


class Reply(NamedTuple):
    """A server's reply, read to its end.

    Attributes:
        header: returns the value of a header, or None. Names are case-insensitive (RFC 9110, 5.1).
        headers: returns all values of a header that may occur more than once.
    """

    status: int
    header: Callable[[str], str | None]
    headers: Callable[[str], Sequence[str]]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Timeouts in seconds; None for no timeout.

    Attributes:
        connect_s: until a connection is open.
        idle_s: between two reads of a reply.
        total_s: from sending the request to the end of the reply.
    """

    connect_s: float | None = 10.0
    idle_s: float | None = 1800.0
    total_s: float | None = 3600.0


class Http(Protocol):
    """An HTTP client. A complete reply is returned with any status.

    Raises:
        AttemptFailed: no complete reply was received.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def post(self, url: str, body: bytes, headers: Headers = NO_HEADERS) -> Reply:
        """Send a JSON body and return the reply."""
        ...

    async def get(self, url: str, headers: Headers = NO_HEADERS) -> Reply:
        """Return the reply to a GET request."""
        ...


def open_http(
    limits: TimeLimits, engine: str = "auto", *, max_reply_bytes: int = MAX_REPLY_BYTES, app: Any = None
) -> Http:
    """Create a client.

    Args:
        max_reply_bytes: the maximum size of a reply's body. A larger one fails with `reply_too_large`.
        engine: `pyreqwest`, `httpx` or `auto`. `auto` is pyreqwest if it is installed, else httpx.
        app: an ASGI app to call within the process, instead of the network. It always uses httpx.

    Raises:
        ConfigError: the engine is not installed, or `SSL_CERT_FILE` is a pipe.
    """
    if engine == "pyreqwest" and not _installed("pyreqwest"):
        raise ConfigError("http_engine=pyreqwest needs pyreqwest: pip install pyreqwest, or use http_engine=httpx")
    # An engine would wait for it, without an end and without signals.
    if (path := os.environ.get("SSL_CERT_FILE")) and Path(path).is_fifo():
        raise ConfigError(f"SSL_CERT_FILE={path} in the environment is a pipe: set it to a file")
    if app is None and _uses_pyreqwest(engine):
        from ng_rollouts.http.pyreqwest_client import PyreqwestClient  # noqa: PLC0415 - one engine is loaded

        return PyreqwestClient(limits, max_reply_bytes=max_reply_bytes)
    from ng_rollouts.http.httpx_client import HttpxClient  # noqa: PLC0415

    return HttpxClient(limits, max_reply_bytes=max_reply_bytes, app=app)


def check_status(status: int) -> None:
    """Check that a status can end an exchange: the engines have read informational replies (RFC 9110, 15.2) by then.

    Raises:
        AttemptFailed: the server switched protocols, or the status is not one of HTTP.
    """
    if status < 200:
        raise AttemptFailed(FailureClass.MALFORMED_REPLY, f"the reply has the status {status}, which ends no exchange")


def is_certificate_failure(message: str) -> bool:
    """Whether an engine's error message reports a server certificate that is not trusted."""
    # the engines have no common error type for this, so the text decides
    text = message.lower()
    return "certificate" in text and any(word in text for word in ("verify", "invalid", "unknown", "expired"))


def check_authorities(url: str) -> None:
    """Check, before an https request, that the file in `SSL_CERT_FILE` has certificates. http needs none.

    Raises:
        ConfigError: it has none, so no server would be trusted.
    """
    if url.startswith("http:"):  # the cheapest test first, because this runs for every rollout
        return
    if url[:6].lower() == "https:" and (path := os.environ.get("SSL_CERT_FILE")) and (reason := _unreadable(path)):
        fix = "set it to a file of certificates in PEM format, or unset it"
        raise ConfigError(f"SSL_CERT_FILE={path} in the environment has no certificate authority ({reason}): {fix}")


@lru_cache(1)
def _unreadable(path: str) -> str:
    """The reason that the certificates in a file cannot be read; empty if they can."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        return "it is not a regular file"
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return "no certificate can be read"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def slow_above(engine: str) -> int | None:
    """The number of requests in flight above which an engine's own pool is the bottleneck; None if it never is."""
    return None if _uses_pyreqwest(engine) or _installed("httpx_aiohttp") else _HTTPX_SLOW_ABOVE


def cancelling_engine(engine: str) -> str:
    """The engine for attempts that may be cancelled: of `auto`, httpx, unless its own pool would be the bottleneck.

    pyreqwest 0.15 has no means to end a request: after a cancellation, the server still answers it.
    """
    return "httpx" if engine == "auto" and _installed("httpx_aiohttp") else engine


def closes_cancelled_requests(engine: str) -> bool:
    """True for an engine that closes the connection of a request that is cancelled."""
    return not _uses_pyreqwest(engine)


def _uses_pyreqwest(engine: str) -> bool:
    return engine != "httpx" and _installed("pyreqwest")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
