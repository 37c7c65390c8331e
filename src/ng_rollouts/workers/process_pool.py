"""Worker processes for code that may hang or crash. Each call has a time limit, and a crash fails only its own call.

Calls that wait are sent in batches: handing one call to another process takes longer than most calls.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from typing import Any, TypeVar

from ng_rollouts.errors import AttemptFailed, FailureClass, NgRolloutsError
from ng_rollouts.user_code import SAFE_PATH
from ng_rollouts.workers.worker import BATCH_SECONDS, prepare, run_batch

MAX_PROCESSES = 4
"""Upper bound of worker processes, so that verifiers leave CPUs to the rest of the machine."""

MAX_BATCH = 64
"""Upper bound of the calls of a batch."""

_MAX_BATCH_BYTES = 1_000_000
"""A batch takes no further call above this size, because batches are copied."""

_BATCHES_PER_WORKER = 2
"""One that it works on, and one that waits, so that it does not wait for the event loop."""

_PLACES = 1 << 16
"""More than there are batches while a worker is killed, which still writes to the place of its batch."""

T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    seconds: float
    future: asyncio.Future[Any]
    batch: _Batch | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Batch:
    place: int
    calls: list[_Call]
    future: Any = None
    """pebble's."""


class ProcessPool:
    """Worker processes. They are started by the first call.

    Attributes:
        preload: modules that each worker imports when it starts, so that their import does not count towards the time
            limit of a call.
    """

    def __init__(self) -> None:
        self.preload: set[str] = set()
        self._pool: Any = None
        self._processes = min(MAX_PROCESSES, os.cpu_count() or 1)
        self._waiting: deque[_Call] = deque()
        self._sent: dict[int, _Batch] = {}
        self._places = itertools.cycle(range(_PLACES))
        self._running: Any = None
        self._batch_size = 1

    async def run(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """Call a function in a worker and return its result.

        A call is made again if another call of its batch hangs or ends the process.

        Args:
            function: a function that workers can import by its name.
            arguments: its arguments, which have to be picklable.
            seconds: the time limit.

        Raises:
            AttemptFailed: the call took too long, raised an exception, or ended its process.
        """
        loop = asyncio.get_running_loop()
        call = _Call(function=function, arguments=arguments, seconds=seconds, future=loop.create_future())
        self._waiting.append(call)
        loop.call_soon(self._send)  # with all calls of this turn
        with _as_failures(seconds):
            try:
                result: T = await call.future
            except asyncio.CancelledError:
                self._abandon(call)
                raise
            return result

    def run_now(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """Call a function in a worker and wait for its result, as `run` does; for checks before the run.

        Raises:
            AttemptFailed: the call took too long, raised an exception, or ended its process.
        """
        with _as_failures(seconds):
            result: T = self._started().schedule(function, args=arguments, timeout=seconds).result()
            return result

    def stop(self) -> None:
        """Kill the workers, wait until they have ended, and cancel the calls that have no result."""
        # First, or the end of the workers would be a failure of their calls.
        for call in [*self._waiting, *(call for batch in [*self._sent.values()] for call in batch.calls)]:
            call.future.cancel()
        self._waiting.clear()
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None
        self._sent.clear()

    def _send(self) -> None:
        """Send waiting calls, if workers can take more."""
        most = _BATCHES_PER_WORKER * self._processes
        while self._waiting and len(self._sent) < most:
            # calls that arrive together are spread over all workers
            share = -(-len(self._waiting) // (most - len(self._sent)))
            calls, arguments = self._next_batch(min(self._batch_size, share))
            if calls:
                self._send_batch(calls, arguments)

    def _next_batch(self, size: int) -> tuple[list[_Call], list[bytes]]:
        """Take up to `size` calls with one time limit from those that wait; the calls, and their pickled arguments."""
        calls: list[_Call] = []
        arguments: list[bytes] = []
        while self._waiting and len(calls) < size and sum(map(len, arguments)) < _MAX_BATCH_BYTES:
            if calls and self._waiting[0].seconds != calls[0].seconds:
                break
            call = self._waiting.popleft()
            if call.future.done():  # cancelled
                continue
            try:
                arguments.append(pickle.dumps(call.arguments))
            except Exception as error:  # such as a RecursionError, which would end a thread of pebble
                call.future.set_exception(error)
            else:
                calls.append(call)
        return calls, arguments

    def _send_batch(self, calls: list[_Call], arguments: list[bytes]) -> None:
        batch = _Batch(place=next(self._places), calls=calls)
        try:
            pool = self._started()
            self._running[batch.place] = 0
            functions = [call.function for call in calls]
            # only the last call that a worker makes of a batch can take long
            seconds = calls[0].seconds + BATCH_SECONDS
            batch.future = pool.schedule(run_batch, args=(batch.place, functions, arguments), timeout=seconds)
        except Exception as error:  # no workers can be started
            for call in calls:
                call.future.set_exception(error)
            return
        for call in calls:
            call.batch = batch
        self._sent[batch.place] = batch
        batch.future.add_done_callback(partial(self._hand_over, batch, calls[0].future.get_loop()))

    def _hand_over(self, batch: _Batch, loop: asyncio.AbstractEventLoop, _: Any) -> None:
        """Let the event loop receive a batch; runs in a thread of pebble."""
        self._sent.pop(batch.place, None)
        with suppress(RuntimeError):  # the loop is closed, and with it the calls are cancelled
            loop.call_soon_threadsafe(self._receive, batch)

    def _receive(self, batch: _Batch) -> None:
        """Pass on the results of a batch, and send its other calls again."""
        calls, future = batch.calls, batch.future
        if future.cancelled():
            remaining = calls
        elif error := future.exception():
            # the call that hung or crashed is the one that the worker was making
            failed = calls[self._running[batch.place]]
            if not failed.future.done():
                failed.future.set_exception(error)
            remaining = calls
        else:
            outcomes = future.result()
            self._adapt_size(len(calls), len(outcomes))
            for call, outcome in zip(calls, outcomes, strict=False):
                _settle(call, outcome)
            remaining = calls[len(outcomes) :]
        self._waiting.extendleft(call for call in reversed(remaining) if not call.future.done())
        self._send()

    def _adapt_size(self, sent: int, made: int) -> None:
        """Adapt the size of batches to what a worker can do within `BATCH_SECONDS`."""
        if made < sent:
            self._batch_size = made
        elif sent == self._batch_size:
            self._batch_size = min(MAX_BATCH, 2 * sent)

    def _abandon(self, call: _Call) -> None:
        """Kill the worker that makes a cancelled call, which may hang. A call that waits is skipped when it is due."""
        batch = call.batch
        if batch and batch.place in self._sent and batch.calls[self._running[batch.place]] is call:
            batch.future.cancel()

    def _started(self) -> Any:
        if self._pool is None:
            from pebble import ProcessPool  # noqa: PLC0415 - few runs need it

            # spawn, not fork: a fork copies the locks of other threads in their current state, held or not
            context = _SafeSpawnContext()
            self._running = context.RawArray("H", _PLACES)
            self._pool = ProcessPool(
                max_workers=self._processes,
                context=context,
                initializer=prepare,
                initargs=[sorted(self.preload), self._running],
            )
            with _safe_path():
                ensure_running()  # before the first queue starts it, which is an interpreter as well
        return self._pool


def _settle(call: _Call, outcome: bytes) -> None:
    """Set the result or the failure of a call."""
    if call.future.done():  # cancelled
        return
    try:
        result, error = pickle.loads(outcome)  # noqa: S301 - of the own worker
    except Exception as unpickled:  # an object of a class that only the worker can import
        result, error = None, f"{type(unpickled).__name__}: {unpickled}"
    if isinstance(error, str):
        error = AttemptFailed(FailureClass.VERIFIER_ERROR, error)
    if error is None:
        call.future.set_result(result)
    else:
        call.future.set_exception(error)


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
