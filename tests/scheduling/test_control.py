"""Changes of a schedule while it runs: its limit, cancelled tasks, a pause."""

from __future__ import annotations

import asyncio

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.concurrency import AdaptiveLimit, FixedLimit
from ng_rollouts.scheduling.control import ScheduleControl
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Failure, Result, Rollout, RolloutStats
from tests.scheduling.test_scheduler import NO_WAIT, Sink, plan_of, rollouts_of


def test_changed_ceiling_lets_waiting_rollouts_start() -> None:
    """After `set_ceiling` and `wake`, as many rollouts are in flight as the new limit allows."""

    async def run() -> None:
        limit, control, plan = FixedLimit(1), ScheduleControl(), plan_of([1] * 6)
        counters, release, stop = RunCounters(planned=6), asyncio.Event(), Stop(0)

        async def call(rollout: Rollout, _: int) -> Result:
            await release.wait()
            return Result(b"{}", RolloutStats({}))

        scheduling = schedule(
            rollouts_of(plan), call, Sink(), limit=limit, policy=NO_WAIT, counters=counters, stop=stop, control=control
        )
        running = asyncio.create_task(scheduling)
        while counters.in_flight < 1:  # noqa: ASYNC110 - the law is about the scheduler's turns
            await asyncio.sleep(0)
        limit.set_ceiling(5)
        control.wake()
        while counters.in_flight < 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
        release.set()
        await running
        assert counters.most_in_flight == 5

    asyncio.run(run())


def test_cancelled_task_has_one_failure_for_each_rollout_wherever_it_was() -> None:
    """Rollouts in flight, those that wait for a retry and those that have not started each fail once, as `cancelled`."""

    async def run() -> None:
        control, plan, counters = ScheduleControl(), plan_of([4, 2]), RunCounters(planned=6)
        failures: list[Failure] = []
        recorded: list[int] = []
        sink = Sink(record=lambda rollout, _: recorded.append(rollout.position), give_up=failures.append)

        async def call(rollout: Rollout, _: int) -> Result:
            if rollout.position == 0:
                raise AttemptFailed("http_500", "overloaded", retryable=True, retry_after_s=100.0)
            if rollout.key.task_index == 0:
                await asyncio.Event().wait()
            return Result(b"{}", RolloutStats({}))

        running = asyncio.create_task(
            schedule(
                rollouts_of(plan),
                call,
                sink,
                limit=FixedLimit(2),
                policy=NO_WAIT,
                counters=counters,
                stop=Stop(0),
                control=control,
            )
        )
        while not (counters.waiting and counters.in_flight == 2):  # noqa: ASYNC110 - the law is about the scheduler's turns
            await asyncio.sleep(0)
        assert control.cancel(0) == 2
        await running
        assert sorted(failure.rollout.position for failure in failures) == [0, 1, 2, 3]
        assert {failure.attempts[-1].failure_class for failure in failures} == {"cancelled"}
        assert recorded == [4, 5]

    asyncio.run(run())


def test_paused_schedule_starts_no_retry_either() -> None:
    """A rollout whose wait ends during a pause starts after it."""

    async def run() -> None:
        control, plan, counters = ScheduleControl(), plan_of([1]), RunCounters(planned=1)
        calls = 0

        async def call(rollout: Rollout, _: int) -> Result:
            nonlocal calls
            calls += 1
            if calls == 1:
                control.pause()
                raise AttemptFailed("http_500", "an error", retryable=True)
            return Result(b"{}", RolloutStats({}))

        policy = RetryPolicy(max_attempts=3, jitter=lambda: -1.0)  # no wait
        running = asyncio.create_task(
            schedule(
                rollouts_of(plan),
                call,
                Sink(),
                limit=FixedLimit(2),
                policy=policy,
                counters=counters,
                stop=Stop(0),
                control=control,
            )
        )
        while not counters.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert calls == 1
        control.resume()
        await running
        assert calls == 2

    asyncio.run(run())


def test_no_attempt_starts_when_none_may_start() -> None:
    """Retries need the permission that fresh rollouts need, also after a pause; the rest has no outcome."""

    async def run() -> tuple[list[int], RunCounters, list[Failure]]:
        began: list[int] = []
        is_open = True
        failures: list[Failure] = []
        control, counters = ScheduleControl(may_start=lambda: is_open), RunCounters(planned=8)

        async def call(rollout: Rollout, _: int) -> Result:
            nonlocal is_open
            began.append(rollout.position)
            if len(began) == 4:
                control.pause()
                is_open = False
                asyncio.get_running_loop().call_soon(control.resume)
            if rollout.position % 2:
                raise AttemptFailed("http_500", "an error", retryable=True)
            return Result(b"{}", RolloutStats({}))

        policy = RetryPolicy(max_attempts=9, jitter=lambda: -1.0)  # no wait
        await schedule(
            rollouts_of(plan_of([1] * 8)),
            call,
            Sink(give_up=failures.append),
            limit=FixedLimit(1),
            policy=policy,
            counters=counters,
            stop=Stop(0),
            control=control,
        )
        return began, counters, failures

    began, counters, failures = asyncio.run(run())
    assert len(began) == 4
    assert (counters.waiting, counters.in_flight) == (0, 0)
    assert not failures


def test_permission_to_start_is_asked_only_for_a_rollout_that_would_start() -> None:
    """A question for nothing would end a budget in which all rollouts have started. A refused rollout may start later."""

    async def run() -> tuple[int, list[int]]:
        asked = 0
        answers = [True, True, False]
        began: list[int] = []

        def may_start() -> bool:
            nonlocal asked
            asked += 1
            return answers.pop(0) if answers else True

        async def call(rollout: Rollout, _: int) -> Result:
            began.append(rollout.position)
            for _ in range(20):
                await asyncio.sleep(0)
            return Result(b"{}", RolloutStats({}))

        await schedule(
            rollouts_of(plan_of([1] * 4)),
            call,
            Sink(),
            limit=FixedLimit(8),
            policy=NO_WAIT,
            counters=RunCounters(planned=4),
            stop=Stop(0),
            control=ScheduleControl(may_start=may_start),
        )
        return asked, began

    asked, began = asyncio.run(run())
    assert began == [0, 1, 2, 3]
    assert asked == 5


def test_adaptive_limit_follows_a_new_ceiling() -> None:
    """A lower ceiling counts at once, a higher one when the limit has grown to it."""
    limit = AdaptiveLimit(100)
    limit.set_ceiling(3)
    assert limit.current == 3
    limit.set_ceiling(50)
    assert limit.current == 3
    for _ in range(1000):
        limit.record_success(0.0)
    assert limit.current == 50
