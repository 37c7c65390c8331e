"""An event loop whose clock jumps to the next timer, so that hours of waiting take milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Does not wait: it moves the clock of its loop."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if (events := super().select(0)) or timeout == 0:
            return events
        if timeout is None:
            raise RuntimeError("everything waits, and no timer is set")
        self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time, in seconds from 0."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """The virtual time."""
        return self.now


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, which `time.monotonic` shows as well."""
    loop = VirtualLoop()
    try:
        with mock.patch("time.monotonic", loop.time):
            return loop.run_until_complete(work)
    finally:
        loop.close()
