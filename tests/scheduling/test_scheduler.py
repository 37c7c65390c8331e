"""The scheduler attempts every rollout in order, within its limits, and stops when a result cannot be written."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed, InputError, StorageError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.routes import AgentRepeats, Route
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.open_journal import open_new
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.scheduling import scheduler
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.hedging import Call
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import MIN_WAITING, schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Attempt, Failure, Result, Rollout, RolloutKey, RolloutStats

NO_WAIT = RetryPolicy(max_attempts=3, jitter=lambda: 0.0)


@dataclass(kw_only=True)
class Sink:
    """A result sink of two functions, which do nothing by default."""

    record: Callable[[Rollout, Result], None] = lambda *_: None
    give_up: Callable[[Failure], None] = lambda _: None


def plan_of(repeats: list[int]) -> Plan:
    """A plan with one task for each number of repeats."""
    plan = Plan()
    for count in repeats:
        plan.add(Task({}, Route((AgentRepeats("a", count),))))
    return plan


def rollouts_of(plan: Plan) -> Iterator[Rollout]:
    """The planned rollouts, in order."""
    for position, key in enumerate(plan.rollout_keys()):
        yield Rollout(position=position, key=key, agent="a", prompt_id="", row={})


def keys_in(path: Path) -> list[RolloutKey]:
    """The keys of the rows that `FakeAgent` returned; empty if the file does not exist."""
    rows = path.read_text().splitlines() if path.exists() else []
    return [RolloutKey(*json.loads(row)["key"]) for row in rows]


class FakeAgent:
    """Replies after a few turns of the event loop. Some rollouts fail a number of times first.

    Args:
        failing: number of failed attempts, by position.
    """

    def __init__(self, failing: dict[int, int], seed: int = 0) -> None:
        self.failing = failing
        self.random = random.Random(seed)
        self.in_flight = self.most_in_flight = 0
        self.started: list[int] = []

    async def __call__(self, rollout: Rollout, _: int) -> Result:
        if rollout.position not in self.started:
            self.started.append(rollout.position)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)
        self.in_flight -= 1
        if self.failing.get(rollout.position, 0) > 0:
            self.failing[rollout.position] -= 1
            raise AttemptFailed("made_up", "as configured", retryable=True)
        return Result(line=dumps({"key": rollout.key}), stats=RolloutStats(scores={}))


def run_schedule(
    rollouts: Iterator[Rollout],
    call: Call,
    sink: Sink,
    *,
    slots: int,
    counters: RunCounters,
    policy: RetryPolicy = NO_WAIT,
) -> None:
    """Schedule rollouts to the end, with a fixed number of slots."""
    asyncio.run(schedule(rollouts, call, sink, limit=FixedLimit(slots), policy=policy, counters=counters, stop=Stop(0)))


def collect_into(journal: Journal, plan: Plan, agent: FakeAgent, slots: int) -> list[Failure]:
    """Collect a plan into a journal; the rollouts that were given up."""
    failures: list[Failure] = []
    counters = RunCounters(planned=plan.rollouts)

    def record(rollout: Rollout, result: Result) -> None:
        journal.append(rollout.position, result.line)
        counters.collected += 1

    def give_up(failure: Failure) -> None:
        failures.append(failure)
        counters.failed += 1

    run_schedule(rollouts_of(plan), agent, Sink(record=record, give_up=give_up), slots=slots, counters=counters)
    assert counters.settled == plan.rollouts
    assert counters.in_flight == counters.waiting == 0
    return failures


@given(
    repeats=st.lists(st.integers(1, 4), min_size=1, max_size=10),
    slots=st.integers(1, 9),
    failing=st.dictionaries(st.integers(0, 30), st.integers(1, 4)),
    seed=st.integers(0, 1000),
)
def test_every_rollout_is_in_the_output_or_incomplete_or_failed(
    repeats: list[int], slots: int, failing: dict[int, int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Complete groups are in the output in order, the rest of a failed rollout's group is set aside, none is lost.

    This holds for any number of repeats and slots, any order of completion and any failures.
    """
    plan, agent = plan_of(repeats), FakeAgent(dict(failing), seed)
    paths = OutputPaths(tmp_path_factory.mktemp("o") / "out.jsonl")
    with open_new(paths, plan.rollouts, overwrite=False) as journal:
        failures = collect_into(journal, plan, agent, slots)
        finished = journal.finish(plan.complete(journal.collected()))
    keys = list(plan.rollout_keys())
    failed = {keys[position] for position, times in failing.items() if times >= 3 and position < len(keys)}
    incomplete = {key.task_index for key in failed}
    assert keys_in(paths.output) == [key for key in keys if key.task_index not in incomplete]
    assert keys_in(paths.incomplete) == [key for key in keys if key.task_index in incomplete and key not in failed]
    assert {failure.rollout.key for failure in failures} == failed
    assert (finished.kept, finished.set_aside) == (len(keys_in(paths.output)), len(keys_in(paths.incomplete)))
    assert agent.most_in_flight <= slots
    assert agent.started == sorted(agent.started)
    assert sorted(path.name for path in paths.output.parent.iterdir()) == sorted(
        ["out.jsonl", *(["out_incomplete.jsonl"] if finished.set_aside else [])]
    )


def test_retry_releases_its_slot_and_mixes_with_fresh_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollout that waits for a retry releases its slot, and is retried before all fresh rollouts are done."""
    monkeypatch.setattr("ng_rollouts.scheduling.retry.FIRST_WAIT_S", 0.01)
    order: list[int] = []

    async def fail_once(rollout: Rollout, _: int) -> Result:
        order.append(rollout.position)
        await asyncio.sleep(0.002)
        if rollout.position == 0 and order.count(0) == 1:
            raise AttemptFailed("made_up", "once", retryable=True)
        return Result(line=b"{}", stats=RolloutStats(scores={}))

    run_schedule(
        rollouts_of(plan_of([50])),
        fail_once,
        Sink(),
        slots=1,
        policy=RetryPolicy(max_attempts=2, jitter=lambda: 0.0),
        counters=RunCounters(planned=50),
    )
    assert 1 < order.index(0, 1) < 40


def test_number_of_waiting_rollouts_is_bounded() -> None:
    """When every attempt fails, a bounded number of rollouts waits for a retry, however many are planned."""
    counters, most_waiting = RunCounters(planned=500), 0
    failures: list[Failure] = []

    async def always_fail(rollout: Rollout, _: int) -> Result:
        nonlocal most_waiting
        most_waiting = max(most_waiting, counters.waiting)
        raise AttemptFailed("made_up", "always", retryable=True)

    run_schedule(
        rollouts_of(plan_of([500])),
        always_fail,
        Sink(give_up=failures.append),
        slots=5,
        policy=RetryPolicy(max_attempts=2, jitter=lambda: 0.001),
        counters=counters,
    )
    assert len(failures) == 500
    assert 5 < most_waiting <= MIN_WAITING + 5


@pytest.mark.parametrize("slots", [5, 100])
def test_fresh_rollouts_are_held_back_while_many_wait(slots: int) -> None:
    """No fresh rollout starts while as many wait as there are slots, or `MIN_WAITING` if that is more."""
    counters = RunCounters(planned=500)

    async def fail_for_long(rollout: Rollout, _: int) -> Result:
        raise AttemptFailed("made_up", "always", retryable=True, retry_after_s=100)

    async def run() -> None:
        stop = Stop(0)
        rollouts = rollouts_of(plan_of([500]))
        running = asyncio.create_task(
            schedule(
                rollouts, fail_for_long, Sink(), limit=FixedLimit(slots), policy=NO_WAIT, counters=counters, stop=stop
            )
        )
        before = -1
        while before < (before := counters.attempts_done):
            await turns()
        stop.requested.set()
        async with asyncio.timeout(30):
            await running

    asyncio.run(run())
    enough = max(slots, MIN_WAITING)
    assert enough <= counters.waiting < enough + slots
    assert counters.attempts_done == counters.waiting


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_result_that_cannot_be_written_ends_the_run() -> None:
    """An exception of the result sink ends the schedule and is raised unchanged."""

    def fail(*_: object) -> None:
        raise StorageError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        run_schedule(
            rollouts_of(plan_of([100])),
            FakeAgent({}),
            Sink(record=fail, give_up=fail),
            slots=10,
            counters=RunCounters(planned=100),
        )


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([ValueError("first"), StorageError("second")], StorageError),
        ([ValueError("first"), TypeError("second")], ValueError),
    ],
)
def test_error_of_this_program_is_raised_before_others(errors: list[Exception], raised: type[Exception]) -> None:
    """If several attempts end the run at once, the error with a message for the user is raised, or else the first."""

    def fail(rollout: Rollout, _: Result) -> None:
        raise errors[rollout.position]

    async def reply(*_: object) -> Result:
        return Result(line=b"{}", stats=RolloutStats(scores={}))

    with pytest.raises(raised):
        run_schedule(rollouts_of(plan_of([2])), reply, Sink(record=fail), slots=2, counters=RunCounters(planned=2))


def test_task_that_cannot_be_read_ends_the_run() -> None:
    """An exception of the iterator of rollouts is raised unchanged, and attempts in flight are cancelled."""
    agent, counters = HangingAgent(), RunCounters(planned=5)

    def rollouts() -> Iterator[Rollout]:
        yield from list(rollouts_of(plan_of([4])))[1:]
        raise InputError("the file has changed")

    async def run() -> None:
        async with asyncio.timeout(30):
            await schedule(
                rollouts(), agent, Sink(), limit=FixedLimit(40), policy=NO_WAIT, counters=counters, stop=Stop(0)
            )

    with pytest.raises(InputError, match="the file has changed"):
        asyncio.run(run())
    assert counters.in_flight == 0


def test_tasks_and_rows_in_memory_are_bounded_by_the_slots() -> None:
    """At any moment, there are no more asyncio tasks and rows in memory than slots, plus a small constant."""
    slots, total = 8, 2000
    alive = 0
    most = {"rows": 0, "tasks": 0}

    class Row(dict[str, Any]):
        def __init__(self) -> None:
            nonlocal alive
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rollouts() -> Iterator[Rollout]:
        for position in range(total):
            yield Rollout(position=position, key=RolloutKey(position, 0), agent="a", prompt_id="", row=Row())

    async def measure(rollout: Rollout, _: int) -> Result:
        await asyncio.sleep(0)
        most["tasks"] = max(most["tasks"], len(asyncio.all_tasks()))
        most["rows"] = max(most["rows"], alive)
        if rollout.position == total - 1:
            most["task objects"] = sum(type(each) is asyncio.Task for each in gc.get_objects())
        return Result(line=b"", stats=RolloutStats(scores={}))

    counters = RunCounters(planned=total)
    gc.collect()  # what earlier tests have left
    run_schedule(rollouts(), measure, Sink(), slots=slots, counters=counters)
    assert counters.attempts_done == total
    assert most["rows"] <= slots + 2
    assert most["tasks"] <= slots + 4
    assert most["task objects"] <= 4 * slots  # some have ended and are about to be freed


def test_first_attempts_begin_before_all_are_started() -> None:
    """Attempts start in batches: the first ones run when a batch has started, however many slots are free."""
    taken, taken_at_first_attempt = 0, 0

    def rollouts() -> Iterator[Rollout]:
        nonlocal taken
        for rollout in rollouts_of(plan_of([1000])):
            taken += 1
            yield rollout

    async def reply(rollout: Rollout, _: int) -> Result:
        nonlocal taken_at_first_attempt
        taken_at_first_attempt = taken_at_first_attempt or taken
        return Result(line=b"{}", stats=RolloutStats(scores={}))

    run_schedule(rollouts(), reply, Sink(), slots=1000, counters=RunCounters(planned=1000))
    assert taken_at_first_attempt == scheduler._STARTS_PER_TURN


class Clock:
    """Takes the place of the module `time`; goes on only when `now` is changed."""

    def __init__(self) -> None:
        self.now = 3.0

    def time(self) -> float:
        """The time since 1970."""
        return self.now + 4.0

    def monotonic(self) -> float:
        """The time since the machine has started."""
        return self.now


class RecordingLimit(FixedLimit):
    """A fixed limit that keeps the times it is given."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.successes: list[float] = []
        self.failures: list[tuple[float, float]] = []

    def record_success(self, now: float) -> None:
        """Keep when the attempt ended."""
        self.successes.append(now)

    def record_failure(self, failure: AttemptFailed, started: float, now: float) -> None:
        """Keep when the attempt began and ended."""
        self.failures.append((started, now))


def test_attempts_are_timed_and_retried_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt is counted from its own begin to its end, and no retry begins after the budget of a rollout.

    The limit is told when an attempt began: when its request was sent, if that is known.
    """
    clock, failures, limit = Clock(), list[Failure](), RecordingLimit(1)
    monkeypatch.setattr(scheduler, "time", clock)
    monkeypatch.setattr("ng_rollouts.scheduling.retry.FIRST_WAIT_S", 0.0)
    counters = RunCounters(planned=2)

    async def take_ten_seconds(rollout: Rollout, attempts: int) -> Result:
        clock.now += 10
        if rollout.position == 1:
            return Result(line=b"{}", stats=RolloutStats(scores={}))
        failure = AttemptFailed("made_up", "always", status=500, retryable=True)
        failure.sent_at = clock.now - 8 if attempts == 1 else None
        raise failure

    policy = RetryPolicy(max_attempts=9, budget_s=25, jitter=lambda: 0.0)
    sink, stop = Sink(give_up=failures.append), Stop(0)
    rollouts = rollouts_of(plan_of([2]))
    asyncio.run(schedule(rollouts, take_ten_seconds, sink, limit=limit, policy=policy, counters=counters, stop=stop))
    [failure] = failures
    assert failure.attempts == tuple(
        Attempt(failure_class="made_up", message="always", status=500, began=began, seconds=10.0)
        for began in (7.0, 17.0, 27.0)
    )
    assert limit.failures == [(3.0, 13.0), (15.0, 23.0), (23.0, 33.0)]
    assert limit.successes == [43.0]
    assert (counters.attempts_done, counters.attempt_seconds) == (4, 40.0)


def test_retry_begins_when_its_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt begins as long after the end of a failed one as the policy says."""
    clock, began = Clock(), list[float]()
    timeout = asyncio.timeout

    def skip(seconds: float | None) -> asyncio.Timeout:
        clock.now += seconds or 0.0
        return timeout(0)

    async def fail_once(rollout: Rollout, attempts: int) -> Result:
        began.append(clock.now)
        clock.now += 10
        if not attempts:
            raise AttemptFailed("made_up", "once", retryable=True, retry_after_s=100)
        return Result(line=b"{}", stats=RolloutStats(scores={}))

    monkeypatch.setattr(scheduler, "time", clock)
    monkeypatch.setattr("ng_rollouts.scheduling.retry.FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(asyncio, "timeout", skip)
    run_schedule(rollouts_of(plan_of([1])), fail_once, Sink(), slots=1, counters=RunCounters(planned=1))
    assert began == [3.0, 113.0]


@pytest.mark.parametrize("jump_s", [1e6, -1e6])
def test_jump_of_the_clock_gives_up_no_rollout(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """The budget of a rollout is measured by a clock that does not jump when the time of day is set."""
    recorded: list[int] = []

    async def fail_once(rollout: Rollout, attempts: int) -> Result:
        if not attempts:
            monkeypatch.setattr("ng_rollouts.scheduling.scheduler.time.time", lambda: 1e9 + jump_s)
            raise AttemptFailed("made_up", "once", retryable=True)
        recorded.append(rollout.position)
        return Result(line=b"{}", stats=RolloutStats(scores={}))

    monkeypatch.setattr("ng_rollouts.scheduling.scheduler.time.time", lambda: 1e9)
    monkeypatch.setattr("ng_rollouts.scheduling.retry.FIRST_WAIT_S", 0.0)
    policy = RetryPolicy(max_attempts=2, budget_s=100)
    run_schedule(rollouts_of(plan_of([1])), fail_once, Sink(), slots=1, policy=policy, counters=RunCounters(planned=1))
    assert recorded == [0]


def test_long_wait_of_one_rollout_does_not_delay_another() -> None:
    """Of several rollouts that wait, the one whose wait ends first is retried first."""
    recorded: list[int] = []

    async def run() -> None:
        stop = Stop(0)

        async def fail_once(rollout: Rollout, attempts: int) -> Result:
            if not attempts:
                raise AttemptFailed("made_up", "once", retryable=True, retry_after_s=100 * (rollout.position != 1))
            stop.requested.set()
            return Result(line=b"{}", stats=RolloutStats(scores={}))

        sink = Sink(record=lambda rollout, _: recorded.append(rollout.position))
        counters, rollouts = RunCounters(planned=3), rollouts_of(plan_of([3]))
        async with asyncio.timeout(30):
            await schedule(rollouts, fail_once, sink, limit=FixedLimit(3), policy=NO_WAIT, counters=counters, stop=stop)

    asyncio.run(run())
    assert recorded == [1]


class HangingAgent:
    """Keeps every attempt in flight until a test ends it. The first attempt fails at once and then waits for long."""

    def __init__(self) -> None:
        self.attempts: dict[int, asyncio.Future[None]] = {}
        self.cancelled: list[int] = []
        self.has_three = asyncio.Event()

    async def __call__(self, rollout: Rollout, _: int) -> Result:
        if rollout.position == 0:
            raise AttemptFailed("made_up", "once", retryable=True, retry_after_s=100)
        self.attempts[rollout.position] = asyncio.get_running_loop().create_future()
        if len(self.attempts) == 3:
            self.has_three.set()
        try:
            await self.attempts[rollout.position]
        except asyncio.CancelledError:
            self.cancelled.append(rollout.position)
            raise
        return Result(line=b"{}", stats=RolloutStats(scores={}))


@dataclass(kw_only=True)
class Stopped:
    """What is left of a run that was asked to stop with the rollouts 1, 2 and 3 in flight."""

    agent: HangingAgent
    counters: RunCounters
    recorded: list[int]
    given_up: list[int]


def stop_with_three_in_flight(drain_s: float, after: Callable[[HangingAgent, Stop], Awaitable[None]]) -> Stopped:
    """Ask a run with three slots and ten rollouts to stop, then do something; what the run has left at its end."""
    left = Stopped(agent=HangingAgent(), counters=RunCounters(planned=10), recorded=[], given_up=[])
    sink = Sink(
        record=lambda rollout, _: left.recorded.append(rollout.position),
        give_up=lambda failure: left.given_up.append(failure.rollout.position),
    )

    async def run() -> None:
        stop = Stop(drain_s)
        rollouts = rollouts_of(plan_of([10]))
        running = asyncio.create_task(
            schedule(rollouts, left.agent, sink, limit=FixedLimit(3), policy=NO_WAIT, counters=left.counters, stop=stop)
        )
        async with asyncio.timeout(30):
            await left.agent.has_three.wait()
            stop.requested.set()
            await turns()
            await after(left.agent, stop)
            await running

    asyncio.run(run())
    return left


def test_stop_waits_for_attempts_in_flight_and_starts_nothing() -> None:
    """After a stop request, attempts in flight end one by one, and none starts or begins to wait for its turn."""

    async def end_one_by_one(agent: HangingAgent, _: Stop) -> None:
        agent.attempts[1].set_result(None)
        await turns()
        agent.attempts[2].set_exception(AttemptFailed("made_up", "draining", retryable=True))
        await turns()
        agent.attempts[3].set_result(None)

    left = stop_with_three_in_flight(600, end_one_by_one)
    assert left.agent.attempts.keys() == {1, 2, 3}
    assert (left.recorded, left.given_up, left.agent.cancelled) == ([1, 3], [], [])
    assert (left.counters.attempts_done, left.counters.waiting, left.counters.in_flight) == (4, 1, 0)


@pytest.mark.parametrize("drain_s", [0, 600])
def test_stop_cancels_attempts_that_take_longer_than_the_drain(drain_s: float) -> None:
    """Attempts that are in flight at the end of the drain, or at a request to stop at once, have no outcome."""

    async def stop_at_once(_: HangingAgent, stop: Stop) -> None:
        if drain_s:
            stop.at_once.set()

    left = stop_with_three_in_flight(drain_s, stop_at_once)
    assert sorted(left.agent.cancelled) == [1, 2, 3]
    assert left.agent.attempts.keys() == {1, 2, 3}
    assert (left.recorded, left.given_up, left.counters.in_flight) == ([], [], 0)
