"""A run's rollouts out to its agents, and back into its book."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import tell
from ng_rollouts.errors import StoppedEarly, StorageError
from ng_rollouts.executors.base import Executor
from ng_rollouts.http.client import crawls_beyond
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.run.budget import Costs
from ng_rollouts.run.client_load import watching_load
from ng_rollouts.run.os_limits import in_flight_possible
from ng_rollouts.run.progress import progress
from ng_rollouts.run.state import Book
from ng_rollouts.run.status_file import status
from ng_rollouts.scheduling.concurrency import AdaptiveLimit, FixedLimit, Limit
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import Outlet, collect
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Result, Rollout

_SYNC_EVERY_S = 1.0


async def fan_out(
    config: CollectConfig,
    executor: Executor,
    owed: Iterator[Rollout],
    book: Book,
    stop: Stop,
    status_path: Path,
    room: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Collect what is owed, as far as budget and canary let it; progress is shown, the journal synced all the while.

    Args:
        room: awaited before each attempt, where somebody has to keep up.

    Raises:
        StoppedEarly: going on was pointless.
    """
    limit = _limit(config, min(book.counts.planned, executor.most_at_once or book.counts.planned))
    out = _FanOut(config=config, executor=executor, book=book, stop=stop, limit=limit, room=room)
    syncing = asyncio.create_task(_sync_often(book.journal))
    try:
        async with (
            progress(book.counts, out.notes),
            status(status_path, book.counts),
            watching_load() as book.load,
        ):
            if config.canary:
                await out.send_canary(owed)
            if not stop.asked.is_set():
                await out.send(takewhile(lambda _: not out.costs.budget_is_spent(book.counts), owed))
    finally:
        syncing.cancel()
        book.journal.sync()


@dataclass(slots=True, kw_only=True)
class _FanOut:
    config: CollectConfig
    executor: Executor
    book: Book
    stop: Stop
    limit: Limit
    room: Callable[[], Awaitable[None]] | None
    began: float = field(default_factory=time.monotonic)
    costs: Costs = field(init=False)

    def __post_init__(self) -> None:
        self.costs = Costs(self.config.price_per_million, self.config.max_total_tokens)

    async def send(self, rollouts: Iterator[Rollout]) -> None:
        """Have these collected."""
        await collect(
            rollouts,
            self._call,
            Outlet(keep=self.book.keep, give_up=self.book.give_up),
            limit=self.limit,
            policy=_policy(self.config),
            counts=self.book.counts,
            stop=self.stop,
        )

    async def _call(self, rollout: Rollout, attempts: int) -> Result:
        if self.room:
            await self.room()
        return await self.executor.call(rollout, attempts + self.book.earlier.attempts.get(rollout.key, 0))

    async def send_canary(self, owed: Iterator[Rollout]) -> None:
        """Send the first rollouts alone.

        Raises:
            StoppedEarly: one of them failed.
        """
        failed_before = self.book.counts.failed
        await self.send(islice(owed, self.config.canary))
        if self.book.counts.failed > failed_before:
            last = self.book.last_failure
            told = f": {last.failure_class}: {last.message}" if last else ""
            raise StoppedEarly(f"the canary failed, so the rest was not sent{told}")

    def notes(self) -> Iterator[str]:
        """What there is to show beside the counts."""
        counts = self.book.counts
        if counts.reward.count:
            yield f"reward={counts.reward.mean:.3f}±{counts.reward.half_width:.3f}"
        if counts.output_tokens:
            yield f"tokens={counts.output_tokens / (time.monotonic() - self.began):.0f}/s"
        if isinstance(self.limit, AdaptiveLimit):
            yield f"parallel={self.limit.now}"
        for pool in self.book.pools:
            yield from (f"resting={address}" for address in pool.resting())
        yield from self.costs.notes(counts, self.book.collected_before)


async def _sync_often(journal: Journal) -> None:
    """Sync about every second; an error that lasts shows in the last sync, which is not this one."""
    while True:
        await asyncio.sleep(_SYNC_EVERY_S)
        with suppress(StorageError):
            await asyncio.to_thread(journal.sync)


def _policy(config: CollectConfig) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=config.max_attempts, budget_s=config.retry_budget_s, patient=config.adaptive_parallelism
    )


def _limit(config: CollectConfig, rollouts: int) -> Limit:
    parallel = _parallel(config, rollouts)
    return AdaptiveLimit(parallel) if config.adaptive_parallelism else FixedLimit(parallel)


def _parallel(config: CollectConfig, rollouts: int) -> int:
    """Rollouts in flight at once: what was asked for, as far as the machine goes along."""
    wanted = min(config.num_samples_in_parallel or rollouts, rollouts)
    possible, bound = in_flight_possible()
    if wanted > possible:
        tell(f"{possible} rollouts in flight, not {wanted}: more are not possible with the {bound} of this machine")
    parallel = min(wanted, possible)
    most = crawls_beyond(config.http_engine)
    if most and parallel > most:
        tell(
            f"warning: httpx's own pool slows down beyond {most} rollouts in flight, and {parallel} are asked for: "
            "pip install pyreqwest (and no http_engine=httpx), or pip install httpx-aiohttp"
        )
    return parallel
