"""Takes commands for a run from a Unix socket, in the event loop of the run.

Each line is a JSON object `{"command": TEXT, "by": "socket" or "page"}`. A line with `ok`, `text` and further fields
answers it, or one with `error`. Sizes, times and the number of connections are bounded, and no request fails the run.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ng_rollouts.console import log
from ng_rollouts.control.address import has_unix_sockets, make_private, socket_paths
from ng_rollouts.errors import UsageError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.types import Json

Execute = Callable[[str, str], Json]
"""Executes the text of a command for the one who sent it; raises UsageError if that is not possible."""

_MAX_REQUEST_BYTES = 4096
_MAX_CONNECTIONS = 8
_IDLE_S = 10.0
"""How long a connection may wait for its next line, and a reply to be read."""

_SENDERS = ("socket", "page")


@asynccontextmanager
async def control_socket(beside: Path, execute: Execute) -> AsyncIterator[None]:
    """Take commands while the block runs. A run continues without the socket if there cannot be one.

    Args:
        beside: the path of the socket beside the output. The caller holds the lock of the output, so a socket that is
            there already is one that a crash has left.
    """
    listening = _bound(beside) if has_unix_sockets else None
    if listening is None:
        yield
        return
    listening_at = listening.getsockname()
    made = _inode(listening_at)
    connections = _Connections(execute)
    server = await asyncio.start_unix_server(connections.serve, sock=listening, limit=_MAX_REQUEST_BYTES)
    try:
        yield
    finally:
        server.close()
        connections.close()
        _remove(Path(listening_at), made)


def _inode(path: str | Path) -> int | None:
    with suppress(OSError):
        return Path(path).lstat().st_ino
    return None


def _remove(path: Path, inode: int | None) -> None:
    """Remove the socket, unless another file has its name by now."""
    with suppress(OSError):
        if _inode(path) == inode:
            path.unlink()


def _bound(beside: Path) -> socket.socket | None:
    """A socket that is bound and does not listen yet; None, after a warning, if no path can have one."""
    reason = "no path for it"
    for path in socket_paths(beside):
        try:
            return _bind(path, in_private_folder=path.parent != Path(os.path.realpath(beside.parent)))
        except OSError as error:
            reason = f"{path}: {error.strerror or error}"
    log(f"note: ng_control_rollouts cannot reach this run: no socket ({reason})")
    return None


def _bind(path: Path, *, in_private_folder: bool) -> socket.socket:
    """A socket at a path, for its owner only.

    Raises:
        OSError: it cannot be there.
    """
    if in_private_folder and not make_private(path.parent):
        raise PermissionError(f"{path.parent} is not private")
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError("another file has the name of the socket")
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux, the file gets the mode of the socket. Elsewhere, connections are refused until it listens.
        if sys.platform == "linux":
            os.fchmod(bound.fileno(), 0o600)
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError:
        bound.close()
        raise
    return bound


class _Connections:
    """The open connections, a small number."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101 - asyncio calls this in a task
        try:
            if len(self._open) >= _MAX_CONNECTIONS:
                return
            self._open.add(task)
            # `drain` then waits until all of a reply is sent.
            writer.transport.set_write_buffer_limits(high=0)
            # A peer that goes away, sends too much or nothing at all: its connection ends, and nothing else.
            with suppress(OSError, ValueError, TimeoutError, asyncio.CancelledError):
                await self._answer_lines(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()  # a peer that does not read must not keep the connection open

    async def _answer_lines(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE_S):
                line = await reader.readline()
                if not line:
                    return
                writer.write(dumps(self._reply(line)) + b"\n")
                await writer.drain()

    def _reply(self, line: bytes) -> Json:
        try:
            command, by = _request(line)
            return {"ok": True, **self._execute(command, by)}
        except UsageError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # an error of a command must not end the run
            return {"ok": False, "error": f"unexpected error in ng_rollouts: {type(error).__name__}: {error}"}

    def close(self) -> None:
        for task in self._open:
            task.cancel()


def _request(line: bytes) -> tuple[str, str]:
    """The text of the command in a line, and who sent it.

    Raises:
        UsageError: the line is not a request.
    """
    try:
        value = loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("command"), str):
        raise UsageError('a request is a line such as {"command": "status"}')
    by = value.get("by", _SENDERS[0])
    if by not in _SENDERS:
        raise UsageError(f"by is one of {', '.join(_SENDERS)}")
    return value["command"], by
