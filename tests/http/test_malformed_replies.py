"""Replies that break the rules of HTTP: every engine reports them as a failed attempt, or reads what can be read."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Callable

import pytest

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.client import TimeLimits, open_http
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.types import Json
from tests.servers import read_request, serve_connections

_OK = b"HTTP/1.1 200 OK\r\n"
_JSON = b'{"reward":1}'
_TOTAL_S = 1.0
READ = "read"
"""The outcome of a reply that was read."""

LOST = {"connection_lost"}
CUT = {"truncated"}
MALFORMED = {"malformed_reply"}


def whole(head: bytes, body: bytes = _JSON) -> bytes:
    """A reply with a correct length."""
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(chunks: bytes) -> bytes:
    """A reply in chunks."""
    return _OK + b"transfer-encoding: chunked\r\n\r\n" + chunks


def packed(coding: bytes, body: bytes) -> bytes:
    """A reply whose body is said to be compressed."""
    return whole(_OK + b"content-encoding: " + coding + b"\r\n", body)


REPLIES: dict[str, tuple[bytes, set[str]]] = {
    # framing
    "chunk size is not a number": (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "chunk size is negative": (chunked(b"-2\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "chunk size overflows": (chunked(b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "chunk is longer than its size": (chunked(b"2\r\n{}XX0\r\n\r\n"), MALFORMED),
    "chunk is cut off": (chunked(b"ff\r\n{}"), CUT),
    "last chunk is missing": (chunked(b"2\r\n{}\r\n"), CUT),
    "chunk extension is huge": (chunked(b"2;" + b"a" * 200_000 + b"\r\n{}\r\n0\r\n\r\n"), MALFORMED | {READ}),
    "trailer has no colon": (chunked(b"2\r\n{}\r\n0\r\nnocolon\r\n\r\n"), MALFORMED),
    "trailers are many": (chunked(b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 100_000 + b"\r\n"), MALFORMED),
    "two lengths differ": (_OK + b"content-length: 2\r\n" + whole(b""), MALFORMED),
    "two lengths are equal": (_OK + b"content-length: 12\r\n" + whole(b""), MALFORMED | {READ}),
    "length is negative": (_OK + b"content-length: -12\r\n\r\n" + _JSON, MALFORMED),
    "length is a word": (_OK + b"content-length: abc\r\n\r\n" + _JSON, MALFORMED),
    "length is empty": (_OK + b"content-length:\r\n\r\n" + _JSON, MALFORMED),
    "length has 5,000 digits": (_OK + b"content-length: " + b"9" * 5000 + b"\r\n\r\n" + _JSON, MALFORMED),
    "length and chunks": (_OK + b"content-length: 12\r\n" + chunked(b"2\r\n{}\r\n0\r\n\r\n")[17:], MALFORMED | {READ}),
    "transfer coding is unknown": (_OK + b"transfer-encoding: foo\r\n\r\n" + _JSON, MALFORMED | {READ}),
    "body is shorter than its length": (_OK + b"content-length: 700\r\n\r\n" + _JSON, CUT),
    "body is longer than its length": (whole(_OK) + b"{}{}", MALFORMED | {READ}),
    "body of a 204": (whole(b"HTTP/1.1 204 No Content\r\n"), MALFORMED | {"not_json"}),
    # status line
    "HTTP/0.9": (_JSON, MALFORMED | LOST),
    "HTML without a status line": (b"<html>hello</html>\r\n\r\n", MALFORMED),
    "another protocol": (b"SSH-2.0-OpenSSH_9.0\r\n", MALFORMED | LOST),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", MALFORMED),
    "HTTP/2 settings": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", MALFORMED),
    "all bytes": (bytes(range(256)) * 10, MALFORMED),
    "status is a word": (whole(b"HTTP/1.1 abc OK\r\n"), MALFORMED),
    "status is 0": (whole(b"HTTP/1.1 000 OK\r\n"), MALFORMED),
    "status has two digits": (whole(b"HTTP/1.1 99 OK\r\n"), MALFORMED),
    "status has four digits": (whole(b"HTTP/1.1 1000 OK\r\n"), MALFORMED),
    "status 999": (whole(b"HTTP/1.1 999 OK\r\n"), {"http_999"}),
    "version is unknown": (whole(b"HTTP/9.9 200 OK\r\n"), MALFORMED | {READ}),
    "no reason phrase": (whole(b"HTTP/1.1 200\r\n"), {READ}),
    "reason phrase is not UTF-8": (whole(b"HTTP/1.1 200 \xff\xfe\xc3\r\n"), {READ}),
    "reason phrase has a NUL": (whole(b"HTTP/1.1 200 a\x00b\r\n"), MALFORMED | {READ}),
    "status line is cut off": (b"HTTP/1.1 20", LOST | MALFORMED),
    "no reply": (b"", LOST),
    # informational replies
    "1,000 informational replies": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000 + whole(_OK), {READ}),
    "informational replies only": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3, LOST),
    "switched protocols": (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc", MALFORMED),
    # headers
    "header of a megabyte": (whole(_OK + b"x: " + b"a" * (1 << 20) + b"\r\n"), MALFORMED),
    "20,000 headers": (whole(_OK + b"".join(b"x%d: a\r\n" % number for number in range(20_000))), MALFORMED),
    "header of 32 KB": (whole(_OK + b"x: " + b"a" * (1 << 15) + b"\r\n"), {READ}),
    "header without a colon": (whole(_OK + b"nocolon\r\n"), MALFORMED),
    "header without a name": (whole(_OK + b": value\r\n"), MALFORMED),
    "header with a NUL": (whole(_OK + b"x: a\x00b\r\n"), MALFORMED),
    "header name with a NUL": (whole(_OK + b"x\x00y: b\r\n"), MALFORMED),
    "header with a carriage return": (whole(_OK + b"x: a\rb\r\n"), MALFORMED),
    "header is not UTF-8": (whole(_OK + b"x: \xff\xfe\r\n"), {READ}),
    "header name is not ASCII": (whole(_OK + b"\xff\xfe: x\r\n"), MALFORMED),
    "headers are cut off": (_OK + b"x: ", LOST | MALFORMED),
    "cookie is not UTF-8": (whole(_OK + b"set-cookie: \xff=\xfe; max-age=" + b"9" * 30 + b"\r\n"), {READ}),
    "charset is unknown": (whole(_OK + b"content-type: application/json; charset=nope\r\n"), {READ}),
    "Retry-After is not UTF-8": (whole(b"HTTP/1.1 429 Slow\r\nretry-after: \xb2\r\n"), {"http_429"}),
    "Retry-After has 5,000 digits": (
        whole(b"HTTP/1.1 429 Slow\r\nretry-after: " + b"9" * 5000 + b"\r\n"),
        {"http_429"},
    ),
    # redirects are not followed
    "redirect to itself": (whole(b"HTTP/1.1 307 Loop\r\nlocation: /run\r\n"), {"http_307"}),
    "redirect to an invalid URL": (whole(b"HTTP/1.1 302 Bad\r\nlocation: http://[::\r\n"), {"http_302"}),
    "redirect that is not UTF-8": (whole(b"HTTP/1.1 302 Bad\r\nlocation: http://\xff/\r\n"), {"http_302"}),
    "redirect without a target": (whole(b"HTTP/1.1 302 Bad\r\n"), {"http_302"}),
    # content codings
    "gzip": (packed(b"gzip", gzip.compress(_JSON)), {READ}),
    "deflate": (packed(b"deflate", zlib.compress(_JSON)), {READ}),
    "not gzip": (packed(b"gzip", _JSON), MALFORMED),
    "not deflate": (packed(b"deflate", _JSON), MALFORMED),
    "gzip is cut off": (packed(b"gzip", gzip.compress(_JSON)[:-9]), CUT),
    "gzip with a wrong checksum": (packed(b"gzip", gzip.compress(_JSON)[:-8] + b"12345678"), MALFORMED),
    "bytes after the end of gzip": (packed(b"gzip", gzip.compress(_JSON) + b"more"), {READ}),
    "gzip of nothing": (packed(b"gzip", b""), {"not_json"}),
    "not brotli": (packed(b"br", _JSON), MALFORMED | {READ}),
    "not zstd": (packed(b"zstd", _JSON), MALFORMED | {READ}),
    "coding is unknown": (packed(b"foo", _JSON), {READ}),
}


def outcome_of(reply: bytes, engine: str) -> Json | AttemptFailed:
    """Send a request to a server that sends these bytes and closes the connection; the object or the failure."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader):
            writer.write(reply)
            await _drained(writer)

    with serve_connections(answer) as port:
        return asyncio.run(_post(f"http://127.0.0.1:{port}/run", engine))


async def _post(url: str, engine: str) -> Json | AttemptFailed:
    async with open_http(TimeLimits(connect_s=_TOTAL_S, total_s=_TOTAL_S), engine) as http:
        try:
            return json_object(await http.post(url, b"{}"))
        except AttemptFailed as failure:
            return failure


async def _drained(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
        writer.write_eof()
        await asyncio.sleep(0.2)  # an abort before the client has read everything would reset the connection
    except ConnectionError:
        return


@pytest.mark.parametrize(("reply", "outcomes"), REPLIES.values(), ids=REPLIES)
def test_malformed_reply_is_a_failed_attempt(engine: str, reply: bytes, outcomes: set[str]) -> None:
    """A reply that breaks the rules of HTTP is read, or has a failure class. A broken exchange can be retried."""
    outcome = outcome_of(reply, engine)
    if isinstance(outcome, dict):
        assert READ in outcomes
    else:
        assert outcome.failure_class in outcomes
        is_exchange = outcome.failure_class in tuple(FailureClass)
        assert outcome.retryable == (is_exchange or outcome.failure_class in ("http_429", "http_999"))
        assert "\n" not in outcome.message


async def _endless_informational() -> AsyncIterator[bytes]:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n" * 100


async def _endless_headers() -> AsyncIterator[bytes]:
    yield _OK
    while True:
        yield b"x: y\r\n" * 1000


async def _status_line_byte_by_byte() -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 "
    while True:
        yield b"O"
        await asyncio.sleep(0.05)


async def _body_byte_by_byte() -> AsyncIterator[bytes]:
    yield _OK + b"content-length: 1000000\r\n\r\n"
    while True:
        yield b" "
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "stream",
    [_endless_informational, _endless_headers, _status_line_byte_by_byte, _body_byte_by_byte],
    ids=["informational replies", "headers", "status line", "body"],
)
def test_endless_reply_ends_at_the_time_limit(engine: str, stream: Callable[[], AsyncIterator[bytes]]) -> None:
    """A reply whose head or body never ends fails as malformed or as a timeout, within the time limit."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        async for part in stream():
            writer.write(part)
            try:
                await writer.drain()
            except ConnectionError:
                return

    with serve_connections(answer) as port:
        began = time.monotonic()
        outcome = asyncio.run(_post(f"http://127.0.0.1:{port}/run", engine))
    assert isinstance(outcome, AttemptFailed)
    assert outcome.failure_class in ("timeout", "malformed_reply")
    assert time.monotonic() - began < _TOTAL_S + 2
