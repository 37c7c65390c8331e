"""What is said: results on stdout, the rest on stderr. A reader that went away does not end a run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Log = Callable[[str], None]
"""Takes a line for stderr."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_log = logging.getLogger("ng_rollouts")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within a program of somebody else's: what would be said and told goes to the log instead."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether nothing is to be shown."""
    return _quiet.get()


def print_result(result: str) -> None:
    """A line, or lines, for stdout."""
    if _quiet.get():
        _log.info("%s", result)
        return
    try:
        print(result, flush=True)
    except OSError as error:
        _point_nowhere(1)
        log(f"warning: stdout cannot be written ({error.strerror}): the rest of it is left out")


def log(message: str) -> None:
    """A line for stderr."""
    if _quiet.get():
        _log.warning("%s", message) if message.startswith("warning") else _log.info("%s", message)
        return
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        _point_nowhere(2)


def open_closed_streams() -> None:
    """Point standard streams that were closed by the caller at nothing, so that no file takes their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _point_nowhere(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _point_nowhere(number: int) -> None:
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
