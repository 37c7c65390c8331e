"""Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TextIO

from ng_rollouts.console import above, colored, is_quiet, is_terminal, shown, width_of
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

_BRACKETS = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_FORMATS = (
    "{desc}: {percentage:3.0f}%|{bar:12}| " + _BRACKETS,
    "{percentage:3.0f}%|{bar:12}| " + _BRACKETS,
    "{percentage:3.0f}%|{bar:6}| " + _BRACKETS,
    _BRACKETS,
)
"""Formats of tqdm, for wide to narrow terminals."""

_NARROW_FORMATS = (
    "{n_fmt}/{total_fmt} {rate_fmt} {remaining} left",
    "{n_fmt}/{total_fmt} {rate_fmt}",
    "{n_fmt}/{total_fmt}",
)
"""For terminals that are too narrow for the number of failed rollouts and the reward in brackets."""


Notes = Callable[[], Iterable[str]]
"""Makes the items of a progress line, as `key=value`, the most important first."""

IsPaused = Callable[[], bool]
"""Returns True while the run is paused. The time left is then unknown."""


class _Display(Protocol):
    every_s: float

    def show(self) -> None: ...

    def close(self) -> None: ...


@asynccontextmanager
async def progress(
    counters: RunCounters, notes: Notes, is_paused: IsPaused, stream: TextIO | None = None
) -> AsyncIterator[None]:
    """Show the counters while the block runs, and their final state at its end.

    Args:
        notes: further items to show, the most important first.
        stream: where to show them; stderr by default.
    """
    if is_quiet():
        yield
        return
    stream = stream or sys.stderr
    if is_terminal(stream):
        bar = _Bar(counters, notes, is_paused, stream)
        with above(bar):
            async with _shown(bar, stream):
                yield
    else:
        async with _shown(_Lines(counters, notes, is_paused, stream), stream):
            yield


@asynccontextmanager
async def _shown(display: _Display, stream: TextIO) -> AsyncIterator[None]:
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

    def __init__(self, counters: RunCounters, notes: Notes, is_paused: IsPaused, stream: TextIO) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - only a terminal needs it

        self._counters = counters
        self._notes = notes
        self._is_paused = is_paused
        self._stream = stream
        self._bar = tqdm(
            total=counters.planned,
            initial=counters.settled,
            desc=TITLE,
            file=stream,
            ncols=self._columns(),
            nrows=None if os.get_terminal_size(stream.fileno()).lines else _LINES_UNKNOWN,
            bar_format=_FORMATS[0],
            delay=1e-9,  # the first line is drawn by `show`
        )
        self._bar.sp = self._draw

    def show(self) -> None:
        self._bar.n = self._counters.settled
        # The terminal may have been resized. Its last column stays empty: some terminals wrap a line that fills it.
        columns = self._bar.ncols = self._columns() - 1
        failed = f"failed={self._counters.failed}" if self._counters.failed else ""
        notes = [shown(redact(note)) for note in [*self._notes(), *_lateness(self._counters)]]
        line = fitting_line(self._render, failed, notes, columns)
        if failed:
            line = line.replace(failed, colored(failed, "red", self._stream), 1)
        # Escaped, because tqdm formats it again.
        self._bar.bar_format = line.replace("{", "{{").replace("}", "}}")
        self._bar.refresh()

    def _render(self, form: str, notes: list[str]) -> str:
        form = form.replace("{remaining}", "?") if self._is_paused() else form
        meter = {**self._bar.format_dict, "bar_format": form, "postfix": " ".join(notes), "ncols": None}
        return str(self._bar.format_meter(**meter))

    def _draw(self, line: str) -> None:
        # tqdm would erase the rest of a longer line by spaces, which a terminal that was made narrower wraps.
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        # To the end of the line: the terminal may have shown `^C` after the bar.
        self._draw("")

    def close(self) -> None:
        self.show()
        self._bar.close()

    def _columns(self) -> int:
        return width_of(self._stream) or _COLUMNS_UNKNOWN


def fitting_line(render: Callable[[str, list[str]], str], failed: str, notes: Sequence[str], columns: int) -> str:
    """The richest progress line that fits the terminal.

    Args:
        render: makes a line from a format of tqdm and the items after the rate.
        failed: the number of failed rollouts, which is in every line; empty if there are none.
        notes: further items, the most important first. A line with brackets has the first one at least.
    """
    kept = [*filter(None, [failed]), *notes[:1]]
    for form in _FORMATS:
        line = render(form, kept)
        if len(line) <= columns:
            for note in notes[1:]:
                longer = render(form, [*kept, note])
                if len(longer) <= columns:
                    line, kept = longer, [*kept, note]
            return line
    lines = [f"{failed} {render(form, [])}".lstrip() for form in _NARROW_FORMATS]
    return next((line for line in lines if len(line) <= columns), lines[-1][:columns])


class _Lines:
    every_s = _LINE_EVERY_S

    def __init__(self, counters: RunCounters, notes: Notes, is_paused: IsPaused, stream: TextIO) -> None:
        self._counters = counters
        self._notes = notes
        self._is_paused = is_paused
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
        elapsed = time.monotonic() - self._started
        settled = self._counters.settled - self._settled_before
        line = progress_line(self._counters, self._notes(), elapsed, settled, is_paused=self._is_paused())
        # A reader that closed the pipe, as `| head` does, must not end the run.
        with contextlib.suppress(OSError):
            self._write(line)

    def _write(self, line: str) -> None:
        self._stream.write(f"{TITLE}: {line}\n")
        self._stream.flush()


def progress_line(
    counters: RunCounters, notes: Iterable[str], elapsed: float, settled: int, *, is_paused: bool = False
) -> str:
    """The counters and notes in one line, without a title.

    Args:
        elapsed: how long this command has run, in seconds.
        settled: rollouts that it settled in that time.
        is_paused: whether nothing starts, so that the time left is not known.
    """
    rate = settled / max(elapsed, 1e-9)
    left = f"{(counters.planned - counters.settled) / rate:.0f}s" if rate and not is_paused else "?"
    more = "".join(f" {note}" for note in [*notes, *_lateness(counters)])
    return (
        f"collected={counters.collected} failed={counters.failed} planned={counters.planned} "
        f"rate={rate:.2f}/s elapsed={elapsed:.0f}s left={left}{shown(redact(more))}"
    )


def _lateness(counters: RunCounters) -> list[str]:
    """The oldest rollout in flight, if it takes much longer than others did."""
    oldest = counters.oldest()
    if oldest is None:
        return []
    key, seconds = oldest
    mean_s = counters.attempt_seconds / counters.attempts_done if counters.attempts_done else 0.0
    is_late = seconds > max(_LATE_S, _LATE_TIMES * mean_s)
    return [f"oldest=task_{key.task_index}/rollout_{key.rollout_index}:{seconds:.0f}s"] if is_late else []
