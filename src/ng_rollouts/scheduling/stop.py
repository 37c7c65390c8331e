"""Asks a run to stop: first no new attempts, then no waiting for those in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """The run was asked to stop before some optional work was done."""


class Stop:
    """A request to stop, which signals and consumers set and everything that waits observes.

    Args:
        drain_s: seconds that attempts in flight may take to end after the request.

    Attributes:
        requested: set to start nothing new.
        at_once: set to cancel what is in flight.
        drain_over: set to cancel what is in flight, and to do all steps after that.
    """

    def __init__(self, drain_s: float) -> None:
        self.drain_s = drain_s
        self.requested = asyncio.Event()
        self.at_once = asyncio.Event()
        self.drain_over = asyncio.Event()

    def end_drain(self) -> None:
        """Ask the run to stop and to cancel what is in flight. Unlike `at_once`, steps after that are not cut short."""
        self.drain_over.set()
        self.requested.set()

    async def unless_requested(self, work: Coroutine[Any, Any, T], *, from_now: bool = False) -> T:
        """Await optional work, and cancel it when a stop is requested.

        Args:
            from_now: ignore a request made earlier; only a new one cancels the work.

        Raises:
            StopRequested: the work was cancelled.
        """
        event = self.at_once if from_now and self.requested.is_set() else self.requested
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise StopRequested
            return working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait((working, stopping))
