"""Sends running figures to experiment trackers while a run collects.

Each tracker has a process, which receives lines of JSON on stdin and keeps its run open until the end: the finished run
then goes to the same run of the tracker. A tracker that fails, hangs or is slow costs figures, and never delays a run:
figures do not queue.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

from ng_rollouts.console import log
from ng_rollouts.integrations.runner import PRODUCTS, last_line
from ng_rollouts.jsonl import dumps
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import Json

FINISH = b"finish\n"
"""The line after which the finished run is sent."""

_CATCH_UP_S = 5.0
"""How long the end of a run waits for a tracker to log the last figures."""

_CLOSE_S = 10.0
"""How long a tracker may take to end a run that was not finished."""


class _Live:
    """The process of one tracker. It has at most one line of figures that it has not logged, and the newest one waits.

    Args:
        name: the tracker.
        child: the process. Its stdin is a socket, at which it replies with a byte once it has logged a line.
        reader: receives the replies.
        writer: sends the lines.
    """

    def __init__(
        self,
        name: str,
        child: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.name = name
        self._child, self._writer = child, writer
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._printed = asyncio.create_task(_last_line(child))
        self._sending = asyncio.create_task(self._send_in_turn(reader))
        self._has_failed = self._is_slow = False

    def send(self, line: bytes) -> None:
        """Let a line wait until the one before is logged, in place of an older one that waits."""
        if self._child.returncode is not None:
            self._warn_of_failure()
            return
        if self._unsent.full():
            self._unsent.get_nowait()
            self._unsent.task_done()
            self._warn_of_slowness()
        self._unsent.put_nowait(line)

    async def _send_in_turn(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # the process has ended
            while True:
                self._writer.write(await self._unsent.get())
                await reader.readexactly(1)
                self._unsent.task_done()

    def _warn_of_failure(self) -> None:
        if not self._has_failed and self._printed.done():
            self._has_failed = True
            log(f"warning: export={self.name}: no more running figures: {self._printed.result()}")

    def _warn_of_slowness(self) -> None:
        if not self._is_slow:
            self._is_slow = True
            log(f"warning: export={self.name} is slow: running figures are left out")

    async def finish(self, limit_s: float) -> bool:
        """Send the finished run, and log the result; False if the process had ended before.

        Args:
            limit_s: the seconds after which the process is ended.
        """
        if self._child.returncode is not None:
            return False
        log(f"export={self.name}: running (at most {limit_s:.0f} s; Ctrl-C cancels it)")
        try:
            async with asyncio.timeout(limit_s):
                await self._end_stdin(FINISH)
                line = await self._printed
                code = await self._child.wait()
        except TimeoutError:
            log(f"warning: export={self.name} did not finish within {limit_s:.0f} s and was stopped")
        else:
            log(line if code == 0 else f"warning: export={self.name} failed: {line}")
        finally:
            self._kill()  # after a timeout or a cancellation
        return True

    async def close(self, within_s: float) -> None:
        """End the process. Without a finished run, it may end its run of the tracker first, within some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_CLOSE_S, within_s)):
                await self._end_stdin()
                await self._child.wait()
        self._kill()
        await self._child.wait()
        self._printed.cancel()
        self._writer.close()

    async def _end_stdin(self, last: bytes = b"") -> None:
        """Send a last line after the figures. Those that still wait after some seconds are left out."""
        logged = asyncio.create_task(self._unsent.join())
        try:
            ended = (logged, self._sending)
            await asyncio.wait(ended, timeout=_CATCH_UP_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            logged.cancel()
            self._sending.cancel()
        if not self._unsent.empty() and self._child.returncode is None:
            self._warn_of_slowness()
        with suppress(RuntimeError):  # it has ended before, or the process has
            self._writer.write(last)
            self._writer.write_eof()

    def _kill(self) -> None:
        if self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.kill()


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
        for name in self._names:  # each is kept at once, so that `close` ends it after a cancellation, too
            if tracker := await _start(name, self._arguments):
                self._trackers.append(tracker)
        figures = RunningFigures(counters)
        sending = asyncio.create_task(self._send_regularly(figures, every_s))
        try:
            yield
        finally:
            sending.cancel()
            self._send(figures, with_rates=False)  # the time since the figures before is too short for rates

    async def finish(self, limit_s: Callable[[], float]) -> set[str]:
        """Send the finished run; the names of the trackers for which this was tried.

        Args:
            limit_s: the seconds that a tracker may take from now on.
        """
        return {tracker.name for tracker in self._trackers if await tracker.finish(limit_s())}

    async def _send_regularly(self, figures: RunningFigures, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self._send(figures)

    def _send(self, figures: RunningFigures, *, with_rates: bool = True) -> None:
        line = dumps({"step": figures.step, "figures": figures.next(with_rates=with_rates)}) + b"\n"
        for tracker in self._trackers:
            tracker.send(line)


class RunningFigures:
    """The figures of a run, with rates since the figures before."""

    def __init__(self, counters: RunCounters) -> None:
        self.step = 0
        self._counters = counters
        self._began = self._at = time.monotonic()
        self._settled, self._tokens = counters.settled, counters.output_tokens

    def next(self, *, with_rates: bool = True) -> Json:
        """The figures now."""
        counters, now = self._counters, time.monotonic()
        seconds = max(now - self._at, 1e-9)
        figures = {
            "collected": counters.collected,
            "failed": counters.failed,
            "in_flight": counters.in_flight,
            "waiting": counters.waiting,
            "elapsed_s": now - self._began,
            **({"rollouts_per_s": max(0, counters.settled - self._settled) / seconds} if with_rates else {}),
            **({"output_tokens_per_s": (counters.output_tokens - self._tokens) / seconds} if with_rates else {}),
            **({"reward": counters.reward.mean} if counters.reward.count else {}),
        }
        self.step += 1
        self._at, self._settled, self._tokens = now, counters.settled, counters.output_tokens
        return {f"running/{name}": value for name, value in figures.items()}


async def _start(name: str, arguments: Sequence[str]) -> _Live | None:
    """Start the process of a tracker; None, with a warning, if the system cannot start it."""
    with ExitStack() as unused:
        try:
            ours, theirs = map(unused.enter_context, socket.socketpair())
            child = await _process(name, arguments, stdin=theirs.fileno())
        except OSError as error:
            log(f"warning: export={name}: no running figures: its process cannot start: {error.strerror}")
            return None
        reader, writer = await asyncio.open_unix_connection(sock=ours.dup())
    return _Live(name, child, reader, writer)


async def _process(name: str, arguments: Sequence[str], *, stdin: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "ng_rollouts.integrations", name, *arguments, "live"),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in a terminal is for the run, which drains
    )


async def _last_line(child: asyncio.subprocess.Process) -> str:
    """Read what a process prints, so that it never waits for a reader, and return the last line."""
    printed = b""
    while child.stdout and (chunk := await child.stdout.read(1 << 16)):
        printed = (printed + chunk)[-(1 << 16) :]
    return last_line(printed) or "it ended without a message"
