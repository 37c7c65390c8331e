"""`retry failed` of `ng_control_rollouts` over runs of the real command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import RESUME, Ran, ended, read_rows, wait_until
from tests.control.conftest import Control, status_of, summary_in


def metrics_in(folder: Path) -> Any:
    """Metrics and health of the run, without what depends on its speed."""
    metrics = [
        json.loads((folder / f"r_{name}.json").read_bytes()) for name in ("aggregate_metrics", "quality_summary")
    ]
    return without_speed(metrics)


def without_speed(value: Any) -> Any:
    """A JSON value without latencies and throughput."""
    if isinstance(value, dict):
        return {name: without_speed(each) for name, each in value.items() if not name.endswith(("_per_s", "latency_s"))}
    return [without_speed(each) for each in value] if isinstance(value, list) else value


def test_failed_rollouts_that_succeed_when_they_are_retried_are_no_failures(
    started: Callable[..., Any], control: Control, command: Callable[..., Ran], tmp_path: Path
) -> None:
    """After `retry failed`, files and metrics are those of a run in which these rollouts succeeded at once."""
    process, server = started(
        "+max_attempts=1", "+num_repeats=4", count=50, faults={"failure_class": 0.25}, fault_seed=3, delay=[0.02, 0.02]
    )
    wait_until(lambda: status_of(control)["failed"] >= 3)
    assert control("r.jsonl", "pause").code == 0
    assert control("r.jsonl", "show", "49:3").code == 2
    wait_until(lambda: status_of(control)["in_flight"] == 0)
    failed = status_of(control)["failed"]
    assert control("r.jsonl", "retry", "failed").stdout == f"{failed} failed rollouts will be attempted again\n"
    assert control("r.jsonl", "retry", "failed").stdout == "0 failed rollouts will be attempted again\n"
    assert control("r.jsonl", "resume").code == 0
    ran = ended(process)
    summary = summary_in(tmp_path)
    failures = read_rows(tmp_path / "r_failures.jsonl") if (tmp_path / "r_failures.jsonl").exists() else []
    assert summary["failed"] == len(failures) == sum(summary["failed_by_class"].values()), ran.stderr
    assert summary["collected"] + summary["failed"] == 200
    files = [
        f"+agent_url={server.url}",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_repeats=4",
    ]
    assert any(asked > 1 for asked in server.stats()["asked"].values())
    before = metrics_in(tmp_path)
    # A resume that attempts nothing makes the metrics from the rows.
    command(*files, RESUME, "+retry_failed=false", "+max_attempts=1")
    assert metrics_in(tmp_path) == before


def paused_with_failures(started: Callable[..., Any], control: Control) -> Any:
    """Start a run, and pause it when some rollouts have failed and none is in flight; its process."""
    process, _ = started(
        "+max_attempts=1", "+num_repeats=4", count=50, faults={"failure_class": 0.25}, fault_seed=3, delay=[0.02, 0.02]
    )
    wait_until(lambda: status_of(control)["failed"] >= 3)
    assert control("r.jsonl", "pause").code == 0
    wait_until(lambda: status_of(control)["in_flight"] == 0)
    return process


def test_failed_rollouts_do_not_count_as_failed_while_they_are_retried(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """A run that is drained before they have another outcome ends as interrupted, and a resume attempts them."""
    process = paused_with_failures(started, control)
    assert control("r.jsonl", "retry", "failed").code == 0
    assert status_of(control)["failed"] == 0
    assert control("r.jsonl", "drain").code == 0
    ran = ended(process)
    assert ran.code == 130, ran.stderr
    summary = summary_in(tmp_path)
    assert (summary["failed"], summary["failed_by_class"]) == (0, {})
    assert summary["collected"] + summary["not_done"] == 200


def test_failed_rollouts_whose_row_is_gone_stay_failed(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """Without the input file, `retry failed` attempts nothing: the run warns, and loses neither results nor failures."""
    process, server = started(
        "+max_attempts=1", "+max_failed_rollouts=20", "+num_samples_in_parallel=20", count=20,
        faults={"failure_class": 0.4}, fault_seed=3, delay=[0.5, 6],
    )  # fmt: skip
    wait_until(lambda: server.stats()["total"] == 20 and status_of(control)["failed"] >= 1)
    (tmp_path / "tasks.jsonl").rename(tmp_path / "moved.jsonl")
    assert "will be attempted again" in control("r.jsonl", "retry", "failed").stdout
    ran = ended(process)
    assert ran.code == 0, ran.stderr
    assert "cannot be attempted again: " in ran.stderr
    summary, failed = summary_in(tmp_path), read_rows(tmp_path / "r_failures.jsonl")
    assert summary["failed"] == len(failed) >= 1
    assert summary["collected"] == len(read_rows(tmp_path / "r.jsonl")) == 20 - len(failed)


def test_retry_is_refused_when_nothing_may_start(started: Callable[..., Any], control: Control) -> None:
    """After the time for starts, `retry failed` says that this run starts no more rollouts."""
    process, _ = started(
        "+max_attempts=1", "+dispatch_budget_s=0.5", "+drain_margin_s=0", "+num_samples_in_parallel=20", "+drain_s=0",
        count=20, faults={"500": 0.3}, fault_seed=3, delay=[0.7, 60],
    )  # fmt: skip
    wait_until(lambda: status_of(control)["failed"] >= 1)
    ran = control("r.jsonl", "retry", "failed")
    assert (ran.code, "this run starts no more rollouts" in ran.stderr) == (2, True)
    assert control("r.jsonl", "drain").code == 0
    ended(process)


def test_failures_that_are_not_retried_after_all_count_as_failed(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """If the budget is spent before they start, the run fails as it would have without `retry failed`."""
    process = paused_with_failures(started, control)
    failed = status_of(control)["failed"]
    assert control("r.jsonl", "retry", "failed").code == 0
    assert control("r.jsonl", "set", "max_total_tokens=1").code == 0
    assert control("r.jsonl", "resume").code == 0
    ran = ended(process)
    assert ran.code == 1, ran.stderr
    assert summary_in(tmp_path)["failed"] == failed == len(read_rows(tmp_path / "r_failures.jsonl"))


def test_failures_of_cancelled_tasks_are_not_retried(
    started: Callable[..., Any], control: Control, tmp_path: Path
) -> None:
    """`retry failed` leaves the failure of a task that was cancelled after it as it is."""
    process, _ = started(
        "+max_attempts=1", "+max_failed_rollouts=20", "+num_samples_in_parallel=20", count=20,
        faults={"failure_class": 0.4}, fault_seed=3, delay=[0.5, 6],
    )  # fmt: skip
    wait_until(lambda: status_of(control)["failed"] >= 1)
    assert control("r.jsonl", "pause").code == 0
    for task in range(20):
        assert control("r.jsonl", "cancel", str(task)).code == 0
    assert control("r.jsonl", "retry", "failed").stdout == "0 failed rollouts will be attempted again\n"
    assert control("r.jsonl", "resume").code == 0
    ended(process)
    assert {row["num_attempts"] for row in read_rows(tmp_path / "r_failures.jsonl")} == {1}
