"""Sends commands to a run."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from ng_rollouts.control.address import has_unix_sockets, socket_paths
from ng_rollouts.errors import InputError, UsageError
from ng_rollouts.jsonl import loads
from ng_rollouts.types import Json

_TIMEOUT_S = 30.0
"""How long a whole reply may take. A busy run answers within a second."""

_MAX_REPLY_BYTES = 16 * 2**20


def send_command(beside: Path, command: str, *, by: str = "socket") -> Json:
    """Send a command to the run whose socket is beside its output, and return its reply.

    Args:
        beside: the path of the socket beside the output.
        by: who sends it, for the summary of the run.

    Raises:
        InputError: no run answers.
        UsageError: the run refuses the command.
    """
    connected = _connected(beside)
    if connected is None:
        raise InputError(f"no run is writing this output on this machine: nothing answers at {beside}")
    with connected:
        try:
            connected.sendall(json.dumps({"command": command, "by": by}).encode() + b"\n")
            reply = _reply(connected)
        except (OSError, ValueError) as error:
            raise InputError(f"the run did not answer: {error or type(error).__name__}") from error
    if not reply.get("ok"):
        raise UsageError(str(reply.get("error")))
    return reply


def _connected(beside: Path) -> socket.socket | None:
    """A connection to the first socket that takes one; None if there is none."""
    for path in socket_paths(beside) if has_unix_sockets else ():
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(_TIMEOUT_S)
        with suppress(OSError):
            if _is_own_socket(path):
                connected.connect(str(path))
                return connected
        connected.close()
    return None


def _is_own_socket(path: Path) -> bool:
    """True for a socket of this user: in a shared folder, another user could wait for commands in place of the run.

    Raises:
        OSError: nothing is there.
    """
    found = path.lstat()
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def _reply(connected: socket.socket) -> Json:
    """The reply of the run.

    Raises:
        ValueError: it is not whole, or no reply.
    """
    received, ends_at = bytearray(), time.monotonic() + _TIMEOUT_S
    while not received.endswith(b"\n") and len(received) < _MAX_REPLY_BYTES:
        connected.settimeout(max(0.001, ends_at - time.monotonic()))
        part = connected.recv(65536)
        if not part:
            raise ValueError("it closed the connection")
        received += part
    reply = loads(bytes(received))
    if not isinstance(reply, dict):
        raise ValueError("its reply is not an object")  # noqa: TRY004 - handled like a syntax error
    return reply
