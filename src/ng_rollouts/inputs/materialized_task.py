"""Materialized rows of NeMo Gym: `{"task_id": {"taskset", "task_id"}, "task_input": {...}}`.

An environment server answers them, as an episode (`agents/episodes.py`). The row itself has no agent and no sampling
parameters: they belong to the environment.
"""

from __future__ import annotations

from collections.abc import Mapping

from ng_rollouts.errors import InputError
from ng_rollouts.inputs.routes import type_name
from ng_rollouts.types import Json


def is_materialized(row: Json) -> bool:
    """Whether a row is a materialized one. A flat row may have a `task_id` as well, as text."""
    return "task_input" in row and isinstance(row.get("task_id"), dict)


def server_of(row: Json, routes: Mapping[str, str]) -> str | None:
    """The environment server of a materialized row, by its task set; None if `routes` has none.

    Raises:
        InputError: the row has no task set, or its input is not an object.
    """
    taskset = row["task_id"].get("taskset")
    if not isinstance(taskset, str) or not taskset:
        raise InputError(f"task_id.taskset must be a string, got {type_name(taskset)}")
    if not isinstance(row["task_input"], dict):
        raise InputError(f"task_input must be an object, got {type_name(row['task_input'])}")
    return routes.get(taskset)


def flat_row(row: Json) -> Json:
    """A materialized row as a flat one, for an agent that is not an environment server."""
    kept = {name: value for name, value in row.items() if name not in ("task_id", "task_input")}
    return {**row["task_input"], **kept, "task_id": row["task_id"].get("task_id")}
