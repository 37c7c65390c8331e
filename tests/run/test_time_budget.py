"""The time in which rollouts may start, and what a run does when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.run.budget import TimeBudget
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.types import RolloutKey
from tests.conftest import FILES, RESUME, Ran, read_rows
from tests.servers import Served


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the time that `time.monotonic` returns."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def set_to(seconds: float) -> None:
        now[0] = seconds

    return set_to


def counters_of(seconds: list[float]) -> RunCounters:
    """Counters after attempts with these durations."""
    counters = RunCounters(planned=100)
    for number, duration in enumerate(seconds):
        counters.begin_attempt(RolloutKey(number, 0))
        counters.end_attempt(RolloutKey(number, 0), "a", duration)
    return counters


def test_time_begins_with_the_first_rollout(clock: Callable[[float], None]) -> None:
    """What happens before the first rollout, such as a wait for servers, does not use up the time."""
    budget, counters = TimeBudget(10.0, 0.0), counters_of([])
    clock(100.0)
    assert budget.allows(counters)
    clock(109.9)
    assert budget.allows(counters)
    clock(110.0)
    assert not budget.allows(counters)


def test_no_rollout_starts_that_would_not_finish(clock: Callable[[float], None]) -> None:
    """Without a margin, the 75th percentile of at least five durations has to be left."""
    for durations, is_allowed in (([4.0] * 4, True), ([4.0] * 5, False), ([1.0] * 8 + [9.0], True)):
        clock(0.0)
        budget = TimeBudget(10.0, None)
        assert budget.allows(counters_of([]))
        clock(7.0)
        assert budget.allows(counters_of(durations)) is is_allowed


def test_without_a_limit_every_rollout_may_start(clock: Callable[[float], None]) -> None:
    """No budget is no limit."""
    budget = TimeBudget(None, None)
    clock(1e9)
    assert budget.allows(counters_of([1e6] * 9))


def test_run_whose_time_is_over_ends_regularly_and_can_be_resumed(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing is sent without time: exit code 0, or 1 with `require_complete`; a resume collects the rest."""
    server = serve()
    tasks(3)
    run = [*FILES, f"+agent_url={server.url}"]
    ran = command(*run, "+dispatch_budget_s=0")
    assert (ran.code, server.stats()["total"]) == (0, 0), ran.stderr
    assert "the time dispatch_budget_s=0 is over" in ran.stderr
    assert command(*run, RESUME, "+dispatch_budget_s=0", "+require_complete=true").code == 1
    assert command(*run, RESUME).code == 0
    assert len(read_rows(tmp_path / "r.jsonl")) == 3


def test_repeats_are_interleaved_on_the_wire_and_ordered_in_the_output(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """With `interleave_repeats`, the first rollouts of all tasks are sent first; the output is in aabbcc order."""
    server = serve()
    tasks(3)
    run = [*FILES, f"+agent_url={server.url}", "+num_repeats=2", "+interleave_repeats=true"]
    assert command(*run, "+num_samples_in_parallel=1").code == 0
    sent = [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in server.stats()["last"]]
    assert sent == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    kept = [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in read_rows(tmp_path / "r.jsonl")]
    assert kept == sorted(sent)
