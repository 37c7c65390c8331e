"""Sends the remaining rollouts of a run to its executor, with progress, status file and periodic sync."""

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
from ng_rollouts.models.attempt import count_tokens_of_task
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.run.budget import Budget
from ng_rollouts.run.client_load import measure_client_load
from ng_rollouts.run.os_limits import max_connections
from ng_rollouts.run.progress import progress
from ng_rollouts.run.state import RunState
from ng_rollouts.run.status_file import status_file
from ng_rollouts.run.summary import DispatchReport
from ng_rollouts.scheduling.concurrency import AdaptiveLimit, ConcurrencyLimit, FixedLimit
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Result, Rollout

_SYNC_EVERY_S = 1.0
"""A power cut costs at most this much; a sync takes about half a millisecond."""


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Dispatches rollouts.

    Attributes:
        status_path: the status file.
        wait_for_capacity: awaited before each attempt, if a consumer has to keep up.
        report: receives the measurements of client, servers and executor.
    """

    config: CollectConfig
    executor: Executor
    state: RunState
    stop: Stop
    budget: Budget
    status_path: Path
    report: DispatchReport
    wait_for_capacity: Callable[[], Awaitable[None]] | None = None
    _began: float = field(default_factory=time.monotonic)
    _limit: ConcurrencyLimit = field(init=False)

    def __post_init__(self) -> None:
        planned = self.state.counters.planned
        parallel = _parallel(self.config, min(planned, self.executor.max_concurrency or planned))
        self._limit = AdaptiveLimit(parallel) if self.config.adaptive_parallelism else FixedLimit(parallel)

    async def dispatch(self, remaining: Iterator[Rollout]) -> None:
        """Collect the remaining rollouts, as far as canary, budgets and wall time allow.

        Raises:
            StoppedEarly: continuing is pointless.
        """
        counters = self.state.counters
        syncing = asyncio.create_task(_sync_regularly(self.state.journal))
        try:
            async with (
                progress(counters, self._progress_notes),
                status_file(self.status_path, counters),
                measure_client_load() as self.report.load,
            ):
                if self.config.canary:
                    await self._send_canary(remaining)
                # The budget is checked before each new rollout. When it is spent, rollouts in flight still finish.
                if not self.stop.requested.is_set():
                    await self._send(takewhile(lambda _: self._may_start(), remaining))
        finally:
            # A final sync, after which everything collected survives a power cut.
            syncing.cancel()
            self.state.journal.sync()
            self.report.executor_lines = list(self.executor.summary_lines())
            for line in self.report.executor_lines:
                log(line)

    async def _send(self, rollouts: Iterator[Rollout]) -> None:
        await schedule(
            rollouts,
            self._attempt_with_capacity if self.wait_for_capacity else self._attempt,
            self.state,
            limit=self._limit,
            policy=RetryPolicy(
                max_attempts=self.config.max_attempts,
                budget_s=self.config.retry_budget_s,
            ),
            counters=self.state.counters,
            stop=self.stop,
        )

    async def _attempt(self, rollout: Rollout, attempts: int) -> Result:
        # Attempts of earlier commands count too: an agent sees consecutive attempt numbers.
        attempts += self.state.prior.attempts.get(rollout.key, 0)
        counters = self.state.counters
        tokens = count_tokens_of_task()
        try:
            return await self.executor.call(rollout, attempts, self.state.kept_answer(rollout))
        except BaseException:  # also a cancellation: what it has used is spent
            counters.failed_tokens.add(tokens.answers.input, tokens.answers.output)
            raise
        finally:
            counters.judge_tokens.add(tokens.judges.input, tokens.judges.output)

    async def _attempt_with_capacity(self, rollout: Rollout, attempts: int) -> Result:
        if self.wait_for_capacity:
            await self.wait_for_capacity()
        return await self._attempt(rollout, attempts)

    def _may_start(self) -> bool:
        counters, report = self.state.counters, self.report
        if self.budget.is_spent(counters):
            return False
        return report.time_budget.allows(counters) and report.wall_time.allows(counters)

    async def _send_canary(self, remaining: Iterator[Rollout]) -> None:
        """Send the first rollouts alone.

        Raises:
            StoppedEarly: one of them failed.
        """
        failed_before = self.state.counters.failed
        await self._send(islice(remaining, self.config.canary))
        if self.state.counters.failed > failed_before:
            last = self.state.last_failure
            reason = f": {last.failure_class}: {last.message}" if last else ""
            raise StoppedEarly(f"a canary rollout failed, so the rest was not sent{reason}")

    def _progress_notes(self) -> Iterator[str]:
        """The items that progress shows next to the counters, as `key=value`, the most important first."""
        counters = self.state.counters
        if counters.reward.count:
            yield f"reward={counters.reward.mean:.3f}±{counters.reward.ci95_half_width:.3f}"
        if counters.unscored:
            yield f"unscored={counters.unscored}"
        if counters.masked:
            yield f"masked={counters.masked.total()}"
        if counters.in_flight:
            yield f"in_flight={counters.in_flight}"
        if counters.waiting:
            yield f"waiting={counters.waiting} waiting_for={counters.waiting_for}"
        if counters.output_tokens:
            yield f"tokens={counters.output_tokens / (time.monotonic() - self._began):.0f}/s"
        if isinstance(self._limit, AdaptiveLimit):
            yield f"parallel={self._limit.current}"
        for load_balancer in self.report.load_balancers:
            yield from (f"cooling_down={url}" for url in load_balancer.cooling_down())
        yield from self.budget.progress_notes(counters, self.state.collected_before)


async def _sync_regularly(journal: Journal) -> None:
    """Sync every second. An error ends the run at the next row, or at the final sync."""
    was_named = True
    while True:
        await asyncio.sleep(_SYNC_EVERY_S)
        # In a thread, because fsync blocks for as long as the disk takes.
        with suppress(StorageError):
            await asyncio.to_thread(journal.sync)
        if was_named and not journal.is_named:
            was_named = False
            log("warning: the output was removed or renamed while the run writes it: it is written again at the end")


def _parallel(config: CollectConfig, rollouts: int) -> int:
    """The maximum number of rollouts in flight: as configured, within the limits of the operating system."""
    wanted = min(config.num_samples_in_parallel or rollouts, rollouts)
    possible, limit = max_connections()
    if wanted > possible:
        log(f"{possible} rollouts in flight instead of {wanted}: this machine's limit is {limit}")
    parallel = min(wanted, possible)
    threshold = slow_above(config.http_engine)
    if threshold and parallel > threshold:
        log(
            f"warning: httpx's connection pool is slow above {threshold} rollouts in flight, and this run has up to "
            f"{parallel}: pip install pyreqwest (and no http_engine=httpx), or pip install httpx-aiohttp"
        )
    return parallel
