"""Starts the test servers: in a thread of the test process, or in a process that can be killed.

`python -m tests.servers agent|model '{"option": ...}'` serves in its own process and prints the port first.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .agent_server import AgentServer
from .model_server import ModelServer

KINDS: dict[str, Callable[[dict[str, Any]], AgentServer | ModelServer]] = {"agent": AgentServer, "model": ModelServer}
ROOT = Path(__file__).parents[1]


class Served(Protocol):
    """A running server."""

    port: int

    @property
    def url(self) -> str: ...

    def stats(self) -> Any: ...

    def stop(self) -> None: ...


class _Served:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stats(self) -> Any:
        """What the server has been asked for."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=300) as reply:
            return json.load(reply)


class ThreadServer(_Served):
    """A server in a thread, with its own event loop."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self._handler = KINDS[kind](options)
        self._started: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(options.get("port", 0))), daemon=True)
        self._thread.start()
        self.port = self._started.result(timeout=300)

    def stop(self) -> None:
        """Close the server and its connections; does nothing the second time."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=300)

    async def _serve(self, port: int) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.StreamWriter] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            try:
                await self._handler.connection(reader, writer)
            except asyncio.CancelledError:
                return  # the server is being stopped
            finally:
                connections.discard(writer)

        try:
            server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=4096)
        except OSError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(server.sockets[0].getsockname()[1])
        await self._stopping.wait()
        server.close()
        await _turn()  # as in `_close`
        for writer in list(connections):
            writer.transport.abort()
        await _turn()


class ProcessServer(_Served):
    """A server in its own process."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.servers", kind, json.dumps(options)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


OK_REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def serve_connections(handle: ConnectionHandler, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve every connection with `handle`, in a thread with its own event loop; yields the port."""
    loop = asyncio.new_event_loop()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.transport.abort()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_close(server))
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    await _turn()  # a connection that was just accepted is closed by its task, which has to begin for that
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await _turn()  # transports close in later turns of the event loop


async def _turn() -> None:
    """Let tasks and callbacks that wait for their turn run, with those that follow from them."""
    for _ in range(5):
        await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request with its body; its head, or nothing if the client has closed the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        return b""
    length = next((line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")), b"0")
    await reader.readexactly(int(length))
    return head


async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request of a connection with `{}`."""
    while await read_request(reader):
        writer.write(OK_REPLY)
        await writer.drain()
    writer.close()


async def _serve(kind: str, options: dict[str, Any]) -> None:
    handler = KINDS[kind](options)
    server = await asyncio.start_server(handler.connection, "127.0.0.1", options.get("port", 0), backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], json.loads(sys.argv[2])))
