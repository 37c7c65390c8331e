"""How many connections the operating system allows: each takes an open file and a local port."""

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
    """How many connections can be open at once, and which limit determines that.

    Raises the soft limit on open files to the hard limit.
    """
    return min(_limits())


def _limits() -> Iterator[tuple[int, str]]:
    yield max(1, _max_open_files() - _OTHER_FILES), "open files (ulimit -n)"
    with suppress(OSError, ValueError):
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
        yield max(1, high - low - _OTHER_PORTS), "local ports (net.ipv4.ip_local_port_range)"


def _max_open_files() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
