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
from ng_rollouts.console import log
from ng_rollouts.errors import StoppedEarly, StorageError
from ng_rollouts.executors.base import Executor
from ng_rollouts.http.client import slow_above
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.run.budget import Budget
from ng_rollouts.run.client_load import measure_client_load
from ng_rollouts.run.os_limits import max_connections
from ng_rollouts.run.progress import progress
from ng_rollouts.run.state import RunState
from ng_rollouts.run.status_file import status
from ng_rollouts.scheduling.concurrency import AdaptiveLimit, ConcurrencyLimit, FixedLimit
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import ResultSink, schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Result, Rollout

_SYNC_EVERY_S = 1.0


async def dispatch(
    config: CollectConfig,
    executor: Executor,
    remaining: Iterator[Rollout],
    state: RunState,
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
    limit = _limit(config, min(state.counters.planned, executor.max_concurrency or state.counters.planned))
    out = Dispatcher(config=config, executor=executor, state=state, stop=stop, limit=limit, room=room)
    syncing = asyncio.create_task(_sync_often(state.journal))
    try:
        async with (
            progress(state.counters, out.notes),
            status(status_path, state.counters),
            measure_client_load() as state.load,
        ):
            if config.canary:
                await out.send_canary(remaining)
            if not stop.asked.is_set():
                await out.send(takewhile(lambda _: not out.budget.is_spent(state.counters), remaining))
    finally:
        syncing.cancel()
        state.journal.sync()


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    config: CollectConfig
    executor: Executor
    state: RunState
    stop: Stop
    limit: ConcurrencyLimit
    room: Callable[[], Awaitable[None]] | None
    began: float = field(default_factory=time.monotonic)
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.config.price_per_million, self.config.max_total_tokens)

    async def send(self, rollouts: Iterator[Rollout]) -> None:
        """Have these collected."""
        await schedule(
            rollouts,
            self._call,
            ResultSink(record=self.state.record, give_up=self.state.give_up),
            limit=self.limit,
            policy=_policy(self.config),
            counters=self.state.counters,
            stop=self.stop,
        )

    async def _call(self, rollout: Rollout, attempts: int) -> Result:
        if self.room:
            await self.room()
        return await self.executor.call(rollout, attempts + self.state.earlier.attempts.get(rollout.key, 0))

    async def send_canary(self, remaining: Iterator[Rollout]) -> None:
        """Send the first rollouts alone.

        Raises:
            StoppedEarly: one of them failed.
        """
        failed_before = self.state.counters.failed
        await self.send(islice(remaining, self.config.canary))
        if self.state.counters.failed > failed_before:
            last = self.state.last_failure
            told = f": {last.failure_class}: {last.message}" if last else ""
            raise StoppedEarly(f"the canary failed, so the rest was not sent{told}")

    def notes(self) -> Iterator[str]:
        """What there is to show beside the counts."""
        counters = self.state.counters
        if counters.reward.count:
            yield f"reward={counters.reward.mean:.3f}±{counters.reward.ci95_half_width:.3f}"
        if counters.output_tokens:
            yield f"tokens={counters.output_tokens / (time.monotonic() - self.began):.0f}/s"
        if isinstance(self.limit, AdaptiveLimit):
            yield f"parallel={self.limit.now}"
        for load_balancer in self.state.load_balancers:
            yield from (f"resting={address}" for address in load_balancer.cooling_down())
        yield from self.budget.notes(counters, self.state.collected_before)


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


def _limit(config: CollectConfig, rollouts: int) -> ConcurrencyLimit:
    parallel = _parallel(config, rollouts)
    return AdaptiveLimit(parallel) if config.adaptive_parallelism else FixedLimit(parallel)


def _parallel(config: CollectConfig, rollouts: int) -> int:
    """Rollouts in flight at once: what was asked for, as far as the machine goes along."""
    wanted = min(config.num_samples_in_parallel or rollouts, rollouts)
    possible, bound = max_connections()
    if wanted > possible:
        log(f"{possible} rollouts in flight, not {wanted}: more are not possible with the {bound} of this machine")
    parallel = min(wanted, possible)
    most = slow_above(config.http_engine)
    if most and parallel > most:
        log(
            f"warning: httpx's own pool slows down beyond {most} rollouts in flight, and {parallel} are asked for: "
            "pip install pyreqwest (and no http_engine=httpx), or pip install httpx-aiohttp"
        )
    return parallel
