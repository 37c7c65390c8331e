"""Signals -> what a run does about them.

The first SIGINT, SIGTERM, SIGHUP or SIGUSR2 (by which Slurm announces the end of a job) asks the run to stop, the
second has it stop at once, the third ends the process where it stands. SIGUSR1 tells what is in flight.
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

from ng_rollouts.console import log
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.stop import Stop

_OLDEST_TOLD = 5


@dataclass(slots=True)
class Received:
    """The signals that came, if any."""

    first: int | None = None
    count: int = 0


@contextmanager
def handle_signals(stop: Stop, counters: RunCounters) -> Iterator[Received]:
    """Have signals end or report on the run, for as long as the block lasts."""
    loop = asyncio.get_running_loop()
    received = Received()
    began = time.monotonic()
    heeded = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        heeded.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in (*heeded, signal.SIGUSR1)}
    for number in heeded:
        loop.add_signal_handler(number, _stop, number, received, stop, counters)
    loop.add_signal_handler(signal.SIGUSR1, lambda: log(report(counters, time.monotonic() - began)))
    try:
        yield received
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def report(counters: RunCounters, seconds: float) -> str:
    """What is in flight, the oldest first."""
    rate = counters.attempts_done / max(seconds, 1e-9)
    mean = counters.attempt_seconds / counters.attempts_done if counters.attempts_done else 0.0
    first = (
        f"collected={counters.collected} failed={counters.failed} planned={counters.planned} in_flight={counters.in_flight} "
        f"waiting={counters.waiting} attempts={counters.attempts_done} rate={rate:.2f}/s mean_attempt={mean:.2f}s"
    )
    now = time.monotonic()
    oldest = list(islice(counters.in_flight_since.items(), _OLDEST_TOLD))
    ages = [f"  task {key.task_index}, rollout {key.rollout_index}: {now - at:.1f} s in flight" for key, at in oldest]
    return "\n".join([first, *ages])


def _stop(number: int, received: Received, stop: Stop, counters: RunCounters) -> None:
    received.count += 1
    received.first = received.first or number
    if received.count == 1:
        stop.asked.set()
        name, drain = signal.Signals(number).name, f"{stop.drain_s:g} s to finish (once more: stop at once)"
        if counters.in_flight or counters.settled < counters.planned:
            log(f"{name}: no new rollouts; the {counters.in_flight} in flight have {drain}")
        else:
            log(f"{name}: all rollouts are collected; what is still waited for is left")
    elif received.count == 2:
        stop.at_once.set()
    else:
        os._exit(128 + number)
