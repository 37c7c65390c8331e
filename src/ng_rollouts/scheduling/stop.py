"""Asks a running collection to stop: first gracefully, then at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stop:
    """Asks a collection to end: first no new attempts, then no waiting for those in flight.

    Args:
        drain_s: seconds that attempts in flight may take to end once asked.
    """

    def __init__(self, drain_s: float) -> None:
        self.drain_s = drain_s
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    async def unless_asked(self, work: Coroutine[Any, Any, T], *, again: bool = False) -> T | None:
        """What some work comes to that may be left; None if it was.

        Args:
            again: only what asks from now on counts, as does a second time after the first.
        """
        event = self.at_once if again and self.asked.is_set() else self.asked
        working, asked = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, asked):
                task.cancel()
            await asyncio.wait((working, asked))
