"""The scheduler attempts every rollout in order, within its limits, and stops when a result cannot be written."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed, StorageError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.open_journal import open_new
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import MIN_WAITING, Call, schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Failure, Result, Rollout, RolloutKey, RolloutStats

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
        plan.add(Task(row={}, agent="a", index=None, repeats=count))
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


@settings(deadline=None)
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
        finished = journal.finish(plan.complete(journal.has))
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


def test_retry_releases_its_slot_and_mixes_with_fresh_rollouts() -> None:
    """A rollout that waits for a retry releases its slot, and is retried before all fresh rollouts are done."""
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
        policy=RetryPolicy(max_attempts=2, jitter=lambda: 0.01),
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
        return Result(line=b"", stats=RolloutStats(scores={}))

    counters = RunCounters(planned=total)
    run_schedule(rollouts(), measure, Sink(), slots=slots, counters=counters)
    assert counters.attempts_done == total
    assert most["rows"] <= slots + 2
    assert most["tasks"] <= slots + 4
