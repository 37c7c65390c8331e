"""The bounded loop: rollouts in, outcomes out.

It takes functions: how a rollout becomes a row, and what is done with rows and failures. A slot is taken before a
task is made, and given back while a rollout waits for its next attempt, so tasks never outnumber slots; when many
rollouts wait, no fresh ones are taken up.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from ng_rollouts.errors import AttemptFailed, NgRolloutsError
from ng_rollouts.records import Attempt, Counts, Failure, Json, Rollout
from ng_rollouts.retries import RetryPolicy

FEWEST_WAITING = 64
"""So many rollouts may wait for another attempt before fresh ones are held back, even with fewer slots."""

Call = Callable[[Rollout], Awaitable[Json]]
"""One attempt: the row of a rollout, or AttemptFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """Where outcomes go; what these raise ends the run."""

    keep: Callable[[Rollout, Json], None]
    give_up: Callable[[Failure], None]


@dataclass(slots=True, order=True)
class _Work:
    """A rollout and the attempts it has behind it; ordered by when it may go on."""

    ready_at: float
    position: int
    rollout: Rollout = field(compare=False)
    attempts: tuple[Attempt, ...] = field(default=(), compare=False)


async def collect(
    rollouts: Iterator[Rollout],
    call: Call,
    outlet: Outlet,
    *,
    parallel: int,
    policy: RetryPolicy,
    counts: Counts,
) -> None:
    """Have every rollout answered or given up, at most `parallel` at once, taken up in order.

    Raises:
        NgRolloutsError: what the outlet or the source of rollouts raised; attempts in flight are cancelled.
    """
    try:
        await _Loop(rollouts, call, outlet, parallel, policy, counts).run()
    except BaseExceptionGroup as group:
        raise _cause(group) from group


class _Loop:
    def __init__(
        self,
        rollouts: Iterator[Rollout],
        call: Call,
        outlet: Outlet,
        parallel: int,
        policy: RetryPolicy,
        counts: Counts,
    ) -> None:
        self._fresh = rollouts
        self._call = call
        self._outlet = outlet
        self._most_waiting = max(parallel, FEWEST_WAITING)
        self._slots = asyncio.Semaphore(parallel)
        self._policy = policy
        self._counts = counts
        self._waiting: list[_Work] = []
        self._settled = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._slots.acquire()
                work = await self._next()
                if work is None:
                    return
                self._counts.in_flight += 1
                tasks.create_task(self._attempt(work))

    async def _next(self) -> _Work | None:
        """The next rollout to try, once there is one; None when all are settled or in flight for good."""
        while True:
            self._settled.clear()
            now = time.monotonic()
            if self._waiting and self._waiting[0].ready_at <= now:
                return self._pop()
            if len(self._waiting) < self._most_waiting:
                rollout = next(self._fresh, None)
                if rollout is not None:
                    return _Work(now, rollout.position, rollout)
            if not self._waiting and not self._counts.in_flight:
                return None
            await self._until_settled(self._waiting[0].ready_at - now if self._waiting else None)

    async def _until_settled(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return

    async def _attempt(self, work: _Work) -> None:
        started = time.monotonic()
        try:
            row = await self._call(work.rollout)
        except AttemptFailed as failure:
            self._failed(work, failure, time.monotonic() - started)
        else:
            self._outlet.keep(work.rollout, row)
            self._counts.collected += 1
        finally:
            self._counts.in_flight -= 1
            self._slots.release()
            self._settled.set()

    def _failed(self, work: _Work, failure: AttemptFailed, seconds: float) -> None:
        attempt = Attempt(
            failure_class=failure.failure_class, message=failure.message, status=failure.status, seconds=seconds
        )
        work.attempts = (*work.attempts, attempt)
        wait_s = self._policy.wait_s(failure, len(work.attempts))
        if wait_s is None:
            self._outlet.give_up(Failure(rollout=work.rollout, attempts=work.attempts))
            self._counts.failed += 1
            return
        work.ready_at = time.monotonic() + wait_s
        heapq.heappush(self._waiting, work)
        self._counts.waiting = len(self._waiting)

    def _pop(self) -> _Work:
        work = heapq.heappop(self._waiting)
        self._counts.waiting = len(self._waiting)
        return work


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that brought the group about: one of ours if there is one."""
    causes = list(_leaves(group))
    return next((cause for cause in causes if isinstance(cause, NgRolloutsError)), causes[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
