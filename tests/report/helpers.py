"""Rows that several tests of the report use."""

from __future__ import annotations

from typing import Any

from tests.rollout_files import rollout_row


def rollout_rows(tasks: int = 12, repeats: int = 3) -> list[dict[str, Any]]:
    """Rollouts of two agents, with rewards of 0, 1/3, 2/3 and 1, and answers such as "answer 3/0"."""
    return [
        rollout_row(
            task,
            index,
            ((task + index) % 4) / 3,
            f"answer {task}/{index}",
            agent_ref={"name": ("one", "two")[task % 2]},
        )
        for task in range(tasks)
        for index in range(repeats)
    ]
