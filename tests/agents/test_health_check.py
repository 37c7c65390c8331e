"""The wait for servers before a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.agents.health_check import wait_for_servers
from ng_rollouts.errors import Unreachable
from ng_rollouts.http.client import TimeLimits
from ng_rollouts.http.load_balancer import LoadBalancer
from tests.conftest import FILES, Ran, assert_complete, ended, start
from tests.servers import Served, serve_connections


def test_untrusted_certificate_ends_the_wait_at_once(tls_port: int) -> None:
    """A server with an untrusted certificate is not waited for, and the message names `SSL_CERT_FILE`."""

    async def wait() -> None:
        await wait_for_servers([LoadBalancer([f"https://127.0.0.1:{tls_port}"])], 60, "auto")

    with pytest.raises(Unreachable, match="SSL_CERT_FILE"):
        asyncio.run(wait())


def test_unreachable_server_ends_the_run_before_any_file_is_changed(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """If a server is not reachable within `wait_for_agent_s`, the exit code is 3 and the output stays as it was."""
    tasks(5)
    (tmp_path / "r.jsonl").write_text("precious\n")
    ran = command(*FILES, "+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=0.2")
    assert ran.code == 3
    assert "http://127.0.0.1:9 cannot be reached (connection_refused" in ran.stderr
    assert (tmp_path / "r.jsonl").read_text() == "precious\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_run_waits_for_a_server_that_starts_late(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The command says that it waits for a server, and collects as soon as the server is reachable."""
    tasks(5)
    reserved = serve()
    port = reserved.port
    reserved.stop()
    process = start(tmp_path, *FILES, f"+agent_url=http://127.0.0.1:{port}", "+wait_for_agent_s=20")
    assert process.stderr
    assert "waiting up to 20 s for the server" in process.stderr.readline()
    serve(port=port)
    assert ended(process).code == 0
    assert_complete(tmp_path, 5)


@pytest.mark.parametrize("engine", ["pyreqwest", "httpx"])
def test_server_with_an_endless_reply_is_reachable(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """A reply to the check that has no end, such as an event stream, does not hold up the run."""
    monkeypatch.setattr("ng_rollouts.agents.health_check._LIMITS", TimeLimits(connect_s=5.0, idle_s=0.3, total_s=0.5))

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while not writer.is_closing():
            writer.write(b":\n")
            await asyncio.sleep(0.05)

    with serve_connections(trickle) as port:
        asyncio.run(wait_for_servers([LoadBalancer([f"http://127.0.0.1:{port}"])], 0, engine))
