"""Output of the command: results on stdout, messages on stderr. A closed pipe does not end a run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

# a context variable, so that a run of the Python API is quiet while other code of the process is not
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_log = logging.getLogger("ng_rollouts")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Send output to the logger `ng_rollouts` within the block, because the Python API runs in another program."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether output goes to the logger instead of the terminal."""
    return _quiet.get()


def print_result(result: str) -> None:
    """Print one or more lines to stdout."""
    if _quiet.get():
        _log.info("%s", result)
        return
    try:
        print(result, flush=True)
    except OSError as error:
        _redirect_to_devnull(1)  # the interpreter flushes stdout when it exits, and would report the error again
        log(f"warning: stdout cannot be written ({error.strerror}): further results are not printed")


def log(message: str) -> None:
    """Print a line to stderr."""
    if _quiet.get():
        _log.warning("%s", message) if message.startswith("warning") else _log.info("%s", message)
        return
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        _redirect_to_devnull(2)


def open_closed_streams() -> None:
    """Open /dev/null for standard streams that are closed.

    POSIX gives a new file the lowest free descriptor. An output file with descriptor 1 would receive all prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _redirect_to_devnull(number)
        # Python sets a stream to None if its descriptor was closed at startup
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _redirect_to_devnull(number: int) -> None:
    with contextlib.suppress(OSError):
        devnull = os.open(os.devnull, os.O_RDWR)
        if devnull != number:  # equal if the descriptor was closed and is the lowest free one
            os.dup2(devnull, number)
            os.close(devnull)
