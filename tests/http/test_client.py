"""The contract of all HTTP engines: failure classes, timeouts, connections, certificates, proxies and credentials."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from ng_rollouts.agents.remote_agent import RemoteAgent
from ng_rollouts.errors import AttemptFailed, ConfigError
from ng_rollouts.http.client import (
    Reply,
    TimeLimits,
    cancelling_engine,
    closes_cancelled_requests,
    open_http,
    slow_above,
)
from ng_rollouts.types import AgentRequest
from tests.conftest import FILES, Ran
from tests.servers import OK_REPLY, Served, read_request, serve_connections

ROW = {"responses_create_params": {"input": "hi"}, "_ng_task_index": 0, "_ng_rollout_index": 0}
Serve = Callable[..., Served]


def run_once(url: str, engine: str, **limits: Any) -> Any:
    """Send one row to the agent server at a URL; its reply."""

    async def run() -> Any:
        async with open_http(TimeLimits(**limits), engine) as http:
            return await RemoteAgent([url], http).run(AgentRequest(0, ROW))

    return asyncio.run(run())


def post(url: str, engine: str, times: int = 1) -> list[Reply | AttemptFailed]:
    """Send requests one after another; the reply or the failure of each."""

    async def send() -> list[Reply | AttemptFailed]:
        outcomes: list[Reply | AttemptFailed] = []
        async with open_http(TimeLimits(connect_s=5, total_s=5), engine) as http:
            for _ in range(times):
                try:
                    outcomes.append(await http.post(url, b'{"a": 1}'))
                except AttemptFailed as failure:
                    outcomes.append(failure)
        return outcomes

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("fault", "failure_class", "retryable"),
    [
        ("500", "http_500", True),
        ("503", "http_503", True),
        ("404", "http_404", False),
        ("422", "http_422", False),
        ("retry_after_7", "http_429", True),
        ("reset", "connection_lost", True),
        ("half", "truncated", True),
        ("malformed", "not_json", True),
        ("empty", "not_json", True),
        ("nan", "not_finite", False),
        ("not_object", "not_object", False),
        ("hang", "timeout", True),
    ],
)
def test_fault_has_a_failure_class(
    serve: Serve, engine: str, fault: str, failure_class: str, *, retryable: bool
) -> None:
    """With every engine, a fault of the server has the same failure class, and the same answer to whether to retry."""
    with pytest.raises(AttemptFailed) as failure:
        run_once(serve(faults={fault: 1.0}).url, engine, total_s=0.5)
    assert (failure.value.failure_class, failure.value.retryable) == (failure_class, retryable)
    assert failure.value.retry_after_s == (7 if fault.startswith("retry") else None)


@pytest.mark.parametrize(
    ("url", "failure_class"),
    [
        ("http://127.0.0.1:9", "connection_refused"),
        ("http://no-such-host.invalid", "dns"),
        ("http://127.0.0.1:abc", "bad_request"),
    ],
    ids=["closed port", "unknown host", "invalid URL"],
)
def test_connection_that_cannot_be_opened_has_a_failure_class(engine: str, url: str, failure_class: str) -> None:
    """A refused connection, an unknown host and an invalid URL have different failure classes."""
    with pytest.raises(AttemptFailed) as failure:
        run_once(url, engine)
    assert failure.value.failure_class == failure_class


def test_idle_timeout_applies_between_two_reads(serve: Serve, engine: str) -> None:
    """A reply without a byte for `idle_s` fails with `timeout`; a slow reply that keeps arriving does not."""
    with pytest.raises(AttemptFailed) as failure:
        run_once(serve(faults={"hang": 1.0}).url, engine, idle_s=0.3)
    assert failure.value.failure_class == "timeout"
    assert run_once(serve(faults={"slow": 1.0}).url, engine, idle_s=0.3)["reward"] == 1.0


def test_connections_are_reused(serve: Serve, engine: str) -> None:
    """Sequential requests share one connection."""
    server = serve()
    assert all(isinstance(outcome, Reply) for outcome in post(f"{server.url}/", engine, times=10))
    assert server.stats()["connections"] == 2  # that of the requests, and that of `stats`


@pytest.mark.parametrize(
    ("user", "authorization"),
    [
        ("me:pass", "Basic bWU6cGFzcw=="),
        ("me", "Basic bWU6"),
        ("m%40e:p%3A:ss", "Basic bUBlOnA6OnNz"),
        ("mé:pass", "Basic bcOpOnBhc3M="),
    ],
)
def test_credentials_in_a_url_are_sent(
    serve: Serve, engine: str, user: str, authorization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and password of a URL are sent as Basic authorization, not those of ~/.netrc for the same host."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve()
    run_once(server.url.replace("http://", f"http://{user}@"), engine)
    assert server.stats()["authorization"] == authorization


def test_connection_closed_between_requests_costs_at_most_one_attempt(engine: str) -> None:
    """If the server closes an idle connection just as a request is sent, the request succeeds or can be retried."""

    async def answer_once_then_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader):
            writer.write(OK_REPLY)
            await writer.drain()
            await reader.read(1)
        writer.close()

    with serve_connections(answer_once_then_close) as port:
        outcomes = post(f"http://127.0.0.1:{port}/run", engine, times=20)
    failures = [outcome for outcome in outcomes if isinstance(outcome, AttemptFailed)]
    assert {(failure.failure_class, failure.retryable) for failure in failures} <= {("connection_lost", True)}
    assert len(failures) <= 10


def test_closed_connection_is_not_reused(engine: str) -> None:
    """A server that closes the connection after each reply gets each request on a new connection."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader):
            writer.write(OK_REPLY.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            await writer.drain()
        writer.close()

    with serve_connections(answer_once) as port:
        outcomes = post(f"http://127.0.0.1:{port}/run", engine, times=20)
    assert all(isinstance(outcome, Reply) for outcome in outcomes)


def test_certificate_authority_is_read_from_ssl_cert_file(
    engine: str, certificate_authority: trustme.CA, tls_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of the authority in `SSL_CERT_FILE` is trusted."""
    certificate_authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    (outcome,) = post(f"https://127.0.0.1:{tls_port}/run", engine)
    assert isinstance(outcome, Reply), outcome
    assert (outcome.status, outcome.body) == (200, b"{}")


def test_untrusted_certificate_is_not_retried(engine: str, tls_port: int) -> None:
    """An untrusted certificate has its own failure class, which is not retryable."""
    (outcome,) = post(f"https://127.0.0.1:{tls_port}/run", engine)
    assert isinstance(outcome, AttemptFailed)
    assert (outcome.failure_class, outcome.retryable) == ("certificate", False)


def test_proxy_is_read_from_the_environment(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go through the proxy in `HTTP_PROXY`, unless `NO_PROXY` names the host."""
    heads: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await read_request(reader):
            heads.append(head)
            writer.write(OK_REPLY)
            await writer.drain()
        writer.close()

    with serve_connections(record) as proxy, serve_connections(record) as direct:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        (through_proxy,) = post("http://agent.test/run", engine)
        (without_proxy,) = post(f"http://127.0.0.1:{direct}/run", engine)
    assert isinstance(through_proxy, Reply), through_proxy
    assert isinstance(without_proxy, Reply), without_proxy
    assert [head.split(b" ")[1] for head in heads] == [b"http://agent.test/run", b"/run"]


def test_only_the_pool_of_httpx_has_a_concurrency_threshold(engine: str, request: pytest.FixtureRequest) -> None:
    """`slow_above` is 32 for httpx with its own transport, and None for the other engines."""
    assert slow_above(engine) == (32 if request.node.callspec.params["engine"] == "httpx" else None)


@pytest.fixture(params=["missing", "empty", "not a certificate", "folder"])
def broken_authorities(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SSL_CERT_FILE` names a file without certificates."""
    path = tmp_path / "authorities.pem"
    if request.param == "folder":
        path.mkdir()
    elif request.param != "missing":
        path.write_text(
            "" if request.param == "empty" else "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"
        )
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


@pytest.mark.usefixtures("broken_authorities")
def test_missing_authorities_are_an_error_of_https_only(engine: str, serve: Serve, tls_port: int) -> None:
    """Without certificate authorities, https is an error that names the variable, and http works."""
    (reply,) = post(serve().url, engine)
    assert isinstance(reply, Reply)
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE=.*authorities.pem in the environment has no"):
        post(f"https://127.0.0.1:{tls_port}/", engine)


@pytest.mark.usefixtures("broken_authorities")
def test_missing_authorities_end_the_command_with_one_line(
    engine: str, tls_port: int, command: Callable[..., Ran], tasks: Callable[..., Path]
) -> None:
    """A run over https without certificate authorities has exit code 2, and sends nothing."""
    tasks(1)
    ran = command(*FILES, f"+agent_url=https://127.0.0.1:{tls_port}", f"+http_engine={engine}")
    assert ran.code == 2
    assert ran.stderr.strip().splitlines()[-1].startswith("error: SSL_CERT_FILE=")


def test_request_of_a_cancelled_task_is_closed_by_the_engines_that_say_so(engine: str) -> None:
    """The server sees the end of the connection, so that it can stop its work. pyreqwest does not close it."""

    async def run() -> bool:
        began, closed = asyncio.Event(), asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            began.set()
            with suppress(ConnectionError):
                await reader.read()
            closed.set()
            writer.close()

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with open_http(TimeLimits(idle_s=2), engine) as http:
            sending = asyncio.create_task(http.post(url, b"{}"))
            await began.wait()
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await closed.wait()
            is_closed = closed.is_set()
        await closed.wait()  # by the idle timeout at the latest
        server.close()
        return is_closed

    assert asyncio.run(run()) == closes_cancelled_requests(engine)


def test_engine_for_attempts_that_may_be_cancelled(engine: str, request: pytest.FixtureRequest) -> None:
    """`auto` is httpx if its own pool is not the bottleneck; a named engine stays."""
    assert cancelling_engine(engine) == engine
    assert cancelling_engine("auto") == ("httpx" if "aiohttp" in request.node.name else "auto")


def test_stalled_name_lookup_ends_at_the_connect_timeout(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that never replies is a `connect_timeout`."""
    if engine == "pyreqwest":
        pytest.skip("it resolves names outside of Python; its connect timeout includes them")
    released = threading.Event()

    def stalled(*_: object, **__: object) -> None:
        released.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "released")

    async def send() -> float:
        began = time.monotonic()
        async with open_http(TimeLimits(connect_s=0.5, total_s=8), engine) as http:
            with pytest.raises(AttemptFailed) as failure:
                await http.post("http://agent.test/run", b"{}")
        assert failure.value.failure_class == "connect_timeout"
        released.set()
        return time.monotonic() - began

    monkeypatch.setattr(socket, "getaddrinfo", stalled)
    assert asyncio.run(send()) < 4


def test_invalid_proxy_is_an_error_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of an unknown kind is an error of httpx; pyreqwest and aiohttp ignore it or fail the attempt."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "nonsense://user:secret@proxy.test:1")
    with pytest.raises(ConfigError, match="the proxy set in the environment cannot be used") as error:
        post("http://127.0.0.1:9/run", "httpx")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("proxy", ["http://[::", "nonsense://proxy.test:1", "http://127.0.0.1:99999"])
def test_request_through_an_invalid_proxy_is_no_unexpected_error(
    engine: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid proxy in the environment is ignored, fails the attempt, or is an error of the configuration."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with suppress(ConfigError):
        assert all(isinstance(outcome, AttemptFailed) for outcome in post("http://127.0.0.1:9/run", engine))
