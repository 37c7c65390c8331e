"""`ng_reward_profile`: statistics of every task, and its error messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SHARED_DATA, Ran, read_rows
from tests.rollout_files import write_rewards


def test_profile_counts_missing_rollouts_and_distinct_answers(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Missing rollouts end with exit code 1 unless they are allowed, and the table begins with the hardest task.

    Distinct answers are counted within each task: exactly, and again without regard to case and white space.
    """
    rewards = {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 0.0, (1, 1): 0.0, (2, 0): 1.0}
    write_rewards(tmp_path / "r.jsonl", rewards)
    ran = command("+rollouts_jsonl_fpath=r.jsonl", "+top=1", script="ng_reward_profile")
    assert ran.code == 1
    assert "1 rollout is missing" in ran.stderr
    assert "Distinct answers within tasks: 5/5 (100.0%), 3 ignoring" in ran.stdout
    assert ran.stdout.splitlines()[1].split()[0] == "1"
    lines = read_rows(tmp_path / "r_reward_profiling.jsonl")
    assert [line["missing_num_rollouts"] for line in lines] == [0, 0, 1]
    assert lines[0]["pass@2/reward"] == 1.0
    allowed = command("+rollouts_jsonl_fpath=r.jsonl", "+allow_partial_rollouts=true", script="ng_reward_profile")
    assert allowed.code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "rollouts_jsonl_fpath is missing"),
        (["+rollouts_jsonl_fpath=nope.jsonl"], "rollouts_jsonl_fpath nope.jsonl cannot be read: No such file"),
        (["+rollout_jsonl_fpath=x"], "did you mean +rollouts_jsonl_fpath"),
        (["+rollouts_jsonl_fpath=bad.jsonl"], "bad.jsonl, line 1"),
        (["+rollouts_jsonl_fpath=bad.jsonl", "+top=many"], "top must be an integer, got 'many'"),
    ],
)
def test_profile_reports_usage_errors_without_a_traceback(
    command: Callable[..., Ran], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """A parameter or a file that is not valid ends with exit code 2 and a message."""
    (tmp_path / "bad.jsonl").write_text("{oops\n")
    ran = command(*arguments, script="ng_reward_profile")
    assert ran.code == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_profile_that_fails_writes_no_file(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A torn line, an unknown score and a negative size of the table leave no output behind."""
    write_rewards(tmp_path / "r.jsonl", {(0, 0): 1.0, (1, 0): 1.0})
    valid = (tmp_path / "r.jsonl").read_text()
    for content, arguments in ((valid[:-9], []), (valid, ["+score=nope"]), (valid, ["+top=-1"])):
        (tmp_path / "r.jsonl").write_text(content)
        ran = command("+rollouts_jsonl_fpath=r.jsonl", *arguments, script="ng_reward_profile")
        assert ran.code == 2, ran.stdout
        assert "Traceback" not in ran.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not available")
def test_rollouts_without_keys_are_profiled_by_prompt(command: Callable[..., Ran], tmp_path: Path) -> None:
    """In files of NeMo Gym's first collector, which have no keys, the rollouts of one prompt are one task."""
    for file in sorted(SHARED_DATA.glob("*/example_rollouts.jsonl")):
        (tmp_path / "r.jsonl").write_bytes(file.read_bytes())
        arguments = ["+rollouts_jsonl_fpath=r.jsonl", "+allow_partial_rollouts=true"]
        ran = command(*arguments, script="ng_reward_profile")
        assert ran.code == 0, ran.stderr
        rows = read_rows(tmp_path / "r_reward_profiling.jsonl")
        assert sum(row["num_rollouts"] for row in rows) == len(file.read_text().splitlines())
