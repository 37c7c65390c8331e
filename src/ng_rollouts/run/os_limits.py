"""The number of connections that the operating system allows. Each uses an open file and a local port."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_OTHER_FILES = 64
"""Open files reserved for the output, the event loop and libraries."""

_OTHER_PORTS = 1000
"""Local ports reserved for other programs, and for connections that are still closing."""


def max_connections() -> tuple[int, str]:
    """The maximum number of open connections, and the name of the limit that determines it.

    Raises the soft limit on open files to the hard limit.
    """
    return min(_limits())


def _limits() -> Iterator[tuple[int, str]]:
    yield max(1, _max_open_files() - _OTHER_FILES), "open files (ulimit -n)"
    # Linux only. Ports are per pair of addresses, so this is exact for one server, and a lower bound for several.
    with suppress(OSError, ValueError):
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
        yield max(1, high - low - _OTHER_PORTS), "local ports (net.ipv4.ip_local_port_range)"


def _max_open_files() -> int:
    """The limit on open files, after it was raised as far as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS refuses an infinite hard limit as the soft one.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
