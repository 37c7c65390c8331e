"""Processes in which what may take long, or crash, is run: each call has its time, and hurts nobody else."""

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
_PR_SET_PDEATHSIG = 1
T = TypeVar("T")


class ProcessPool:
    """Starts its processes when they are first needed.

    Attributes:
        preload: modules that the processes import before the clock of a call runs.
    """

    def __init__(self) -> None:
        self.preload: set[str] = set()
        self._pool: Any = None

    async def run(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """What a function, importable by name, returns.

        Raises:
            AttemptFailed: it took too long, raised, or brought its process down.
        """
        from pebble import ProcessExpired  # noqa: PLC0415 - few runs need it

        future = self._started().schedule(function, args=arguments, timeout=seconds)
        try:
            return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise AttemptFailed(FailureClass.VERIFIER_TIMEOUT, f"the verifier took more than {seconds:g} s") from error
        except ProcessExpired as error:
            raise AttemptFailed(FailureClass.VERIFIER_CRASHED, f"the verifier's process ended: {error}") from error
        except NgRolloutsError:
            raise
        except Exception as error:
            raise AttemptFailed(FailureClass.VERIFIER_ERROR, f"{type(error).__name__}: {error}") from error

    def stop(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def _started(self) -> Any:
        if self._pool is None:
            from pebble import ProcessPool  # noqa: PLC0415 - few runs need it

            count = min(MAX_PROCESSES, os.cpu_count() or 1)
            # a fork would copy the threads' locks in whatever state they are
            self._pool = ProcessPool(
                max_workers=count,
                context=get_context("spawn"),
                initializer=_prepare,
                initargs=[sorted(self.preload)],
            )
        return self._pool


def _prepare(modules: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of a Ctrl-C and sees to the end
    _die_with_parent()
    for module in modules:
        importlib.import_module(module)


def _die_with_parent() -> None:
    """However the parent ends: by the kernel's doing on Linux, else by looking every second."""
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
