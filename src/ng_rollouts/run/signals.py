"""Signal handling.

The first SIGINT, SIGTERM, SIGHUP or SIGUSR2 (with which Slurm announces the end of a job) drains the run, the second
cancels what is in flight, the third exits at once. SIGUSR1 reports what is in flight.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from ng_rollouts.console import counted, log, log_lines
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.stop import Stop

_EXIT_AT = 3
"""The signal at which the process exits at once."""

_MAX_LISTED = 5
"""Rollouts that the report for SIGUSR1 lists."""


@dataclass(slots=True)
class Received:
    """The signals that arrived.

    Attributes:
        first: the number of the first one.
        count: how many arrived.
    """

    first: int | None = None
    count: int = 0

    def exit_code(self, code: int) -> int:
        """The exit code of the command: that of the first signal, or `code` if there was none."""
        return 128 + self.first if self.first else code


@contextmanager
def handle_signals(stop: Stop, counters: RunCounters) -> Iterator[Received]:
    """Let signals stop the run, or report on it, while the block runs."""
    loop = asyncio.get_running_loop()
    received = Received()
    began = time.monotonic()
    stopping = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]
    # nohup ignores SIGHUP, so that the command outlives its terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        stopping.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in (*stopping, signal.SIGUSR1)}

    def receive(number: int, _: object) -> None:
        received.count += 1
        # Not in the event loop, which may be what hangs. Every row in the journal is complete, so nothing is lost.
        if received.count >= _EXIT_AT:
            os._exit(128 + number)
        loop.call_soon_threadsafe(_stop, number, received, stop, counters)

    for number in stopping:
        signal.signal(number, receive)
    loop.add_signal_handler(signal.SIGUSR1, lambda: log_lines(report(counters, time.monotonic() - began)))
    try:
        yield received
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        for number, handler in before.items():
            signal.signal(number, handler)


def report(counters: RunCounters, seconds: float) -> str:
    """The counters, and the rollouts that have been in flight longest.

    Args:
        seconds: how long the command has run.
    """
    rate = counters.attempts_done / max(seconds, 1e-9)
    mean = counters.attempt_seconds / counters.attempts_done if counters.attempts_done else 0.0
    first = (
        f"collected={counters.collected} failed={counters.failed} planned={counters.planned} "
        f"in_flight={counters.in_flight} waiting={counters.waiting} attempts={counters.attempts_done} "
        f"rate={rate:.2f}/s mean_attempt={mean:.2f}s"
    )
    now = time.monotonic()
    # In order of insertion, so the oldest are the first.
    oldest = islice(counters.in_flight_since.items(), _MAX_LISTED)
    ages = [f"  task {key.task_index}, rollout {key.rollout_index}: {now - at:.1f} s in flight" for key, at in oldest]
    return "\n".join([first, *ages])


def _stop(number: int, received: Received, stop: Stop, counters: RunCounters) -> None:
    is_first = not stop.requested.is_set()  # a drain by ng_control_rollouts is the first request, too
    received.first = received.first or number
    if is_first:
        stop.requested.set()
        name = signal.Signals(number).name
        if counters.in_flight or counters.settled < counters.planned:
            again = "Ctrl-C again" if number == signal.SIGINT else f"{name} again"
            drain = counted(counters.in_flight, "rollout", "in flight has", "in flight have")
            drain += f" {stop.drain_s:g} s to finish"
            log(f"interrupted by {name}: {drain} ({again} to stop now)")
        else:
            log(f"interrupted by {name}: all rollouts are collected; remaining steps are skipped")
    else:
        stop.at_once.set()
