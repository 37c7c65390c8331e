"""Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol, TextIO

from ng_rollouts.console import is_quiet, shown
from ng_rollouts.redaction import redact
from ng_rollouts.scheduling.counters import RunCounters

TITLE = "Collecting rollouts"
_BAR_EVERY_S = 0.1
_LINE_EVERY_S = 10.0

_COLUMNS_UNKNOWN = 100
_LINES_UNKNOWN = 24
"""Size of a terminal that reports a size of 0, as pseudo-terminals without a window do."""

_LATE_S = 10.0
_LATE_TIMES = 5.0
"""A rollout is late after ten seconds or five times the mean, whichever is more."""


Notes = Callable[[], Iterable[str]]


class _Display(Protocol):
    every_s: float

    def show(self) -> None: ...

    def close(self) -> None: ...


@asynccontextmanager
async def progress(counters: RunCounters, notes: Notes = tuple, stream: TextIO | None = None) -> AsyncIterator[None]:
    """Show the counters while the block runs, and their final state at its end.

    Args:
        notes: further items to show, as `key=value`.
        stream: where to show them; stderr by default.
    """
    if is_quiet():
        yield
        return
    stream = stream or sys.stderr
    display: _Display = _Bar(counters, notes, stream) if stream.isatty() else _Lines(counters, notes, stream)
    ticking = asyncio.create_task(_tick(display, stream))
    try:
        yield
    finally:
        ticking.cancel()
        display.close()


async def _tick(display: _Display, stream: TextIO) -> None:
    while True:
        # A reader that does not keep up misses progress, not messages.
        if not getattr(stream, "is_stalled", False):
            display.show()
        await asyncio.sleep(display.every_s)


class _Bar:
    every_s = _BAR_EVERY_S

    def __init__(self, counters: RunCounters, notes: Notes, stream: TextIO) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - only a terminal needs it

        size = os.get_terminal_size(stream.fileno())
        self._counters = counters
        self._notes = notes
        self._bar = tqdm(
            total=counters.planned,
            initial=counters.settled,
            desc=TITLE,
            file=stream,
            bar_format="{l_bar}{bar:12}{r_bar}",
            ncols=None if size.columns else _COLUMNS_UNKNOWN,
            nrows=None if size.lines else _LINES_UNKNOWN,
        )

    def show(self) -> None:
        failed = [f"failed={self._counters.failed}"] if self._counters.failed else []
        notes = " ".join([*failed, *self._notes(), *_lateness(self._counters)])
        self._bar.set_postfix_str(shown(redact(notes)), refresh=False)
        self._bar.n = self._counters.settled
        self._bar.refresh()

    def close(self) -> None:
        self.show()
        self._bar.close()


class _Lines:
    every_s = _LINE_EVERY_S

    def __init__(self, counters: RunCounters, notes: Notes, stream: TextIO) -> None:
        self._counters = counters
        self._notes = notes
        self._stream = stream
        self._started = time.monotonic()
        self._settled_before = counters.settled
        self._has_started = False

    def show(self) -> None:
        # Not at the start, when all counters are zero.
        if self._has_started:
            self._print()
        self._has_started = True

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        counters = self._counters
        elapsed = time.monotonic() - self._started
        rate = (counters.settled - self._settled_before) / max(elapsed, 1e-9)
        left = f"{(counters.planned - counters.settled) / rate:.0f}s" if rate else "?"
        # A reader that closed the pipe, as `| head` does, must not end the run.
        with contextlib.suppress(OSError):
            self._write(elapsed, rate, left)

    def _write(self, elapsed: float, rate: float, left: str) -> None:
        counters = self._counters
        notes = "".join(f" {note}" for note in [*self._notes(), *_lateness(counters)])
        self._stream.write(
            f"{TITLE}: collected={counters.collected} failed={counters.failed} planned={counters.planned} "
            f"in_flight={counters.in_flight} waiting={counters.waiting} "
            f"rate={rate:.2f}/s elapsed={elapsed:.0f}s left={left}{shown(redact(notes))}\n"
        )
        self._stream.flush()


def _lateness(counters: RunCounters) -> list[str]:
    """The oldest rollout in flight, if it takes much longer than others did."""
    oldest = counters.oldest()
    if oldest is None:
        return []
    key, seconds = oldest
    mean_s = counters.attempt_seconds / counters.attempts_done if counters.attempts_done else 0.0
    is_late = seconds > max(_LATE_S, _LATE_TIMES * mean_s)
    return [f"oldest=task_{key.task_index}/rollout_{key.rollout_index}:{seconds:.0f}s"] if is_late else []
