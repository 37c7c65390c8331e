"""The seam: what both engines do alike, beyond the faults that `test_agents` stages."""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from ng_rollouts.agents.health_check import wait_for_servers
from ng_rollouts.errors import AttemptFailed, Unreachable
from ng_rollouts.http.client import Reply, TimeLimits, open_http, slow_above
from ng_rollouts.http.httpx_client import HttpxClient
from ng_rollouts.http.load_balancer import LoadBalancer

ENGINES = ["pyreqwest", "httpx", "httpx over httpx-aiohttp"]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each engine by the name it is asked for, with what it stands on."""
    name, _, over = request.param.partition(" over ")
    if over:
        monkeypatch.delitem(sys.modules, "httpx_aiohttp")
    return str(name)


@contextmanager
def serving(answer: Serve, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server in a thread of its own; its port."""
    loop = asyncio.new_event_loop()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.transport.abort()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_end(server))
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)  # transports close in turns of their own


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head of one request, its body read; nothing at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        return b""
    length = next((line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")), b"0")
    await reader.readexactly(int(length))
    return head


def posted(url: str, engine: str, times: int = 1) -> list[Reply | AttemptFailed]:
    """What each of so many requests, one after the other, comes to."""

    async def post() -> list[Reply | AttemptFailed]:
        outcomes: list[Reply | AttemptFailed] = []
        async with open_http(TimeLimits(connect_s=5, total_s=5), engine) as http:
            for _ in range(times):
                try:
                    outcomes.append(await http.post(url, b'{"a": 1}'))
                except AttemptFailed as failure:
                    outcomes.append(failure)
        return outcomes

    return asyncio.run(post())


def test_a_connection_closed_between_requests_costs_at_most_an_attempt(engine: str) -> None:
    """A server that closes each idle connection as the next request arrives: an answer, or a failure to be retried."""

    async def answer_once_then_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader):
            writer.write(OK)
            await writer.drain()
            await reader.read(1)
        writer.close()

    with serving(answer_once_then_hang_up) as port:
        outcomes = posted(f"http://127.0.0.1:{port}/run", engine, times=20)
    failures = [outcome for outcome in outcomes if isinstance(outcome, AttemptFailed)]
    assert {(failure.failure_class, failure.retryable) for failure in failures} <= {("connection_lost", True)}
    assert len(failures) <= 10


def test_a_connection_closed_while_idle_is_not_used(engine: str) -> None:
    """A server that closes after each reply is asked anew each time."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader):
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            await writer.drain()
        writer.close()

    with serving(answer_once) as port:
        outcomes = posted(f"http://127.0.0.1:{port}/run", engine, times=20)
    assert all(isinstance(outcome, Reply) for outcome in outcomes)


@pytest.fixture
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts yet."""
    return trustme.CA()


@pytest.fixture
def tls_port(authority: trustme.CA) -> Iterator[int]:
    """A server that speaks TLS by a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(OK)
            await writer.drain()
        writer.close()

    with serving(answer, context) as port:
        yield port


def test_a_certificate_of_an_authority_named_in_the_environment_is_taken(
    engine: str, authority: trustme.CA, tls_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `SSL_CERT_FILE`, as other programs take it."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    (outcome,) = posted(f"https://127.0.0.1:{tls_port}/run", engine)
    assert isinstance(outcome, Reply), outcome
    assert (outcome.status, outcome.body) == (200, b"{}")


def test_an_unknown_certificate_is_refused(engine: str, tls_port: int) -> None:
    """And called by its name, for it will not be known a second later either."""
    (outcome,) = posted(f"https://127.0.0.1:{tls_port}/run", engine)
    assert isinstance(outcome, AttemptFailed)
    assert (outcome.failure_class, outcome.retryable) == ("certificate", False)


def test_an_unknown_certificate_ends_a_run_before_anything_is_sent(tls_port: int) -> None:
    """Waiting does not make it known."""

    async def wait() -> None:
        await wait_for_servers([LoadBalancer([f"https://127.0.0.1:{tls_port}"])], 60, "auto")

    with pytest.raises(Unreachable, match="SSL_CERT_FILE"):
        asyncio.run(wait())


def test_a_proxy_named_in_the_environment_is_used(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `HTTP_PROXY`, unless `NO_PROXY` names the host."""
    heads: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await read_request(reader):
            heads.append(head)
            writer.write(OK)
            await writer.drain()
        writer.close()

    with serving(note) as proxy, serving(note) as direct:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        (through,) = posted("http://agent.test/run", engine)
        (past,) = posted(f"http://127.0.0.1:{direct}/run", engine)
    assert isinstance(through, Reply), through
    assert isinstance(past, Reply), past
    assert [head.split(b" ")[1] for head in heads] == [b"http://agent.test/run", b"/run"]


def test_a_reply_is_gone_once_nobody_holds_it() -> None:
    """Bodies may be large, and the garbage collection is seldom asked."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def ask() -> None:
        async with HttpxClient(TimeLimits(), app=app) as client:
            assert (await client.post("http://held-by-nobody/run", b"{}")).status == 200

    gc.collect()
    gc.disable()
    try:
        asyncio.run(ask())
        requests = [each for each in gc.get_objects() if isinstance(each, httpx.Request)]
        assert "held-by-nobody" not in {each.url.host for each in requests}
    finally:
        gc.enable()


def test_what_crawls_is_known(engine: str, request: pytest.FixtureRequest) -> None:
    """httpx's own pool does; the others do not."""
    assert slow_above(engine) == (32 if request.node.callspec.params["engine"] == "httpx" else None)
