"""How far a run is, in a file that other programs watch: replaced each second, gone at the end."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.types import Json

_EVERY_S = 1.0


@asynccontextmanager
async def status(path: Path, counters: RunCounters) -> AsyncIterator[None]:
    """Keep the file up to date for as long as the block runs. A file that cannot be written is done without."""
    writing = asyncio.create_task(_write_often(path, counters))
    try:
        yield
    finally:
        writing.cancel()
        with suppress(OSError):
            path.unlink(missing_ok=True)


async def _write_often(path: Path, counters: RunCounters) -> None:
    began, before = time.monotonic(), counters.settled
    with suppress(OSError):
        while True:
            elapsed = time.monotonic() - began
            _replace(path, state_of(counters, elapsed, counters.settled - before))
            await asyncio.sleep(_EVERY_S)


def state_of(counters: RunCounters, elapsed_s: float, settled: int) -> Json:
    """The state of a run.

    Args:
        settled: rollouts settled by this command, in `elapsed_s` seconds.
    """
    rate = settled / elapsed_s if elapsed_s > 0 else 0.0
    return {
        "pid": os.getpid(),
        "updated": time.time(),
        "planned": counters.planned,
        "collected": counters.collected,
        "failed": counters.failed,
        "in_flight": counters.in_flight,
        "waiting": counters.waiting,
        "reward": counters.reward.mean if counters.reward.count else None,
        "elapsed_s": round(elapsed_s, 3),
        "rollouts_per_s": round(rate, 3),
        "left_s": round((counters.planned - counters.settled) / rate, 1) if rate else None,
        "input_tokens": counters.input_tokens,
        "output_tokens": counters.output_tokens,
    }


def _replace(path: Path, state: Json) -> None:
    with replacing(path, durable=False) as temporary:
        temporary.write_text(json.dumps(state) + "\n", encoding="utf-8")
