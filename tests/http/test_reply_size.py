"""The maximum size of a reply: decompressed or not, announced or endless, and whatever its status."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ng_rollouts.agents.head_server import fetch_server_config
from ng_rollouts.agents.health_check import wait_for_servers
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.errors import AttemptFailed, Unreachable
from ng_rollouts.http.client import Reply, TimeLimits, open_http
from ng_rollouts.http.load_balancer import LoadBalancer
from tests.conftest import FILES, Ran
from tests.servers import ConnectionHandler, read_request, serve_connections

_MAX = 1_000_000
_GIGABYTE = 1_000_000_000


def _bomb(coding: str, size: int = _GIGABYTE) -> bytes:
    """Blanks, compressed."""
    blanks = b" " * 10_000_000
    packer: Any
    if coding == "zstd":
        packer = zstandard.ZstdCompressor().compressobj()
    else:
        packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    return b"".join([*(packer.compress(blanks) for _ in range(size // len(blanks))), packer.flush()])


def _served(head: bytes, body: Iterator[bytes] | bytes) -> ConnectionHandler:
    """A handler of connections that sends a head and a body, which may be endless."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            try:
                writer.write(head + b"\r\n")
                for chunk in [body] if isinstance(body, bytes) else body:
                    writer.write(chunk)
                    await writer.drain()
            except ConnectionError:
                return

    return answer


async def _post(url: str, engine: str, max_reply_bytes: int = _MAX) -> Reply | AttemptFailed:
    async with open_http(TimeLimits(total_s=20), engine, max_reply_bytes=max_reply_bytes) as http:
        try:
            return await http.post(url, b"{}")
        except AttemptFailed as failure:
            return failure


def _outcome(head: bytes, body: Iterator[bytes] | bytes, engine: str) -> Reply | AttemptFailed:
    with serve_connections(_served(head, body)) as port:
        return asyncio.run(_post(f"http://127.0.0.1:{port}/", engine))


def _endless() -> Iterator[bytes]:
    while True:
        yield b" " * 10_000


def _endless_chunks() -> Iterator[bytes]:
    while True:
        yield b"2710\r\n" + b" " * 10_000 + b"\r\n"


@pytest.mark.parametrize("status", [b"200", b"404", b"500"])
@pytest.mark.parametrize("framing", ["length", "chunks", "until the connection closes", "length, then chunks"])
def test_plain_reply_is_cut_at_the_maximum(engine: str, status: bytes, framing: str) -> None:
    """An endless reply of any status, and one whose length is too large, fail with `reply_too_large`."""
    head = b"HTTP/1.1 " + status + b" Status\r\n"
    if framing == "length":
        head += b"content-length: 30000000000\r\n"
    elif framing == "length, then chunks":
        head += b"content-length: 7\r\ntransfer-encoding: chunked\r\n"
    elif framing == "chunks":
        head += b"transfer-encoding: chunked\r\n"
    outcome = _outcome(head, _endless_chunks() if "chunks" in framing else _endless(), engine)
    assert isinstance(outcome, AttemptFailed)
    # aiohttp refuses a reply with both a length and chunks
    assert outcome.failure_class in ("reply_too_large", *(["malformed_reply"] if "then" in framing else []))
    if outcome.failure_class == "reply_too_large":
        assert (outcome.retryable, outcome.status, outcome.message) == (
            False, int(status), "the reply is larger than 1 MB",
        )  # fmt: skip


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("status", [b"200", b"500"])
def test_decompressed_reply_is_cut_at_the_maximum(engine: str, coding: str, status: bytes) -> None:
    """A megabyte that decompresses to a gigabyte fails with `reply_too_large`, soon and in little memory."""
    body = _bomb(coding)
    head = b"HTTP/1.1 %s S\r\ncontent-encoding: %s\r\ncontent-length: %d\r\n" % (status, coding.encode(), len(body))
    began = time.monotonic()
    tracemalloc.start()
    try:
        outcome = _outcome(head, body, engine)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, AttemptFailed)
    assert outcome.failure_class == "reply_too_large"
    assert peak < 40 * _MAX
    assert time.monotonic() - began < 5


def test_zstd_bomb_is_cut_at_the_maximum(engine: str) -> None:
    """pyreqwest decompresses zstd up to the maximum; httpx does not ask for it, and leaves it as it is."""
    body = _bomb("zstd")
    outcome = _outcome(b"HTTP/1.1 200 S\r\ncontent-encoding: zstd\r\ncontent-length: %d\r\n" % len(body), body, engine)
    if engine == "pyreqwest":
        assert isinstance(outcome, AttemptFailed)
        assert outcome.failure_class == "reply_too_large"
    else:
        assert isinstance(outcome, Reply)
        assert outcome.body == body


def test_gzip_stream_without_content_ends(engine: str) -> None:
    """An endless stream of empty blocks ends, at the maximum size or at the time limit."""

    def blocks() -> Iterator[bytes]:
        yield gzip.compress(b"", mtime=0)[:10]
        while True:
            yield b"\x00\x00\x00\xff\xff" * 10_000

    async def post(port: int) -> Reply | AttemptFailed:
        async with open_http(TimeLimits(total_s=2), engine, max_reply_bytes=_MAX) as http:
            try:
                return await http.post(f"http://127.0.0.1:{port}/", b"{}")
            except AttemptFailed as failure:
                return failure

    with serve_connections(_served(b"HTTP/1.1 200 S\r\ncontent-encoding: gzip\r\n", blocks())) as port:
        outcome = asyncio.run(post(port))
    assert isinstance(outcome, AttemptFailed)
    assert outcome.failure_class in ("reply_too_large", "timeout")


@pytest.mark.parametrize("size", [_MAX - 1, _MAX])
@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate"])
def test_reply_up_to_the_maximum_is_read(engine: str, size: int, coding: str) -> None:
    """A reply of exactly the maximum size is read, to its last byte."""
    content = (b"0123456789" * (_MAX // 10))[:size]
    body = {"identity": content, "gzip": gzip.compress(content), "deflate": zlib.compress(content)}[coding]
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: %s\r\ncontent-length: %d\r\n" % (coding.encode(), len(body))
    outcome = _outcome(head, body, engine)
    assert isinstance(outcome, Reply), outcome
    assert outcome.body == content


def test_large_reply_of_a_health_check_counts_as_reachable(engine: str) -> None:
    """A server whose reply to the health check never ends is reachable, and the check ends soon."""
    with serve_connections(_served(b"HTTP/1.1 200 OK\r\n", _endless())) as port:
        began = time.monotonic()
        asyncio.run(wait_for_servers([LoadBalancer([f"http://127.0.0.1:{port}/run"])], 0, engine))
    assert time.monotonic() - began < 5


def test_large_reply_of_a_head_server_is_reported(engine: str) -> None:
    """A head server whose reply never ends is one line of error."""
    with (
        serve_connections(_served(b"HTTP/1.1 200 OK\r\n", _endless())) as port,
        pytest.raises(Unreachable, match="larger than 16 MB"),
    ):
        asyncio.run(fetch_server_config(HeadServer(port=port), "'x'", 0, engine))


def test_max_reply_mb_is_the_maximum_of_a_run(
    command: Callable[..., Ran], tasks: Callable[..., Path], engine: str
) -> None:
    """`max_reply_mb` bounds the replies of a run; the failure names it in the message that ends the run."""
    tasks(1)
    body = b'{"reward": 1, "response": {"x": "' + b"a" * 20_000 + b'"}}'
    with serve_connections(_served(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % len(body), body)) as port:
        arguments = [*FILES, f"+agent_url=http://127.0.0.1:{port}", f"+http_engine={engine}", "+overwrite=true"]
        refused: Ran = command(*arguments, "+max_reply_mb=0.02")
        accepted: Ran = command(*arguments, "+max_reply_mb=0.03")
    assert (refused.code, accepted.code) == (1, 0), (refused, accepted)
    assert "reply_too_large: the reply is larger than 0.02 MB" in refused.stderr
