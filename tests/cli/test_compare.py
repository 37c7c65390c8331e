"""`ng_compare_rollouts`: outputs over the same tasks are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran
from tests.rollout_files import write_rewards

REWARDS = {(task, index): float(task % 3 > 1) for task in range(30) for index in range(2)}
BETTER_REWARDS = {(task, index): float(task % 3 > 0) for task, index in REWARDS}
"""Every third task is wrong in `REWARDS`, and right here."""


def test_comparison_reports_wins_flips_and_p_value(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A comparison counts wins, losses and ties, and lists the tasks that became right."""
    write_rewards(tmp_path / "a.jsonl", REWARDS)
    write_rewards(tmp_path / "b.jsonl", BETTER_REWARDS)
    ran = command("+rollouts_jsonl_fpaths=a.jsonl,b.jsonl", script="ng_compare_rollouts")
    assert ran.code == 0, ran.stderr
    (comparison,) = json.loads(ran.stdout[ran.stdout.index("[\n") :])
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (10, 0, 20)
    assert comparison["difference"] == pytest.approx(1 / 3)
    assert comparison["p"] < 0.01
    assert comparison["flipped_to_right"] == [task for task in range(30) if task % 3 == 1]


def test_comparison_of_different_tasks_needs_intersection(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Files over different tasks are refused unless `intersection=true` restricts the comparison to common tasks."""
    write_rewards(tmp_path / "a.jsonl", REWARDS)
    write_rewards(tmp_path / "c.jsonl", {key: value for key, value in BETTER_REWARDS.items() if key[0] < 20})
    refused = command("+rollouts_jsonl_fpaths=a.jsonl,c.jsonl", script="ng_compare_rollouts")
    assert refused.code == 2
    assert "intersection=true" in refused.stderr
    missing = command("+rollouts_jsonl_fpaths=a.jsonl,b.jsonl", script="ng_compare_rollouts")
    assert "rollouts_jsonl_fpaths b.jsonl cannot be read: No such file" in missing.stderr
    files = "+rollouts_jsonl_fpaths=a.jsonl,c.jsonl"
    assert command(files, "+intersection=true", script="ng_compare_rollouts").code == 0


def test_equal_task_indices_with_other_questions_are_not_common_tasks(
    command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Tasks are the same only if their questions are equal, not if only their indices are."""
    write_rewards(tmp_path / "a.jsonl", REWARDS)
    write_rewards(tmp_path / "d.jsonl", BETTER_REWARDS, question="other")
    ran = command("+rollouts_jsonl_fpaths=a.jsonl,d.jsonl", script="ng_compare_rollouts")
    assert "no task in common" in ran.stderr


def test_result_of_an_earlier_comparison_is_replaced_and_another_file_is_renamed(
    command: Callable[..., Ran], tmp_path: Path
) -> None:
    """A comparison can be repeated into the same file; a file of other content gets a number first."""
    write_rewards(tmp_path / "a.jsonl", REWARDS)
    write_rewards(tmp_path / "b.jsonl", BETTER_REWARDS)
    (tmp_path / "c.json").write_text('{"precious": 1}')
    for _ in range(2):
        arguments = ["+rollouts_jsonl_fpaths=a.jsonl,b.jsonl", "+output_json_fpath=c.json"]
        assert command(*arguments, script="ng_compare_rollouts").code == 0
    assert json.loads((tmp_path / "c.json").read_text())[0]["wins"] == 10
    assert sorted(path.name for path in tmp_path.glob("c.json*")) == ["c.json", "c.json.1"]
    assert (tmp_path / "c.json.1").read_text() == '{"precious": 1}'
