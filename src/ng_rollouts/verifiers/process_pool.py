"""Worker processes for code that may hang or crash. Each call has a time limit, and a crash fails only its own call."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, TypeVar

from ng_rollouts.errors import AttemptFailed, FailureClass, NgRolloutsError

MAX_PROCESSES = 4
"""Upper bound of worker processes, so that verifiers leave CPUs to the rest of the machine."""

_PR_SET_PDEATHSIG = 1
"""The option of `prctl(2)` that sets the signal for the death of the parent; from <linux/prctl.h>."""

T = TypeVar("T")


class ProcessPool:
    """Worker processes. They are started by the first call.

    Attributes:
        preload: modules that each worker imports when it starts, so that their import does not count towards the time
            limit of a call.
    """

    def __init__(self) -> None:
        self.preload: set[str] = set()
        self._pool: Any = None

    async def run(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """Call a function in a worker and return its result.

        Args:
            function: a function that workers can import by its name.
            arguments: its arguments, which have to be picklable.
            seconds: the time limit.

        Raises:
            AttemptFailed: the call took too long, raised an exception, or ended its process.
        """
        from pebble import ProcessExpired  # noqa: PLC0415 - few runs need it

        future = self._started().schedule(function, args=arguments, timeout=seconds)
        try:
            return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise AttemptFailed(FailureClass.VERIFIER_TIMEOUT, f"the verifier took more than {seconds:g} s") from error
        except ProcessExpired as error:
            raise AttemptFailed(FailureClass.VERIFIER_CRASHED, f"the verifier's process ended: {error}") from error
        except NgRolloutsError:  # such as a ConfigError: the user's function cannot be imported
            raise
        except Exception as error:
            raise AttemptFailed(FailureClass.VERIFIER_ERROR, f"{type(error).__name__}: {error}") from error

    def stop(self) -> None:
        """Kill the workers, and wait until they have ended."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def _started(self) -> Any:
        if self._pool is None:
            from pebble import ProcessPool  # noqa: PLC0415 - few runs need it

            count = min(MAX_PROCESSES, os.cpu_count() or 1)
            # spawn, not fork: a fork copies the locks of other threads in their current state, held or not
            self._pool = ProcessPool(
                max_workers=count,
                context=get_context("spawn"),
                initializer=_prepare,
                initargs=[sorted(self.preload)],
            )
        return self._pool


def _prepare(modules: list[str]) -> None:
    # Ctrl-C reaches the whole process group; the parent decides when its workers end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    for module in modules:
        importlib.import_module(module)


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
