"""The loop and the journal together: order, wholeness, bounds."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.errors import MAX_RETRY_AFTER_S, AttemptFailed, OutputError, StorageError
from ng_rollouts.http.retry_after import retry_after_s
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.jsonl import dumps
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.open_journal import open_new
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import MIN_WAITING, schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Failure, Result, Rollout, RolloutKey, RolloutStats

NO_WAIT = RetryPolicy(max_attempts=3, jitter=lambda: 0.0)


@dataclass(kw_only=True)
class Sink:
    """A result sink of two functions."""

    record: Callable[[Rollout, Result], None]
    give_up: Callable[[Failure], None]


def planned(repeats: list[int]) -> Plan:
    plan = Plan()
    for count in repeats:
        plan.add(Task(row={}, agent="a", index=None, repeats=count))
    return plan


def rollouts_of(plan: Plan) -> Iterator[Rollout]:
    for position, key in enumerate(plan.rollout_keys()):
        yield Rollout(position=position, key=key, agent="a", prompt_id="", row={})


def keys_in(path: Path) -> list[RolloutKey]:
    rows = path.read_text().splitlines() if path.exists() else []
    return [RolloutKey(*json.loads(row)["key"]) for row in rows]


class Fake:
    """Answers after a few turns of the loop; chosen rollouts fail a number of times."""

    def __init__(self, failing: dict[int, int], seed: int = 0) -> None:
        self.failing = failing
        self.random = random.Random(seed)
        self.in_flight = self.most_in_flight = 0
        self.taken_up: list[int] = []

    async def __call__(self, rollout: Rollout, _: int) -> Result:
        if rollout.position not in self.taken_up:
            self.taken_up.append(rollout.position)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)
        self.in_flight -= 1
        if self.failing.get(rollout.position, 0) > 0:
            self.failing[rollout.position] -= 1
            raise AttemptFailed("made_up", "as asked", retryable=True)
        return Result(line=dumps({"key": rollout.key}), stats=RolloutStats(scores={}))


def run(plan: Plan, call: Fake, journal: Journal, parallel: int) -> list[Failure]:
    failures: list[Failure] = []
    counters = RunCounters(planned=plan.rollouts)

    def record(rollout: Rollout, result: Result) -> None:
        journal.append(rollout.position, result.line)
        counters.collected += 1

    def give_up(failure: Failure) -> None:
        failures.append(failure)
        counters.failed += 1

    outlet = Sink(record=record, give_up=give_up)
    asyncio.run(
        schedule(
            rollouts_of(plan), call, outlet, limit=FixedLimit(parallel), policy=NO_WAIT, counters=counters, stop=Stop(0)
        )
    )
    assert counters.settled == plan.rollouts
    assert counters.in_flight == counters.waiting == 0
    return failures


@settings(deadline=None)
@given(
    repeats=st.lists(st.integers(1, 4), min_size=1, max_size=10),
    parallel=st.integers(1, 9),
    failing=st.dictionaries(st.integers(0, 30), st.integers(1, 4)),
    seed=st.integers(0, 1000),
)
def test_the_finished_file_is_aabbcc_and_whole(
    repeats: list[int], parallel: int, failing: dict[int, int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any repeats, parallelism, order of completion and failures: finished order, whole groups, nothing lost."""
    plan, call = planned(repeats), Fake(dict(failing), seed)
    paths = OutputPaths(tmp_path_factory.mktemp("o") / "out.jsonl")
    with open_new(paths, plan.rollouts, overwrite=False) as journal:
        failures = run(plan, call, journal, parallel)
        finished = journal.finish(plan.complete(journal.has))
    keys = list(plan.rollout_keys())
    failed = {keys[position] for position, times in failing.items() if times >= 3 and position < len(keys)}
    missing = {key.task_index for key in failed}
    assert keys_in(paths.output) == [key for key in keys if key.task_index not in missing]
    assert keys_in(paths.incomplete) == [key for key in keys if key.task_index in missing and key not in failed]
    assert {failure.rollout.key for failure in failures} == failed
    assert (finished.kept, finished.set_aside) == (len(keys_in(paths.output)), len(keys_in(paths.incomplete)))
    assert call.most_in_flight <= parallel
    assert call.taken_up == sorted(call.taken_up)
    assert sorted(path.name for path in paths.output.parent.iterdir()) == sorted(
        ["out.jsonl", *(["out_incomplete.jsonl"] if finished.set_aside else [])]
    )


def test_retries_mix_with_fresh_rollouts(tmp_path: Path) -> None:
    """A rollout that waits gives its slot back, and does not wait for the end of the run."""
    order: list[int] = []

    async def call(rollout: Rollout, _: int) -> Result:
        order.append(rollout.position)
        await asyncio.sleep(0.002)
        if rollout.position == 0 and order.count(0) == 1:
            raise AttemptFailed("made_up", "once", retryable=True)
        return Result(line=b"{}", stats=RolloutStats(scores={}))

    plan = planned([50])
    policy = RetryPolicy(max_attempts=2, jitter=lambda: 0.01)
    outlet = Sink(record=lambda *_: None, give_up=lambda _: None)
    asyncio.run(
        schedule(
            rollouts_of(plan),
            call,
            outlet,
            limit=FixedLimit(1),
            policy=policy,
            counters=RunCounters(planned=50),
            stop=Stop(0),
        )
    )
    again = order.index(0, 1)
    assert 1 < again < 40


def test_waiting_work_is_bounded() -> None:
    """When everything fails, few rollouts wait, however many are planned."""
    counters, most = RunCounters(planned=500), 0

    async def call(rollout: Rollout, _: int) -> Result:
        nonlocal most
        most = max(most, counters.waiting)
        raise AttemptFailed("made_up", "always", retryable=True)

    policy = RetryPolicy(max_attempts=2, jitter=lambda: 0.001)
    given_up: list[Failure] = []
    outlet = Sink(record=lambda *_: None, give_up=given_up.append)
    plan = planned([500])
    asyncio.run(
        schedule(rollouts_of(plan), call, outlet, limit=FixedLimit(5), policy=policy, counters=counters, stop=Stop(0))
    )
    assert len(given_up) == 500
    assert 5 < most <= MIN_WAITING + 5


def test_an_outlet_that_fails_ends_the_run() -> None:
    """A result that cannot be written stops everything, with the reason."""

    def full(*_: object) -> None:
        raise StorageError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        asyncio.run(
            schedule(
                rollouts_of(planned([100])),
                Fake({}),
                Sink(record=full, give_up=full),
                limit=FixedLimit(10),
                policy=NO_WAIT,
                counters=RunCounters(planned=100),
                stop=Stop(0),
            )
        )


def test_a_row_that_cannot_be_written_whole_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves whole lines only."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with open_new(paths, 3, overwrite=False) as journal:
        journal.append(0, b'{"whole":1}')

        def half(fd: int, data: memoryview) -> int:
            if len(data) < 9:
                raise OSError(28, "No space left on device")
            return real(fd, data[: len(data) // 2])

        real = os.write
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(StorageError, match=r"out.jsonl cannot be written: No space left on device"):
            journal.append(1, b'{"torn":1}')
    assert paths.output.read_bytes() == b'{"whole":1}\n'


def test_an_output_has_one_writer(tmp_path: Path) -> None:
    """A second run on the same output is told who has it."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    with (
        open_new(paths, 1, overwrite=False),
        pytest.raises(OutputError, match=r"is being written by (another )?process"),
    ):
        open_new(paths, 1, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_existing_output_is_moved_aside_unless_told_otherwise(tmp_path: Path, overwrite: bool) -> None:  # noqa: FBT001
    """With its side files, to the first number that is free for all of them."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.output.write_text("old\n")
    paths.failures.write_text("old failures\n")
    (tmp_path / "out_failures.jsonl.1").write_text("older\n")
    with open_new(paths, 1, overwrite=overwrite) as journal:
        assert journal.backup == (None if overwrite else tmp_path / "out.jsonl.2")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir() if path.stat().st_size}
    older = {"out_failures.jsonl.1": "older\n"}
    moved = {"out.jsonl.2": "old\n", "out_failures.jsonl.2": "old failures\n"}
    assert kept == (older if overwrite else older | moved)


@pytest.mark.parametrize(
    ("sizes", "order"), [([10, 70_000, 20_000_000], [2, 0, 1]), ([65_535, 65_536, 65_537], [1, 2, 0])]
)
def test_rows_of_any_size_are_put_in_order(tmp_path: Path, sizes: list[int], order: list[int]) -> None:
    """Rows longer than a read come through whole."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    rows = [bytes([65 + place]) * size for place, size in enumerate(sizes)]
    with open_new(paths, 3, overwrite=False) as journal:
        for position in order:
            journal.append(position, rows[position])
        journal.finish([True] * 3)
    assert paths.output.read_bytes() == b"".join(row + b"\n" for row in rows)


@given(
    attempts=st.integers(1, 40),
    jitter=st.floats(0, 0.999),
    asked=st.none() | st.floats(0, 1e6),
    most=st.integers(1, 50),
)
def test_waits_are_bounded(attempts: int, jitter: float, asked: float | None, most: int) -> None:
    """No wait is shorter than the server asked for, up to a bound, nor longer than both bounds together."""
    policy = RetryPolicy(max_attempts=most, jitter=lambda: jitter)
    wait = policy.wait_s(AttemptFailed("x", "", retryable=True, retry_after_s=asked), attempts)
    if attempts >= most:
        assert wait is None
    else:
        assert wait is not None
        assert min(asked or 0, MAX_RETRY_AFTER_S) <= wait <= MAX_RETRY_AFTER_S + 30
    assert policy.wait_s(AttemptFailed("x", ""), 1) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 3 ", 3),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", None),
        (None, None),
        ("-1", None),
    ],
)
def test_retry_after_has_two_forms(header: str | None, seconds: float | None) -> None:
    """Seconds, or an HTTP date."""
    assert retry_after_s(header, now=40) == seconds


def test_nothing_is_held_beyond_what_is_in_flight() -> None:
    """Neither tasks nor rows: at no moment are more alive than slots, however many rollouts there are."""
    slots, total = 8, 2000
    held = 0
    most = {"rows": 0, "tasks": 0}

    class Row(dict[str, Any]):
        def __init__(self) -> None:
            nonlocal held
            held += 1

        def __del__(self) -> None:
            nonlocal held
            held -= 1

    def rollouts() -> Iterator[Rollout]:
        for position in range(total):
            yield Rollout(position=position, key=RolloutKey(position, 0), agent="a", prompt_id="", row=Row())

    async def call(rollout: Rollout, _: int) -> Result:
        await asyncio.sleep(0)
        most["tasks"] = max(most["tasks"], len(asyncio.all_tasks()))
        most["rows"] = max(most["rows"], held)
        return Result(line=b"", stats=RolloutStats(scores={}))

    counters = RunCounters(planned=total)
    outlet = Sink(record=lambda _, __: None, give_up=lambda _: None)
    asyncio.run(
        schedule(rollouts(), call, outlet, limit=FixedLimit(slots), policy=NO_WAIT, counters=counters, stop=Stop(1))
    )
    assert counters.attempts_done == total
    assert most["rows"] <= slots + 2
    assert most["tasks"] <= slots + 4


def test_journal_stays_locked_while_the_finished_file_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other process can lock the output between the release of the old lock and the rename of the new file."""
    paths = OutputPaths(tmp_path / "r.jsonl")
    refused: list[bool] = []
    replace = Path.replace

    def replace_and_try_to_lock(self: Path, target: Path) -> Path:
        with pytest.raises(OutputError, match="is being written by"):
            open_new(paths, 2, overwrite=False)
        refused.append(True)
        return replace(self, target)

    with open_new(paths, 2, overwrite=False) as journal:
        journal.append(1, b'{"row": 1}')
        journal.append(0, b'{"row": 0}')
        monkeypatch.setattr(Path, "replace", replace_and_try_to_lock)
        journal.finish([True, True])
    assert refused
    assert paths.output.read_bytes() == b'{"row": 0}\n{"row": 1}\n'
