"""Worker processes for code that may hang or crash. Each call has a time limit, and a crash fails only its own call."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from typing import Any, TypeVar

from ng_rollouts.errors import AttemptFailed, FailureClass, NgRolloutsError
from ng_rollouts.user_code import SAFE_PATH

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
        with _as_failures(seconds):
            future = self._started().schedule(function, args=arguments, timeout=seconds)
            return await asyncio.wrap_future(future)

    def run_now(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """Call a function in a worker and wait for its result, as `run` does; for checks before the run.

        Raises:
            AttemptFailed: the call took too long, raised an exception, or ended its process.
        """
        with _as_failures(seconds):
            result: T = self._started().schedule(function, args=arguments, timeout=seconds).result()
            return result

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
                context=_SafeSpawnContext(),
                initializer=_prepare,
                initargs=[sorted(self.preload)],
            )
            with _safe_path():
                ensure_running()  # before the first queue starts it, which is an interpreter as well
        return self._pool


@contextmanager
def _as_failures(seconds: float) -> Iterator[None]:
    """Raise the exceptions of a call in a worker as failures of an attempt."""
    from pebble import ProcessExpired  # noqa: PLC0415 - few runs need it

    try:
        yield
    except TimeoutError as error:
        raise AttemptFailed(FailureClass.VERIFIER_TIMEOUT, f"the verifier took more than {seconds:g} s") from error
    except ProcessExpired as error:
        raise AttemptFailed(FailureClass.VERIFIER_CRASHED, f"the verifier's process ended: {error}") from error
    except NgRolloutsError:  # such as a ConfigError: the user's function cannot be imported
        raise
    except Exception as error:
        raise AttemptFailed(FailureClass.VERIFIER_ERROR, f"{type(error).__name__}: {error}") from error


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let an interpreter that the block starts import nothing from the working folder while it starts.

    `python -c`, by which `multiprocessing` starts its processes, would put that folder first on `sys.path`: a
    `socket.py` there would be run in place of the standard library's. Workers then get the `sys.path` of this process.
    """
    with _ENVIRONMENT:
        before = os.environ.get(SAFE_PATH)
        os.environ[SAFE_PATH] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[SAFE_PATH]


_ENVIRONMENT = threading.RLock()
"""Held while the environment is changed. pebble starts workers in a thread."""


class _SafeSpawn(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - the name of the base class
        with _safe_path():
            return SpawnProcess._Popen(process_obj)  # noqa: SLF001


class _SafeSpawnContext(SpawnContext):
    Process = _SafeSpawn


def _prepare(modules: list[str]) -> None:
    # Ctrl-C reaches the whole process group; the parent decides when its workers end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Programs that the user's code starts behave as usual.
    os.environ.pop(SAFE_PATH, None)
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
