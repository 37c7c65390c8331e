"""How busy the client itself was: whether a run waited for servers or servers waited for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_SAMPLE_EVERY_S = 0.1
_LONG_ENOUGH_S = 5.0
_BOUND = 0.85
"""A client this busy sets the pace itself."""


@dataclass(slots=True)
class ClientLoad:
    """What a client had to do, while it did it.

    Attributes:
        busy: share of the time, from 0 to 1, in which the event loop's thread, or all threads on all cores that the
            process may use, whichever is more, had work.
        mean_lag_s: by how much the event loop was late, on average.
        worst_lag_s: at most.
        seconds: for how long it was looked at.
    """

    seconds: float = 0.0
    busy: float = 0.0
    mean_lag_s: float = 0.0
    worst_lag_s: float = 0.0

    @property
    def is_bottleneck(self) -> bool:
        """Whether servers waited for the client; short runs, of which starting is a good part, do not tell."""
        return self.busy >= _BOUND and self.seconds >= _LONG_ENOUGH_S

    def told(self) -> str:
        """In one line, with what to do about it if there is anything."""
        line = f"client busy {self.busy:.0%}, event loop late by up to {self.worst_lag_s * 1000:.0f} ms"
        cure = ": it, not the servers, sets the pace: split the run or lower num_samples_in_parallel"
        return line + cure * self.is_bottleneck


@asynccontextmanager
async def measure_client_load() -> AsyncIterator[ClientLoad]:
    """Measure for as long as the block runs; the figures are whole once it ends."""
    load = ClientLoad()
    began, own, all_threads = time.monotonic(), time.thread_time(), time.process_time()
    sampling = asyncio.create_task(_sample_lag(load))
    try:
        yield load
    finally:
        sampling.cancel()
        load.seconds = wall = max(time.monotonic() - began, 1e-9)
        cores = _cores()
        load.busy = min(1.0, max(time.thread_time() - own, (time.process_time() - all_threads) / cores) / wall)


async def _sample_lag(load: ClientLoad) -> None:
    samples = 0
    while True:
        due = time.monotonic() + _SAMPLE_EVERY_S
        await asyncio.sleep(_SAMPLE_EVERY_S)
        lag = max(0.0, time.monotonic() - due)
        samples += 1
        load.mean_lag_s += (lag - load.mean_lag_s) / samples
        load.worst_lag_s = max(load.worst_lag_s, lag)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
