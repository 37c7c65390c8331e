"""Measures how busy this process is, to tell whether the servers or the client limit the throughput."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_SAMPLE_EVERY_S = 0.1

_LONG_ENOUGH_S = 5.0
"""In a shorter run, start-up is too large a share of the time to judge by."""

_BOTTLENECK = 0.85
"""From this share of the time on, the client limits the throughput."""


@dataclass(slots=True)
class ClientLoad:
    """Load of this process while rollouts were in flight.

    Attributes:
        busy: share of the time, from 0 to 1, in which it used the CPU: the event loop's thread, or all threads over
            all cores that the process may use, whichever is larger.
        mean_lag_s, worst_lag_s: delay of the event loop.
        seconds: how long it was measured.
    """

    seconds: float = 0.0
    busy: float = 0.0
    mean_lag_s: float = 0.0
    worst_lag_s: float = 0.0

    @property
    def is_bottleneck(self) -> bool:
        """Whether the servers waited for the client."""
        return self.busy >= _BOTTLENECK and self.seconds >= _LONG_ENOUGH_S

    def describe(self) -> str:
        """The load in one line, with advice if the client is the bottleneck."""
        line = f"client busy {self.busy:.0%}, event loop delayed by up to {self.worst_lag_s * 1000:.0f} ms"
        advice = ": the client is the bottleneck: split the run into shards or lower num_samples_in_parallel"
        return line + advice * self.is_bottleneck


@asynccontextmanager
async def measure_client_load() -> AsyncIterator[ClientLoad]:
    """Measure the load while the block runs. The values are complete when it ends."""
    load = ClientLoad()
    began, own, all_threads = time.monotonic(), time.thread_time(), time.process_time()
    sampling = asyncio.create_task(_sample_lag(load))
    try:
        yield load
    finally:
        sampling.cancel()
        load.seconds = wall = max(time.monotonic() - began, 1e-9)
        # The event loop uses one core at most, so its thread alone can be the bottleneck. All threads share all cores.
        cores = _cores()
        load.busy = min(1.0, max(time.thread_time() - own, (time.process_time() - all_threads) / cores) / wall)


async def _sample_lag(load: ClientLoad) -> None:
    samples = 0
    while True:
        # A sleep that ends late was delayed by other work on the event loop.
        due = time.monotonic() + _SAMPLE_EVERY_S
        await asyncio.sleep(_SAMPLE_EVERY_S)
        lag = max(0.0, time.monotonic() - due)
        samples += 1
        load.mean_lag_s += (lag - load.mean_lag_s) / samples
        load.worst_lag_s = max(load.worst_lag_s, lag)


def _cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
