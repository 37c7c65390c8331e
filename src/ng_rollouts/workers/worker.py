"""The side of the worker processes: their preparation, and calls in batches."""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ng_rollouts.errors import UsageError
from ng_rollouts.user_code import SAFE_PATH

BATCH_SECONDS = 0.02
"""A worker begins no further call of a batch after this time, so that slow calls are spread over all workers."""

_PR_SET_PDEATHSIG = 1
"""The option of `prctl(2)` that sets the signal for the death of the parent; from <linux/prctl.h>."""

_running: Any = None


def prepare(modules: Sequence[str], running: Any) -> None:
    """Prepare a worker before its first batch.

    Args:
        modules: what to import, so that the import does not count towards the time limit of a call.
        running: an array in shared memory. `run_batch` writes to it which call of a batch it makes.
    """
    global _running  # noqa: PLW0603 - shared memory reaches a worker only when it starts
    _running = running
    # Ctrl-C reaches the whole process group; the parent decides when its workers end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Programs that the user's code starts behave as usual.
    os.environ.pop(SAFE_PATH, None)
    _die_with_parent()
    for module in modules:
        importlib.import_module(module)


def run_batch(place: int, functions: Sequence[Callable[..., Any]], arguments: Sequence[bytes]) -> list[bytes]:
    """Make calls one after another, until `BATCH_SECONDS` have passed.

    Args:
        place: where in the shared array the position of the current call is written.
        functions: what to call.
        arguments: for each function, its pickled tuple of arguments.

    Returns:
        For each call that was made, a pickled pair of its result, and of its UsageError, of the type and text of its
        other exception, or of None.
    """
    until = time.monotonic() + BATCH_SECONDS
    outcomes: list[bytes] = []
    for position, call in enumerate(zip(functions, arguments, strict=True)):
        _running[place] = position
        outcomes.append(_outcome(*call))
        if time.monotonic() >= until:
            break
    return outcomes


def _outcome(function: Callable[..., Any], arguments: bytes) -> bytes:
    try:
        return pickle.dumps((function(*pickle.loads(arguments)), None))  # noqa: S301 - of the parent process
    except UsageError as error:  # such as a ConfigError: the user's function cannot be imported
        return pickle.dumps((None, error))
    except BaseException as error:  # SystemExit, too, fails only its own call
        # text, because an exception of the user's may not survive pickling
        return pickle.dumps((None, f"{type(error).__name__}: {error}"))


def _die_with_parent() -> None:
    """End this process when its parent ends, even if the parent is killed.

    On Linux the kernel sends a signal. Elsewhere a thread checks for the parent every second.
    """
    parent = os.getppid()
    with suppress(OSError, AttributeError):  # no prctl outside Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:  # an orphan is given a new parent
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
