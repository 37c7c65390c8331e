"""A run collects every rollout that can be collected, and accounts for all others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FILES, RESUME, SCRIPTS, Ran, assert_complete, keys_of, read_rows
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]

FAULTS = {
    "500": 0.02, "503": 0.02, "400": 0.02, "retry_after_0": 0.02, "reset": 0.02, "half": 0.02, "malformed": 0.02,
    "not_object": 0.02, "nan": 0.02, "no_reward": 0.02, "failure_class": 0.01, "terminal": 0.0,
}  # fmt: skip
"""Shares of the replies of a test server that go wrong, one for each way."""


def test_every_rollout_is_in_one_file_after_mixed_faults(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """With every kind of fault, each rollout is in exactly one of output, incomplete file and failures file.

    A resume with a healthy server requests only the failed rollouts and completes the output.
    """
    tasks(625)
    server = serve(faults=FAULTS, sticky=True, delay=[0, 0.01])
    run = [*FILES, "+num_repeats=4", "+num_samples_in_parallel=32", "+max_attempts=2", "+retry_budget_s=2"]
    ran = command(*run, f"+agent_url={server.url}")
    assert ran.code == 1, ran.stderr
    files = [tmp_path / name for name in ("r.jsonl", "r_incomplete.jsonl", "r_failures.jsonl")]
    complete, set_aside, failed = map(keys_of, files)
    assert sorted([*complete, *set_aside, *failed]) == [(task, rollout) for task in range(625) for rollout in range(4)]
    assert len(failed) > 300
    incomplete = {task for task, _ in failed}
    assert complete == [(task, rollout) for task in range(625) if task not in incomplete for rollout in range(4)]
    assert set_aside == sorted(set_aside)
    assert {row["failure_class"] for row in read_rows(files[2])} == {
        "http_500", "http_503", "http_400", "http_429", "connection_lost", "truncated", "not_json", "not_object",
        "not_finite", "no_reward", "sandbox_crashed",
    }  # fmt: skip
    collected = len(complete) + len(set_aside)
    assert f"collected {collected} of 2500 planned rollouts, failed {len(failed)}" in ran.stderr
    healthy = serve()
    ran = command(*run, f"+agent_url={healthy.url}", RESUME)
    assert ran.code == 0, ran.stderr
    assert_complete(tmp_path, 625, 4)
    assert healthy.stats()["total"] == len(failed)
    rewards = [row["reward"] for row in read_rows(files[0])]
    assert ran.averages["reward"] == pytest.approx(sum(rewards) / 2500, abs=1e-12)


def test_unusable_reply_fails_only_its_own_rollout(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A reply with unexpected types, deep nesting or a huge message fails at most its own rollout.

    The message in the failures file has a bounded length.
    """
    tasks(60)
    faults = ("null_params", "odd_params", "deep", "deeper", "long_error")
    server = serve(faults=dict.fromkeys(faults, 0.12), sticky=True)
    ran = command(*FILES, f"+agent_url={server.url}", "+max_attempts=1")
    assert ran.code == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    failures = read_rows(tmp_path / "r_failures.jsonl")
    assert len(keys_of(tmp_path / "r.jsonl")) + len(failures) == 60
    assert {row["failure_class"] for row in failures} >= {"crash"}
    assert all(len(row["message"]) <= 2000 for row in failures)


def test_closed_stdout_does_not_stop_a_run(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """If the reader of stdout exits, the averages are not printed, and the run completes with a warning."""
    tasks(50)
    url = serve(delay=[0.01, 0.02]).url
    line = f"{SCRIPTS}/ng_collect_rollouts {' '.join(FILES)} +agent_url={url} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "stdout cannot be written (Broken pipe)" in done.stderr
    assert_complete(tmp_path, 50)
