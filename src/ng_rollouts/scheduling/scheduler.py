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
from ng_rollouts.scheduling.concurrency import ConcurrencyLimit, Slots
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Attempt, Failure, Result, Rollout

FEWEST_WAITING = 64
"""So many rollouts may wait for another attempt before fresh ones are held back, even with fewer slots."""

_STARTED_BEFORE_SENT = 32
"""So many attempts are started before the loop gets to send them, however many slots are free."""

Call = Callable[[Rollout, int], Awaitable[Result]]
"""One attempt, given the number of those before it: the result of a rollout, or AttemptFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSink:
    """Where outcomes go, and are counted; what these raise ends the run."""

    record: Callable[[Rollout, Result], None]
    give_up: Callable[[Failure], None]


@dataclass(slots=True, order=True)
class _Work:
    """A rollout and the attempts it has behind it; ordered by when it may go on."""

    ready_at: float
    position: int
    rollout: Rollout = field(compare=False)
    attempts: tuple[Attempt, ...] = field(default=(), compare=False)


async def schedule(
    rollouts: Iterator[Rollout],
    call: Call,
    sink: ResultSink,
    *,
    limit: ConcurrencyLimit,
    policy: RetryPolicy,
    counters: RunCounters,
    stop: Stop,
) -> None:
    """Have every rollout answered or given up, at most `limit` at once, taken up in order.

    When asked to stop, it returns once the attempts in flight have ended or had their time; a rollout that is then
    neither answered nor given up is left as it was.

    Raises:
        NgRolloutsError: what the outlet or the source of rollouts raised; attempts in flight are cancelled.
    """
    scheduler = _Scheduler(call, sink, limit, policy, counters)
    try:
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(scheduler.feed(rollouts, tasks))
            draining = tasks.create_task(scheduler.drain_when_asked(stop, feeding))
            await asyncio.wait([feeding])
            if not stop.asked.is_set():
                draining.cancel()
    except BaseExceptionGroup as group:
        raise _cause(group) from group


class _Scheduler:
    def __init__(
        self, call: Call, sink: ResultSink, limit: ConcurrencyLimit, policy: RetryPolicy, counters: RunCounters
    ) -> None:
        self._call = call
        self._sink = sink
        self._limit = limit
        self._slots = Slots(limit)
        self._policy = policy
        self._counters = counters
        self._waiting: list[_Work] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._draining = False

    async def feed(self, rollouts: Iterator[Rollout], tasks: asyncio.TaskGroup) -> None:
        """Start attempts as slots come free, until every rollout is settled."""
        started = 0
        while True:
            await self._slots.acquire()
            work = await self._next(rollouts)
            if work is None:
                return
            self._counters.in_flight_since[work.rollout.key] = time.monotonic()
            self._counters.most_in_flight = max(self._counters.most_in_flight, len(self._counters.in_flight_since))
            task = tasks.create_task(self._attempt(work))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
            started += 1
            if started % _STARTED_BEFORE_SENT == 0:
                await asyncio.sleep(0)

    async def drain_when_asked(self, stop: Stop, feeding: asyncio.Task[None]) -> None:
        """Once asked to stop: start nothing, wait for what is in flight, cancel what takes too long."""
        await stop.asked.wait()
        feeding.cancel()
        self._draining = True
        hurry = asyncio.create_task(stop.at_once.wait())
        idle = asyncio.create_task(self._until_idle())
        await asyncio.wait([hurry, idle], timeout=stop.drain_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (hurry, idle, *self._in_flight):
            task.cancel()

    async def _until_idle(self) -> None:
        while self._counters.in_flight_since:
            self._settled.clear()
            await self._settled.wait()

    async def _next(self, rollouts: Iterator[Rollout]) -> _Work | None:
        """The next rollout to try, once there is one; None when all are settled."""
        while True:
            self._settled.clear()
            now = time.monotonic()
            if self._waiting and self._waiting[0].ready_at <= now:
                return self._pop()
            if len(self._waiting) < max(self._limit.now, FEWEST_WAITING):
                rollout = next(rollouts, None)
                if rollout is not None:
                    return _Work(now, rollout.position, rollout)
            if not self._waiting and not self._counters.in_flight_since:
                return None
            await self._until_settled(self._waiting[0].ready_at - now if self._waiting else None)

    async def _until_settled(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return

    async def _attempt(self, work: _Work) -> None:
        began = time.monotonic()
        try:
            result = await self._call(work.rollout, len(work.attempts))
        except AttemptFailed as failure:
            self._limit.record_failure(failure, failure.sent_at or began, time.monotonic())
            self._failed(work, failure, time.monotonic() - began)
        else:
            self._limit.record_success(time.monotonic())
            self._sink.record(work.rollout, result)
        finally:
            self._counters.attempts_done += 1
            seconds = time.monotonic() - began
            self._counters.attempt_seconds += seconds
            self._counters.by_agent[work.rollout.agent].latencies.add(seconds)
            del self._counters.in_flight_since[work.rollout.key]
            self._slots.release()
            self._settled.set()

    def _failed(self, work: _Work, failure: AttemptFailed, seconds: float) -> None:
        work.attempts = (*work.attempts, _record(failure, seconds))
        spent_s = time.time() - work.attempts[0].began
        wait_s = self._policy.wait_s(failure, len(work.attempts), spent_s)
        if wait_s is None:
            given_up = Failure(
                rollout=work.rollout, attempts=work.attempts, terminal=failure.terminal, persist=failure.persist
            )
            self._sink.give_up(given_up)
        elif not self._draining:
            work.ready_at = time.monotonic() + wait_s
            heapq.heappush(self._waiting, work)
            self._counters.waiting = len(self._waiting)

    def _pop(self) -> _Work:
        work = heapq.heappop(self._waiting)
        self._counters.waiting = len(self._waiting)
        return work


def _record(failure: AttemptFailed, seconds: float) -> Attempt:
    return Attempt(
        failure_class=failure.failure_class,
        message=failure.message,
        status=failure.status,
        began=time.time() - seconds,
        seconds=seconds,
    )


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
