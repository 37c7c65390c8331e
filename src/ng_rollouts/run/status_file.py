"""The status file: progress for other programs to watch. Replaced every second, removed at the end."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.types import Json

_EVERY_S = 1.0
"""Seconds between two updates."""


@asynccontextmanager
async def status_file(path: Path, counters: RunCounters, is_paused: Callable[[], bool]) -> AsyncIterator[None]:
    """Keep the file up to date while the block runs. A run continues without it if it cannot be written."""
    writing = asyncio.create_task(_write_regularly(path, counters, is_paused))
    try:
        yield
    finally:
        writing.cancel()
        _remove(path)


def is_replaceable_status(path: Path) -> bool:
    """Whether a path is free, or has the status of an earlier run, which a crash has left."""
    try:
        return "pid" in json.loads(path.read_bytes() or b'{"pid": 0}')
    except FileNotFoundError:
        return True
    except (OSError, ValueError, TypeError):
        return False


def remove_stale_status(path: Path) -> None:
    """Remove the status file that a crash of an earlier run has left."""
    if is_replaceable_status(path):
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def status_of(counters: RunCounters, elapsed_s: float, settled: int, *, is_paused: bool = False) -> Json:
    """The contents of the file.

    Args:
        elapsed_s: how long this command has run.
        settled: rollouts that it settled in that time.
        is_paused: whether nothing starts, so that the time left is not known.
    """
    rate = settled / elapsed_s if elapsed_s > 0 else 0.0
    return {
        "pid": os.getpid(),
        "updated": time.time(),
        "planned": counters.planned,
        "collected": counters.collected,
        "failed": counters.failed,
        "unscored": counters.unscored,
        "masked": counters.masked.total(),
        "in_flight": counters.in_flight,
        "waiting": counters.waiting,
        "paused": is_paused,
        "reward": counters.reward.mean if counters.reward.count else None,
        "elapsed_s": round(elapsed_s, 3),
        "rollouts_per_s": round(rate, 3),
        "left_s": round((counters.planned - counters.settled) / rate, 1) if rate and not is_paused else None,
        "input_tokens": counters.input_tokens,
        "output_tokens": counters.output_tokens,
        "judge_tokens": counters.judge_tokens.total,
        "failed_tokens": counters.failed_tokens.total,
    }


async def _write_regularly(path: Path, counters: RunCounters, is_paused: Callable[[], bool]) -> None:
    began, before = time.monotonic(), counters.settled
    with suppress(OSError):
        while True:
            elapsed_s, settled = time.monotonic() - began, counters.settled - before
            status = status_of(counters, elapsed_s, settled, is_paused=is_paused())
            # Replaced, so that a reader never sees half a file. Not synced: the content is outdated after a second.
            with replacing(path, durable=False) as temporary:
                temporary.write_text(json.dumps(status) + "\n", encoding="utf-8")
            await asyncio.sleep(_EVERY_S)
