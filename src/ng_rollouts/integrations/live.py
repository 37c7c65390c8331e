"""Sends running figures to experiment trackers while a run collects.

Each tracker has a process, which receives lines of JSON on stdin and keeps its run open until the end: the finished run
then goes to the same run of the tracker. A tracker that fails, hangs or is slow costs figures, and never delays a run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ng_rollouts.console import log
from ng_rollouts.integrations.runner import PRODUCTS, TIMEOUT_S, last_line
from ng_rollouts.jsonl import dumps
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import Json

FINISH = b"finish\n"
"""The line after which the finished run is sent."""

_MAX_UNREAD_BYTES = 1 << 16
"""A tracker that leaves more than this unread misses figures."""

_CLOSE_S = 10.0
"""How long a tracker may take to end a run that was not finished."""


@dataclass(slots=True, eq=False)
class _Live:
    """The process of one tracker.

    Attributes:
        name: the tracker.
        printed: the task that reads what it prints, and returns the last line.
        has_failed: whether a warning was logged.
    """

    name: str
    child: asyncio.subprocess.Process
    printed: asyncio.Task[str]
    has_failed: bool = False

    def send(self, line: bytes) -> None:
        """Send a line, unless the process has ended or does not read."""
        if self.child.returncode is not None or self.child.stdin is None:
            self._warn()
        elif self.child.stdin.transport.get_write_buffer_size() < _MAX_UNREAD_BYTES:
            self.child.stdin.write(line)

    def _warn(self) -> None:
        if not self.has_failed and self.printed.done():
            self.has_failed = True
            log(f"warning: export={self.name}: no more running figures: {self.printed.result()}")

    async def finish(self) -> bool:
        """Send the finished run, and log the result; False if the process had ended before."""
        if self.child.returncode is not None or self.child.stdin is None:
            return False
        log(f"export={self.name}: running (at most {TIMEOUT_S:g} s; Ctrl-C cancels it)")
        self.child.stdin.write(FINISH)
        self.child.stdin.close()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                line = await self.printed
                code = await self.child.wait()
        except TimeoutError:
            log(f"warning: export={self.name} did not finish within {TIMEOUT_S:g} s and was stopped")
        else:
            log(line if code == 0 else f"warning: export={self.name} failed: {line}")
        finally:
            self._kill()  # after a timeout or a cancellation
        return True

    async def close(self, within_s: float) -> None:
        """End the process. Without a finished run, it may end its run of the tracker first, within some seconds."""
        if self.child.stdin:
            self.child.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_CLOSE_S, within_s)):
                await self.child.wait()
        self._kill()
        await self.child.wait()
        self.printed.cancel()

    def _kill(self) -> None:
        if self.child.returncode is None:
            with suppress(ProcessLookupError):
                self.child.kill()


class LiveTrackers:
    """The trackers that follow a run. Their processes run until `close`.

    Args:
        names: the integrations of a run; those that only write files are left out.
        output: the output of the run.
        project: the project or experiment in trackers.
    """

    def __init__(self, names: Sequence[str], output: Path, project: str) -> None:
        self._names = [name for name in names if name not in PRODUCTS]
        self._arguments = (str(output), project)
        self._trackers: list[_Live] = []

    async def close(self, within_s: float) -> None:
        """End the processes within some seconds, and in any case soon."""
        await asyncio.gather(*(tracker.close(within_s) for tracker in self._trackers))

    @asynccontextmanager
    async def following(self, counters: RunCounters, every_s: float | None) -> AsyncIterator[None]:
        """Start the processes, and send figures every `every_s` seconds while the block runs, and at its end."""
        if every_s is None or not self._names:
            yield
            return
        started = [await _start(name, self._arguments) for name in self._names]
        self._trackers = [tracker for tracker in started if tracker]
        figures = RunningFigures(counters)
        sending = asyncio.create_task(self._send_regularly(figures, every_s))
        try:
            yield
        finally:
            sending.cancel()
            self._send(figures)

    async def finish(self) -> set[str]:
        """Send the finished run; the names of the trackers for which this was tried."""
        return {tracker.name for tracker in self._trackers if await tracker.finish()}

    async def _send_regularly(self, figures: RunningFigures, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self._send(figures)

    def _send(self, figures: RunningFigures) -> None:
        line = dumps({"step": figures.step, "figures": figures.next()}) + b"\n"
        for tracker in self._trackers:
            tracker.send(line)


class RunningFigures:
    """The figures of a run, with rates since the figures before."""

    def __init__(self, counters: RunCounters) -> None:
        self.step = 0
        self._counters = counters
        self._began = self._at = time.monotonic()
        self._settled, self._tokens = counters.settled, counters.output_tokens

    def next(self) -> Json:
        """The figures now."""
        counters, now = self._counters, time.monotonic()
        seconds = max(now - self._at, 1e-9)
        figures = {
            "collected": counters.collected,
            "failed": counters.failed,
            "in_flight": counters.in_flight,
            "waiting": counters.waiting,
            "elapsed_s": now - self._began,
            "rollouts_per_s": (counters.settled - self._settled) / seconds,
            "output_tokens_per_s": (counters.output_tokens - self._tokens) / seconds,
            **({"reward": counters.reward.mean} if counters.reward.count else {}),
        }
        self.step += 1
        self._at, self._settled, self._tokens = now, counters.settled, counters.output_tokens
        return {f"running/{name}": value for name, value in figures.items()}


async def _start(name: str, arguments: Sequence[str]) -> _Live | None:
    """Start the process of a tracker; None, with a warning, if the system cannot start it."""
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "ng_rollouts.integrations", name, *arguments, "live"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal is for the run, which drains
        )
    except OSError as error:
        log(f"warning: export={name}: no running figures: its process cannot start: {error.strerror}")
        return None
    return _Live(name, child, asyncio.create_task(_last_line(child)))


async def _last_line(child: asyncio.subprocess.Process) -> str:
    """Read what a process prints, so that it never waits for a reader, and return the last line."""
    printed = b""
    while child.stdout and (chunk := await child.stdout.read(1 << 16)):
        printed = (printed + chunk)[-(1 << 16) :]
    return last_line(printed) or "it ended without a message"
