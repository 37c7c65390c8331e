"""The health problems of a page's rollouts, found while the page reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ng_rollouts.health.checks import CHECKS, ROLLOUT_FINDINGS, mask_of
from ng_rollouts.health.counts import HealthCounts
from ng_rollouts.health.rollout import digest_of, health_of
from ng_rollouts.health.task_rules import task_health
from ng_rollouts.types import Json, RolloutHealth, RolloutKey

_PROBLEMS = mask_of(check for check in CHECKS if check.is_problem)
"""The part of a mask that the page has for each rollout. It has fewer bits than JavaScript's integers."""

_NONE = RolloutHealth(0)


@dataclass(slots=True)
class Problems:
    """Problems of rollouts and tasks."""

    _counts: HealthCounts = field(default_factory=HealthCounts)

    def add(self, key: RolloutKey, row: Json) -> int:
        """Add a rollout whose task may continue; the mask of its problems."""
        mask = health_of(row).mask
        self._counts.add_rollout(key, mask)
        return mask & ROLLOUT_FINDINGS

    def add_task(self, task_index: int, rows: Sequence[Json | None]) -> list[int]:
        """Add all rollouts of a task; for each of them the mask of its problems, and of those of its task.

        Args:
            rows: the rows of the rollouts, in order; None for a failure, which has no health.
        """
        healths = [_NONE if row is None else health_of(row) for row in rows]
        checked = [number for number, row in enumerate(rows) if row is not None]
        for number in checked:
            self._counts.add_rollout(RolloutKey(task_index, _index_of(rows[number], number)), healths[number].mask)
        if not checked:
            return [0] * len(rows)
        found = task_health(
            [_index_of(rows[number], number) for number in checked],
            [healths[number].mask for number in checked],
            [digest_of(healths[number].answer) for number in checked],
            [healths[number].reward or 0.0 for number in checked],
        )
        self._counts.add_task(task_index, found, found.mask)
        return [
            0 if row is None else (health.mask | found.mask) & _PROBLEMS
            for row, health in zip(rows, healths, strict=True)
        ]

    def listed(self) -> list[Json]:
        """All problems in the form that page.js reads, the most frequent first."""
        return [
            {
                "check": each.check.value,
                "bit": each.check.bit,
                "count": each.count,
                "share": each.share,
                "of": "tasks" if each.check.is_of_task else "rollouts",
                "task": each.task_index,
                "example": each.example,
                "meaning": each.meaning,
            }
            for each in self._counts.problems()
        ]


def _index_of(row: Json | None, number: int) -> int:
    """The rollout index of a row; its number in its task if it has none, as rows of other programs."""
    index = row.get("_ng_rollout_index") if row else None
    return index if isinstance(index, int) else number
