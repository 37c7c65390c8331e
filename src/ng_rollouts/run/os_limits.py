"""How many rollouts this machine lets be in flight: each takes a connection, which takes an open file and a port."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_FILES_NOT_CONNECTIONS = 64
"""Open files kept for the output, the loop and libraries."""

_PORTS_NOT_OURS = 1000
"""Local ports left to others, and to connections that are still being closed."""


def max_connections() -> tuple[int, str]:
    """How many connections can be open at once, and what sets that bound. Raises the limit on open files as it may."""
    return min(_bounds())


def _bounds() -> Iterator[tuple[int, str]]:
    yield max(1, _open_files_allowed() - _FILES_NOT_CONNECTIONS), "open files (ulimit -n)"
    with suppress(OSError, ValueError):
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
        yield max(1, high - low - _PORTS_NOT_OURS), "local ports (net.ipv4.ip_local_port_range)"


def _open_files_allowed() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
