"""The time in which a command has to end, and chains of commands that share the work of a run."""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import time
from collections.abc import Callable
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.run.budget import WallTime
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.scheduling.scheduler import schedule
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Result, Rollout, RolloutKey, RolloutStats
from tests.conftest import RESUME, Ran, assert_rejected_before_sending, keys_of
from tests.servers import Served

SLURM_END = "SLURM_JOB_END_TIME"


class VirtualClock(selectors.SelectSelector):
    """A selector that does not wait: the time of its loop, and of `time.monotonic`, moves on at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        assert ready or timeout is not None, "nothing would ever happen"
        self.now += 0 if ready else timeout or 0
        return ready


@pytest.fixture
def virtual_run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Collect rollouts in virtual time until the wall time is over; the durations of those that were collected."""
    clock = VirtualClock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    loop = asyncio.SelectorEventLoop(clock)
    monkeypatch.setattr(loop, "time", lambda: clock.now)

    async def run(wall_s: float, parallel: int, duration: Callable[[], float]) -> list[float]:
        collected: list[float] = []
        counters, stop = RunCounters(planned=10**9), Stop(10.0)
        wall = WallTime.of(wall_s, None, clock.now)

        class Sink:
            def record(self, _: Rollout, result: Result) -> None:
                collected.append(float(result.line))

            give_up = None

        async def attempt(_: Rollout, __: int) -> Result:
            await asyncio.sleep(seconds := duration())
            return Result(line=str(seconds).encode(), stats=RolloutStats(scores={}))

        rollouts = (Rollout(n, RolloutKey(n, 0), "a", "", {}) for n in count())
        may_start = takewhile(lambda _: wall.allows(counters), rollouts)
        with wall.enforced(stop, counters):
            await schedule(
                may_start,
                attempt,
                Sink(),  # type: ignore[arg-type]
                limit=FixedLimit(parallel),
                policy=RetryPolicy(),
                counters=counters,
                stop=stop,
            )
        assert wall.is_over
        assert clock.now <= wall_s
        return collected

    def until_the_end(*arguments: Any) -> list[float]:
        try:
            return loop.run_until_complete(run(*arguments))
        finally:
            loop.close()

    return until_the_end


@pytest.mark.parametrize("sigma", [0.2, 0.8, 1.2])
def test_at_most_a_twentieth_of_the_wall_time_is_idle_or_wasted(
    virtual_run: Callable[..., list[float]], sigma: float
) -> None:
    """Over two hours, rollouts of a minute that are collected take 95 % of the time of all slots."""
    draw = random.Random(7)
    collected = virtual_run(7200.0, 32, lambda: 60 * draw.lognormvariate(-(sigma**2) / 2, sigma))
    assert sum(collected) / (7200.0 * 32) >= 0.95


def test_chain_of_commands_collects_every_rollout_and_repeats_only_what_was_in_flight(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """With `stop_ok`, each command ends with 0 and a resume goes on; only cancelled rollouts are asked for again."""
    server = serve_model(latency=0.05)
    run = ["+verifier=exact_match", "+num_samples_in_parallel=2", "+max_wall_s=0.8", "+wall_margin_s=0", RESUME]
    commands, remaining = 0, 60
    while remaining:
        commands += 1
        ran = collect_sums(server.url, *run, "+stop_ok=true", rows=60)
        assert ran.code == 0, ran.stderr
        before, remaining = remaining, json.loads((tmp_path / "rollouts_summary.json").read_bytes())["not_done"]
        assert remaining < before or commands < 50
        assert ("the time is over (max_wall_s=0.8)" in ran.stderr) == ("to resume: " in ran.stderr) == bool(remaining)
    assert commands > 1
    assert keys_of(tmp_path / "rollouts.jsonl") == [(task, 0) for task in range(60)]
    assert server.stats()["asked"]["/v1/responses"] <= 60 + 2 * commands


def test_rollouts_in_flight_at_the_end_are_cancelled(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """Without `stop_ok`, the exit code is 3; the command does not wait for the model."""
    ran = collect_sums(serve_model(latency=300).url, "+verifier=none", "+max_wall_s=1", "+wall_margin_s=0.2")
    assert ran.code == 3, ran.stderr
    assert "the time is over (max_wall_s=1): 5 rollouts in flight are cancelled" in ran.stderr
    assert json.loads((tmp_path / "rollouts_summary.json").read_bytes())["exit_code"] == 3


@pytest.mark.parametrize(("stop_ok", "code"), [("false", 3), ("true", 0)])
def test_command_in_whose_time_no_rollout_ended_says_so(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], stop_ok: str, code: int
) -> None:
    """A rollout that takes longer than each command of a chain is never collected: only more time helps."""
    server, times = serve_model(latency=300), ["+max_wall_s=1", "+wall_margin_s=0.2", f"+stop_ok={stop_ok}", RESUME]
    for _ in range(2):
        ran = collect_sums(server.url, "+verifier=none", *times)
        assert ran.code == code, ran.stderr
        last = ran.stderr.splitlines()[-1]
        assert "5 rollouts remain: none ended in this time, so give more (the oldest was cancelled after 0." in last
    assert "collects the rest" not in ran.stderr


def test_command_that_collected_something_names_what_remains() -> None:
    """The number of remaining rollouts agrees with its noun and verb."""
    wall, counters = WallTime(limit="max_wall_s=2"), RunCounters(planned=3, collected=2)
    assert wall.describe_end(counters) == (
        "the time is over (max_wall_s=2) and 1 rollout remains: +resume_from_cache=true collects the rest"
    )
    counters.planned = 4
    assert "2 rollouts remain:" in wall.describe_end(counters)


@pytest.mark.parametrize(("wall_s", "margin_s"), [(0.5, 0.25), (2.0, 1.0), (10.0, 1.0), (500.0, 5.0), (1e5, 60.0)])
def test_default_margin_leaves_half_of_a_short_time(wall_s: float, margin_s: float) -> None:
    """The margin is 1 % of the time, 1 to 60 seconds, and never more than half of the time."""
    assert WallTime.of(wall_s, None, 0.0).margin_s == pytest.approx(margin_s)


@pytest.mark.parametrize("margin_s", ["10", "11"])
def test_margin_that_leaves_no_time_is_refused(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path, margin_s: str
) -> None:
    """A margin as long as the time would collect nothing: one line, exit code 2, and the old output stays."""
    server, output = serve_model(), tmp_path / "rollouts.jsonl"
    output.write_text("{}\n")
    ran = collect_sums(server.url, "+verifier=none", "+max_wall_s=10", f"+wall_margin_s={margin_s}")
    assert_rejected_before_sending(ran, server, f"wall_margin_s={margin_s} leaves no time for rollouts")
    assert ran.stderr.count("\n") == 1
    assert output.read_text() == "{}\n"


@pytest.mark.parametrize(("stop_ok", "code"), [("false", 3), ("true", 0)])
def test_wait_for_servers_is_part_of_the_time(
    collect_sums: Callable[..., Ran], tmp_path: Path, stop_ok: str, code: int
) -> None:
    """A command whose server never answers ends as one whose time is over, and leaves no output."""
    times = ["+max_wall_s=1", "+wall_margin_s=0", "+wait_for_agent_s=300", f"+stop_ok={stop_ok}"]
    ran = collect_sums("http://127.0.0.1:9", "+verifier=none", "+policy_model_name=m", *times)
    assert ran.code == code, ran.stderr
    assert "the time is over (max_wall_s=1) before the servers of this run answered" in ran.stderr
    assert not (tmp_path / "rollouts.jsonl").exists()


def test_run_that_is_complete_in_time_is_not_affected(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]
) -> None:
    """A limit that is not reached changes nothing."""
    ran = collect_sums(serve_model().url, "+verifier=none", "+max_wall_s=1000")
    assert (ran.code, "the time is over" in ran.stderr) == (0, False)


def test_slurm_job_ends_its_command_in_time(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the job is a limit without any parameter."""
    monkeypatch.setenv(SLURM_END, str(time.time() + 3))
    ran = collect_sums(serve_model(latency=300).url, "+verifier=none")
    assert ran.code == 3, ran.stderr
    assert "the time is over (the end of the Slurm job)" in ran.stderr


def test_earlier_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `max_wall_s` and the job's end, the earlier one; a variable of a job that has ended does not count."""
    began = time.monotonic()
    monkeypatch.setenv(SLURM_END, str(time.time() + 1000))
    assert WallTime.of(2000.0, 0.0, began).limit == "the end of the Slurm job"
    assert WallTime.of(500.0, 0.0, began).limit == "max_wall_s=500"
    for value in (str(time.time() - 5), "", "inf", "unknown"):
        monkeypatch.setenv(SLURM_END, value)
        assert WallTime.of(None, None, began).ends_at is None
