"""Work that blocks, in a thread that nobody has to wait for: the process may end while it still goes on."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """What some work will come to; whoever no longer waits for it leaves it to itself."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(settling: Callable[[Any], None], result: Any) -> None:
        if not outcome.done():
            settling(result)

    def work_out() -> None:
        try:
            settling: Callable[[Any], None] = outcome.set_result
            result: Any = work()
        except Exception as error:
            settling, result = outcome.set_exception, error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, settling, result)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work_out,), daemon=True, name="ng_rollouts").start()
    return outcome
