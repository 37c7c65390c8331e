"""Tasks in the rows of an rl export."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.inputs.exported_task import exported_row, exported_task, is_exported

NAMES = st.sampled_from("prompt mean_reward reward_variance pass_rate num_rollouts images question id".split())
COLUMNS = {"prompt": [{"role": "user", "content": "hi"}], "mean_reward": 0.5, "reward_variance": 0.25, "pass_rate": 0.5}


@given(st.dictionaries(NAMES, st.integers() | st.text() | st.lists(st.integers())))
def test_task_survives_its_export(task: dict[str, Any]) -> None:
    """The task in an exported row is the one that was exported, also if its fields have the names of columns."""
    row = exported_row(task, {**COLUMNS, "num_rollouts": 2})
    assert is_exported(row)
    assert {name: row[name] for name in COLUMNS} == COLUMNS
    assert exported_task(row) == task
