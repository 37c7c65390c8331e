"""A task in a row of an rl export: the export adds columns, and a collection takes the task out again.

The task's own fields stay at the top level, where trainers and verifiers read them. Those whose name is also the name
of a column are in `_ng_task_fields`.
"""

from __future__ import annotations

from ng_rollouts.chat import is_chat
from ng_rollouts.types import Json

TASK_FIELDS = "_ng_task_fields"
"""The field of a rollout with the task's own fields. The underscore keeps their numbers from being scores."""

_COLUMNS = ("prompt", "mean_reward", "reward_variance", "pass_rate", "num_rollouts", "images", "valid")
_ALWAYS = {*_COLUMNS} - {"images", "valid"}


def exported_row(task: Json, columns: Json) -> Json:
    """The row of an rl export that has a task and the columns of the export."""
    replaced = {name: task[name] for name in _COLUMNS if name in task}
    kept = {name: value for name, value in task.items() if name not in replaced}
    return {**kept, **columns, **({TASK_FIELDS: replaced} if replaced else {})}


def is_exported(row: Json) -> bool:
    """Whether a row has all columns of an rl export."""
    return row.keys() >= _ALWAYS and is_chat(row["prompt"])


def exported_task(row: Json) -> Json:
    """The task in a row of an rl export."""
    kept = {name: value for name, value in row.items() if name not in (*_COLUMNS, TASK_FIELDS)}
    return {**kept, **(row.get(TASK_FIELDS) or {})}
