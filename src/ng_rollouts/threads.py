"""Blocking work in daemon threads: the process may exit while a thread is still running."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run a function in a daemon thread, with a copy of the current context.

    `asyncio.to_thread` would not do: its threads keep the interpreter from exiting until they return.

    Returns:
        A future with the result. Cancelling it does not stop the thread; its result is then dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            setter(outcome)

    def call() -> None:
        try:
            setter: Callable[[Any], None] = future.set_result
            outcome: Any = work()
        except Exception as error:
            setter, outcome = future.set_exception, error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, setter, outcome)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(call,), daemon=True, name="ng_rollouts").start()
    return future
