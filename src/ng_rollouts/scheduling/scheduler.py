"""The scheduler: rollouts in, results and failures out, with bounded concurrency and retries.

It receives functions for everything else. A slot is acquired before a task is created, and released while a rollout
waits for its next attempt, so there are never more attempts than slots. While many rollouts wait, no fresh ones start.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from ng_rollouts.errors import AttemptFailed, FailureClass, NgRolloutsError
from ng_rollouts.scheduling.concurrency import ConcurrencyLimit, Slots
from ng_rollouts.scheduling.control import ScheduleControl
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.hedging import Call, Hedger
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Attempt, Failure, Json, Result, Rollout

MIN_WAITING = 64
"""This many rollouts may wait for a retry before fresh ones are held back, even with fewer slots."""

_STARTS_PER_TURN = 32
"""Attempts that start in one turn of the event loop, so that the first requests leave before all tasks exist."""


class ResultSink(Protocol):
    """Receives the outcome of each rollout; an exception that it raises ends the run."""

    def record(self, rollout: Rollout, result: Result) -> None:
        """Receive a result."""
        ...

    def give_up(self, failure: Failure) -> None:
        """Receive a rollout whose last attempt failed."""
        ...


@dataclass(slots=True, eq=False)
class _Work:
    """A rollout with its failed attempts.

    Attributes:
        began: when the first attempt began (`time.monotonic`); infinite before the first failure.
        task: the attempt in flight.
        is_cancelled: whether the attempt in flight was ended because its task is cancelled.
    """

    rollout: Rollout
    attempts: tuple[Attempt, ...] = ()
    began: float = inf
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False

    def add_failure(self, failure: AttemptFailed, seconds: float) -> None:
        """Count an attempt that has just failed."""
        self.attempts = (*self.attempts, _attempt_record(failure, seconds))
        # By the monotonic clock: a jump of the wall clock must not give up rollouts.
        self.began = min(self.began, time.monotonic() - seconds)


async def schedule(
    rollouts: Iterator[Rollout],
    call: Call,
    sink: ResultSink,
    *,
    limit: ConcurrencyLimit,
    policy: RetryPolicy,
    counters: RunCounters,
    stop: Stop,
    control: ScheduleControl | None = None,
) -> None:
    """Attempt every rollout until it has a result or is given up.

    Rollouts start in order, at most `limit` at once. After a stop request, this returns when the attempts in flight
    have ended or have been cancelled; rollouts without an outcome are then left as they were.

    Args:
        control: changes the schedule while it runs, and says when a rollout gets a second attempt.

    Raises:
        NgRolloutsError: raised by the sink, or by the iterator of rollouts; attempts in flight are cancelled.
    """
    control = control or ScheduleControl()
    scheduler = _Scheduler(call, sink, limit, policy, counters, control)
    try:
        async with asyncio.TaskGroup() as tasks:
            if control.hedging:
                scheduler.hedger = Hedger(call, control.hedging, counters, tasks)
                control.attempts_of = scheduler.hedger.attempts_of
            feeding = tasks.create_task(scheduler.feed(rollouts, tasks))
            draining = tasks.create_task(scheduler.drain_when_requested(stop, feeding, tasks))
            await asyncio.wait([feeding])
            if not stop.requested.is_set():
                draining.cancel()
    except BaseExceptionGroup as group:
        raise _cause(group) from group


class _Scheduler:
    def __init__(
        self,
        call: Call,
        sink: ResultSink,
        limit: ConcurrencyLimit,
        policy: RetryPolicy,
        counters: RunCounters,
        control: ScheduleControl,
    ) -> None:
        self._call = call
        self._sink = sink
        self._limit = limit
        self._slots = Slots(limit)
        self._policy = policy
        self._counters = counters
        # A heap of when the next attempt may start (`time.monotonic`), the rollout's position, and the rollout.
        self._waiting: list[tuple[float, int, _Work]] = []
        self._in_flight: set[_Work] = set()
        self._refused: _Work | None = None  # a fresh rollout that could not start, and may later
        self._attempt_ended = asyncio.Event()
        self._draining = False
        self.hedger: Hedger | None = None
        self._control = control
        control.wake, control.cancel_in_flight = self._wake, self._cancel_in_flight
        control.in_flight = lambda: (work.rollout for work in self._in_flight)

    async def feed(self, rollouts: Iterator[Rollout], tasks: asyncio.TaskGroup) -> None:
        """Start attempts as slots become free, until every rollout has an outcome."""
        started = 0
        while True:
            if not self._slots.acquire_at_once():
                await self._slots.acquire()
            if (work := self._ready(rollouts) or await self._next(rollouts)) is None:
                return
            self._counters.begin_attempt(work.rollout.key)
            self._in_flight.add(work)
            work.task = tasks.create_task(self._attempt(work))
            started += 1
            if started % _STARTS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def drain_when_requested(self, stop: Stop, feeding: asyncio.Task[None], tasks: asyncio.TaskGroup) -> None:
        """After a stop request: start nothing, wait for what is in flight, cancel what takes too long."""
        await stop.requested.wait()
        feeding.cancel()
        self._draining = True
        ends = [tasks.create_task(each) for each in (stop.at_once.wait(), stop.drain_over.wait(), self._until_idle())]
        await asyncio.wait(ends, timeout=stop.drain_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (*ends, *(work.task for work in self._in_flight)):
            if task:
                task.cancel()

    async def _until_idle(self) -> None:
        while self._counters.in_flight:
            self._attempt_ended.clear()
            await self._attempt_ended.wait()

    async def _next(self, rollouts: Iterator[Rollout]) -> _Work | None:
        """The next rollout to attempt, as soon as there is one; None when all have an outcome."""
        while (work := self._ready(rollouts)) is None:
            if self._control.is_paused:
                await self._control.resumed.wait()
                continue
            if not self._waiting and not self._counters.in_flight:
                return None
            self._attempt_ended.clear()
            wake_at = min(self._waiting[0][0] if self._waiting else inf, await self._hedge())
            await self._until_attempt_ends(None if wake_at == inf else wake_at - time.monotonic())
        return work

    async def _hedge(self) -> float:
        """Give the slot of the caller to a second attempt if one is due; otherwise, when this is to be asked again.

        Slots for the rollouts that wait for a retry stay free.
        """
        if not self.hedger or self._slots.free < len(self._waiting):
            return inf
        if (at := self.hedger.next_at()) > time.monotonic():
            return at
        self.hedger.start_second(self._end_second)
        await self._slots.acquire()
        return 0.0

    def _end_second(self) -> None:
        self._slots.release()
        self._attempt_ended.set()

    def _ready(self, rollouts: Iterator[Rollout]) -> _Work | None:
        """The rollout that may be attempted now; None if there is none. Those of cancelled tasks are given up."""
        if self._control.is_paused:
            return None
        if self._waiting and not self._control.may_start():
            # Without an outcome: a resume attempts them.
            self._waiting.clear()
            self._counters.waiting = 0
        while work := self._first(rollouts):
            if self._give_up_cancelled(work):
                continue
            # Asked last: an answer for nothing would say that a rollout was not started.
            if self._control.may_start():
                return work
            self._refused = work
            return None
        return None

    def _first(self, rollouts: Iterator[Rollout]) -> _Work | None:
        """A rollout whose wait has ended, else a fresh one; None if there is none."""
        if self._waiting:
            if self._waiting[0][0] <= time.monotonic():
                return self._pop_waiting()
            if len(self._waiting) >= max(self._limit.current, MIN_WAITING):
                return None
        if work := self._refused:
            self._refused = None
            return work
        rollout = next(rollouts, None)
        return None if rollout is None else _Work(rollout)

    async def _until_attempt_ends(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._attempt_ended.wait()
        except TimeoutError:
            return

    async def _attempt(self, work: _Work) -> None:
        began = time.monotonic()
        try:
            result = await self._result(work)
        except AttemptFailed as failure:
            self._limit.record_failure(failure, failure.sent_at or began, time.monotonic())
            # An answer whose scoring was ended is kept.
            failure = _cancelled(failure.kept) if work.is_cancelled else failure
            self._retry_or_give_up(work, failure, time.monotonic() - began)
        except asyncio.CancelledError:
            if not work.is_cancelled:
                raise
            self._retry_or_give_up(work, _cancelled(), time.monotonic() - began)
        else:
            self._limit.record_success(time.monotonic())
            self._sink.record(work.rollout, result)
        finally:
            self._in_flight.discard(work)
            self._counters.end_attempt(work.rollout.key, work.rollout.agent, time.monotonic() - began)
            self._slots.release()
            self._attempt_ended.set()

    async def _result(self, work: _Work) -> Result:
        if self.hedger is None:
            return await self._call(work.rollout, len(work.attempts))

        def add_failure(failure: AttemptFailed, seconds: float) -> None:
            now = time.monotonic()
            self._limit.record_failure(failure, failure.sent_at or now - seconds, now)
            work.add_failure(failure, seconds)

        attempt = self.hedger.attempt(work.rollout, len(work.attempts), add_failure)
        self._attempt_ended.set()  # `_hedge` may have asked before this attempt began
        return await attempt

    def _retry_or_give_up(self, work: _Work, failure: AttemptFailed, seconds: float) -> None:
        work.add_failure(failure, seconds)
        policy = self._policy
        if self._control.max_attempts is not None:
            policy = replace(policy, max_attempts=self._control.max_attempts)
        now = time.monotonic()
        wait_s = policy.wait_s(failure, len(work.attempts), now - work.began)
        if wait_s is None:
            self._sink.give_up(
                Failure(
                    rollout=work.rollout, attempts=work.attempts, terminal=failure.terminal, persist=failure.persist
                )
            )
        elif not self._draining:
            self._counters.waiting_for = failure.failure_class
            heapq.heappush(self._waiting, (now + wait_s, work.rollout.position, work))
            self._counters.waiting = len(self._waiting)

    def _give_up_cancelled(self, work: _Work) -> bool:
        """Give up a rollout that is not in flight if its task is cancelled; False if the task is not."""
        if work.rollout.key.task_index not in self._control.cancelled:
            return False
        self._retry_or_give_up(work, _cancelled(), 0.0)
        return True

    def _cancel_in_flight(self, task_index: int) -> int:
        """End the attempts of a task, and make its waits end now; the number of attempts."""
        ended = [work for work in self._in_flight if work.rollout.key.task_index == task_index]
        for work in ended:
            work.is_cancelled = True
            if work.task:
                # Not now: a task that is cancelled before its first turn would never count its attempt as ended.
                asyncio.get_running_loop().call_soon(work.task.cancel)
        self._waiting = [
            (0.0 if work.rollout.key.task_index == task_index else at, position, work)
            for at, position, work in self._waiting
        ]
        heapq.heapify(self._waiting)
        self._wake()
        return len(ended)

    def _wake(self) -> None:
        """Look at limit, waits and rollouts again, because one of them was changed from outside."""
        self._slots.assign()
        self._attempt_ended.set()

    def _pop_waiting(self) -> _Work:
        _, _, work = heapq.heappop(self._waiting)
        self._counters.waiting = len(self._waiting)
        return work


def _cancelled(kept: Json | None = None) -> AttemptFailed:
    """The failure of a rollout whose task is cancelled, with the fields of its reply that are kept."""
    return AttemptFailed(FailureClass.CANCELLED, "the task was cancelled during the run", kept=kept)


def _attempt_record(failure: AttemptFailed, seconds: float) -> Attempt:
    return Attempt(
        failure_class=failure.failure_class,
        message=failure.message,
        status=failure.status,
        began=time.time() - seconds,
        seconds=seconds,
        kept=failure.kept,
        is_earlier=failure.is_earlier,
    )


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that caused the group: the first of this program's own, if there is one."""
    causes = list(_leaves(group))
    return next((cause for cause in causes if isinstance(cause, NgRolloutsError)), causes[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
