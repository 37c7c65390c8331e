"""Missing rollouts are counted by the planned rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran
from tests.rollout_files import write_rows


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ([2, 4], 0),
        ([2, 3], 1),
        ([1, 4], 1),
        ([2, 0], 4),
    ],
    ids=["complete", "last task is short", "first task is short", "a task is absent"],
)
def test_missing_rollouts_are_counted_by_the_materialized_inputs(
    command: Callable[..., Ran], tmp_path: Path, present: list[int], missing: int
) -> None:
    """The materialized inputs give the number of rollouts of each task, also if agents have different repeats.

    Args:
        present: the rollouts of the two tasks in the file, of 2 and 4 planned ones.
    """
    rows = [
        {"responses_create_params": {"input": f"{task}"}, "agent_ref": {"name": name}} for task, name in enumerate("ab")
    ]
    write_rows(
        tmp_path / "m.jsonl",
        (
            {**row, "_ng_task_index": task, "_ng_rollout_index": rollout}
            for task, (row, repeats) in enumerate(zip(rows, (2, 4), strict=True))
            for rollout in range(repeats)
        ),
    )
    write_rows(
        tmp_path / "r.jsonl",
        (
            {**rows[task], "reward": 1.0, "_ng_task_index": task, "_ng_rollout_index": rollout}
            for task, count in enumerate(present)
            for rollout in range(count)
        ),
    )
    ran = command(
        "+rollouts_jsonl_fpath=r.jsonl", "+materialized_inputs_jsonl_fpath=m.jsonl", script="ng_reward_profile"
    )
    assert ran.code == (1 if missing else 0)
    are = "rollout is" if missing == 1 else "rollouts are"
    assert (f"error: {missing} {are} missing" in ran.stderr) == bool(missing)
