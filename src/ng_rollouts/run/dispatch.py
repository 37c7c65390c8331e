"""Sends the remaining rollouts of a run to its executor, with progress, status file and periodic sync."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.config.validation import hedge_threshold
from ng_rollouts.console import counted, log
from ng_rollouts.control.controls import Controls
from ng_rollouts.control.server import control_socket
from ng_rollouts.errors import FailureClass, InputChanged, InputError, StoppedEarly, StorageError, UsageError
from ng_rollouts.executors.base import Executor
from ng_rollouts.executors.steering import sources_of, steering
from ng_rollouts.http.attempt_endpoints import avoiding_first
from ng_rollouts.http.client import slow_above
from ng_rollouts.integrations.live import LiveTrackers
from ng_rollouts.models.attempt import count_tokens_of_task
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.run.budget import Budget
from ng_rollouts.run.client_load import measure_client_load
from ng_rollouts.run.os_limits import max_connections
from ng_rollouts.run.progress import progress, progress_line
from ng_rollouts.run.state import RunState
from ng_rollouts.run.status_file import status_file, status_of
from ng_rollouts.run.summary import DispatchReport
from ng_rollouts.scheduling.concurrency import ConcurrencyLimit, FixedLimit
from ng_rollouts.scheduling.control import ScheduleControl
from ng_rollouts.scheduling.engine_limit import EngineAwareLimit
from ng_rollouts.scheduling.hedging import Hedging
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Json, Result, Rollout

_SYNC_EVERY_S = 1.0
"""A power cut costs at most this much; a sync takes about half a millisecond."""


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Dispatches rollouts.

    Attributes:
        status_path: the status file.
        control_path: the socket that takes commands.
        planned: reads the planned rollouts at some positions, to attempt failed ones again.
        is_planned: whether a task is planned, by its index.
        trackers: receive running figures.
        wait_for_capacity: awaited before each attempt, if a consumer has to keep up.
        report: receives the measurements of client, servers and executor.
    """

    config: CollectConfig
    executor: Executor
    state: RunState
    stop: Stop
    budget: Budget
    status_path: Path
    control_path: Path
    planned: Callable[[AbstractSet[int]], Iterator[Rollout]]
    is_planned: Callable[[int], bool]
    report: DispatchReport
    trackers: LiveTrackers
    wait_for_capacity: Callable[[], Awaitable[None]] | None = None
    _began: float = field(default_factory=time.monotonic)
    _limit: ConcurrencyLimit = field(init=False)
    _schedule: ScheduleControl = field(init=False)
    _again: deque[Iterator[Rollout]] = field(default_factory=deque)
    _parallel: int = field(init=False)
    _settled_before: int = field(init=False)
    _has_ended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._settled_before = self.state.counters.settled
        self._parallel = parallel = self._possible(self.config.num_samples_in_parallel)
        self._schedule = ScheduleControl(hedging=self._hedging(), may_start=self._may_start)
        self._limit = EngineAwareLimit(parallel) if self.config.adaptive_parallelism else FixedLimit(parallel)

    async def dispatch(self, remaining: Iterator[Rollout]) -> None:
        """Collect the remaining rollouts, as far as canary, budgets and wall time allow.

        Raises:
            StoppedEarly: continuing is pointless.
        """
        counters = self.state.counters
        syncing = asyncio.create_task(_sync_regularly(self.state.journal))
        try:
            async with (
                progress(counters, self._progress_notes, self._is_paused),
                status_file(self.status_path, counters, self._is_paused),
                self.trackers.following(counters, self.config.export_every_s),
                measure_client_load() as self.report.load,
                control_socket(self.control_path, self._controls().execute),
                self._steered(),
            ):
                if self.config.canary:
                    await self._send_canary(remaining)
                while not self.stop.requested.is_set():
                    await self._send(_Rollouts(remaining, self._again))
                    # `retry failed` may have come after the scheduler had looked for the last time.
                    if not (self._again and self._may_start()):
                        break
                self._has_ended = True
                if not self.stop.requested.is_set():
                    self.state.leave_failed()
        finally:
            # A final sync, after which everything collected survives a power cut.
            syncing.cancel()
            self.state.journal.sync()
            if isinstance(self._limit, EngineAwareLimit):
                self.report.steered_by = self._limit.steered_by
            self.report.executor_lines = list(self.executor.summary_lines())
            for line in self.report.executor_lines:
                log(line)

    def _steered(self) -> AbstractAsyncContextManager[None]:
        sources = sources_of(self.config.engine_metrics_url, self.report.policies)
        return steering(self._limit, sources, lambda: self.state.counters.in_flight, self.config.http_engine)

    async def _send(self, rollouts: Iterator[Rollout]) -> None:
        attempt = self._attempt_with_capacity if self.wait_for_capacity else self._attempt
        await schedule(
            rollouts,
            avoiding_first(attempt) if self._schedule.hedging else attempt,
            self.state,
            limit=self._limit,
            policy=RetryPolicy(
                max_attempts=self.config.max_attempts,
                budget_s=self.config.retry_budget_s,
            ),
            counters=self.state.counters,
            stop=self.stop,
            control=self._schedule,
        )

    def _hedging(self) -> Hedging | None:
        threshold = hedge_threshold(self.config.hedge_after)
        return threshold and Hedging(allows=self._may_hedge, seconds=threshold.seconds, quantile=threshold.quantile)

    def _may_hedge(self, rollout: Rollout) -> bool:
        return self.state.may_run_twice(rollout) and self._may_start()

    def _controls(self) -> Controls:
        """The parts of this run that `ng_control_rollouts` reads and changes."""
        is_local = bool(self.report.load_balancers) and not self.executor.max_concurrency
        return Controls(
            counters=self.state.counters,
            schedule=self._schedule,
            stop=self.stop,
            status=self._status,
            setters={
                "num_samples_in_parallel": self._set_parallel,
                "max_attempts": self._set_max_attempts,
                "drain_s": self._set_drain_s,
                "max_total_tokens": self._set_max_total_tokens,
                "max_wall_s": self._set_max_wall_s,
                # Attempts of other processes have their own rate limiters.
                **({"max_requests_per_minute": self._set_rate} if is_local else {}),
            },
            retry_failed=self._retry_failed,
            is_planned=self.is_planned,
            where=self.state.where,
            log=self.report.control,
        )

    def _status(self) -> tuple[str, Json]:
        """The numbers of the progress line, as text and as an object."""
        counters, elapsed_s = self.state.counters, time.monotonic() - self._began
        settled = counters.settled - self._settled_before
        status = {
            **status_of(counters, elapsed_s, settled, is_paused=self._is_paused()),
            "num_samples_in_parallel": self._parallel,
            "draining": self.stop.requested.is_set(),
        }
        line = progress_line(counters, self._progress_notes(), elapsed_s, settled, is_paused=self._is_paused())
        return line, status

    def _is_paused(self) -> bool:
        return self._schedule.is_paused

    def _possible(self, wanted: int | None) -> int:
        """The number of rollouts in flight that is possible, up to a wanted one; None for no bound."""
        planned = self.state.counters.planned
        return _parallel(self.config.http_engine, wanted, min(planned, self.executor.max_concurrency or planned))

    def _set_parallel(self, wanted: float | None) -> float | None:
        self._parallel = self._possible(None if wanted is None else int(wanted))
        self._limit.set_ceiling(self._parallel)
        self._schedule.wake()
        return self._parallel

    def _set_max_attempts(self, wanted: float | None) -> float | None:
        self._schedule.max_attempts = None if wanted is None else int(wanted)
        return wanted

    def _set_drain_s(self, wanted: float | None) -> float | None:
        self.stop.drain_s = self.stop.drain_s if wanted is None else wanted
        return wanted

    def _set_max_total_tokens(self, wanted: float | None) -> float | None:
        if self.budget.is_spent(self.state.counters):
            raise UsageError("max_total_tokens cannot be changed any more: the tokens are spent, and the run ends")
        self.budget.max_tokens = None if wanted is None else int(wanted)
        return wanted

    def _set_max_wall_s(self, wanted: float | None) -> float | None:
        self.report.wall_time.move(wanted)
        self._schedule.wake()
        return wanted

    def _set_rate(self, wanted: float | None) -> float | None:
        for balancer in self.report.load_balancers:
            balancer.set_requests_per_minute(wanted)
        return wanted

    def _retry_failed(self) -> int:
        """Put failed rollouts of this command back, and return their number.

        Raises:
            UsageError: this run cannot do it.
        """
        if not self.state.can_retry_failed:
            raise UsageError("this run cannot retry failed rollouts before it ends: resume it to retry them")
        if self._has_ended or self.stop.requested.is_set() or not self._may_start():
            raise UsageError("this run starts no more rollouts: resume it to retry the failed ones")
        positions = self.state.retry_failed(self._schedule.cancelled)
        if positions:
            self._again.append(self._failed(positions))
            self._schedule.wake()
        return len(positions)

    def _failed(self, positions: set[int]) -> Iterator[Rollout]:
        """Rollouts by their positions, which are all that is in memory: the input is read again, as far as needed."""
        left = set(positions)
        try:
            for rollout in self.planned(positions):
                if rollout.position in left:
                    left.remove(rollout.position)
                    yield rollout
                if not left:
                    return
        except (InputError, InputChanged) as error:
            log(f"warning: {counted(len(left), 'failed rollout')} cannot be attempted again: {error}")
            self.state.leave_failed(left)

    async def _attempt(self, rollout: Rollout, attempts: int) -> Result:
        # Attempts of earlier commands count too: an agent sees consecutive attempt numbers.
        attempts += self.state.prior.attempts.get(rollout.key, 0)
        counters = self.state.counters
        tokens = count_tokens_of_task()
        failed = tokens.answers
        try:
            result = await self.executor.call(rollout, attempts, self.state.kept_answer(rollout))
            failed = tokens.unusable
            return result
        finally:  # also after a cancellation: what it has used is spent
            counters.failed_tokens.add(failed.input, failed.output)
            counters.judge_tokens.add(tokens.judges.input, tokens.judges.output)

    async def _attempt_with_capacity(self, rollout: Rollout, attempts: int) -> Result:
        if self.wait_for_capacity:
            await self.wait_for_capacity()
        return await self._attempt(rollout, attempts)

    def _may_start(self) -> bool:
        """True while budgets and time limits allow another attempt. Attempts in flight finish in any case."""
        counters, report = self.state.counters, self.report
        if self.budget.is_spent(counters):
            return False
        return report.time_budget.allows(counters) and report.wall_time.allows(counters)

    async def _send_canary(self, remaining: Iterator[Rollout]) -> None:
        """Send the first rollouts alone.

        Raises:
            StoppedEarly: one of them failed.
        """
        failed_before = self._failed_uncancelled
        await self._send(islice(remaining, self.config.canary))
        if self._failed_uncancelled > failed_before:
            last = self.state.last_failure
            reason = f": {last.failure_class}: {last.message}" if last else ""
            raise StoppedEarly(f"a canary rollout failed, so the rest was not sent{reason}")

    @property
    def _failed_uncancelled(self) -> int:
        """Failed rollouts without those of cancelled tasks."""
        return self.state.counters.failed - self.state.failures.by_class[FailureClass.CANCELLED]

    def _progress_notes(self) -> Iterator[str]:
        """The items that progress shows next to the counters, as `key=value`, the most important first."""
        counters = self.state.counters
        if self._is_paused():
            yield "paused"
        if self.stop.requested.is_set():
            yield "draining"
        if counters.reward.count:
            yield f"reward={counters.reward.mean:.3f}±{counters.reward.ci95_half_width:.3f}"
        numbers = {
            "unscored": counters.unscored,
            "masked": counters.masked.total(),
            "in_flight": counters.in_flight,
            "hedged": counters.hedged,
        }
        yield from (f"{name}={number}" for name, number in numbers.items() if number)
        if counters.waiting:
            yield f"waiting={counters.waiting} waiting_for={counters.waiting_for}"
        if counters.output_tokens:
            yield f"tokens={counters.output_tokens / (time.monotonic() - self._began):.0f}/s"
        if isinstance(self._limit, EngineAwareLimit):
            yield f"parallel={self._limit.current} steered_by={self._limit.steered_by}"
        for load_balancer in self.report.load_balancers:
            yield from (f"cooling_down={url}" for url in load_balancer.cooling_down())
        yield from self.budget.progress_notes(counters, self.state.collected_before)


class _Rollouts:
    """The rollouts to attempt: those that are attempted again by request, then the remaining ones.

    Unlike a generator, it may have rollouts again after it had none.
    """

    def __init__(self, remaining: Iterator[Rollout], again: deque[Iterator[Rollout]]) -> None:
        self._remaining = remaining
        self._again = again

    def __iter__(self) -> Iterator[Rollout]:
        return self

    def __next__(self) -> Rollout:
        while self._again:
            if (rollout := next(self._again[0], None)) is not None:
                return rollout
            self._again.popleft()
        return next(self._remaining)


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


def _parallel(http_engine: str, wanted: int | None, rollouts: int) -> int:
    """The maximum number of rollouts in flight: as wanted, within the limits of the operating system."""
    wanted = min(wanted or rollouts, rollouts)
    possible, limit = max_connections()
    if wanted > possible:
        log(f"{counted(possible, 'rollout')} in flight instead of {wanted}: this machine's limit is {limit}")
    parallel = min(wanted, possible)
    threshold = slow_above(http_engine)
    if threshold and parallel > threshold:
        log(
            f"warning: httpx's connection pool is slow above {threshold} rollouts in flight, and this run has up to "
            f"{parallel}: pip install pyreqwest (and no http_engine=httpx), or pip install httpx-aiohttp"
        )
    return parallel
