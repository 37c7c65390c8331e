"""The health of a run while it is collected, in memory that follows the rollouts in flight.

A task is checked when its last rollout is there, and becomes counts. What the file of verdicts needs is kept for each
rollout in one byte, from the first rollout on that has a line in it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ng_rollouts.health.checks import (
    CHECKS,
    ROLLOUT_FINDINGS,
    TRAJECTORY_UNOBSERVED,
    Check,
    mask_of,
    unobserved_mask_of,
)
from ng_rollouts.health.closed_report import CheckedRow
from ng_rollouts.health.counts import OF_VERDICTS, HealthCounts
from ng_rollouts.health.report import CallTotals
from ng_rollouts.health.rollout import digest_of
from ng_rollouts.health.task_rules import TaskHealth, health_of_single, task_health
from ng_rollouts.types import RolloutHealth, RolloutKey

_WIDER = {1 << 8: "H", 1 << 16: "I"}
"""The type code of cells from this number of masks on."""


class _Collected(NamedTuple):
    """The values of a rollout that the rules about tasks read."""

    rollout_index: int
    mask: int
    answer: int
    reward: float


class MaskColumn:
    """A mask for some positions, as its number among the different masks: one byte each until there are 256 of them.

    Args:
        size: number of positions.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._numbers: dict[int, int] = {}
        self._masks: list[int | None] = [None]
        # Made for the first mask: most runs have none.
        self._cells: array[int] | None = None

    def __setitem__(self, position: int, mask: int) -> None:
        """Store the mask of a position."""
        number = self._numbers.get(mask)
        if number is None:
            number = self._add(mask)
        if self._cells is None:
            self._cells = array("B", bytes(self._size))
        self._cells[position] = number

    def __getitem__(self, position: int) -> int | None:
        """The mask of a position; None if it has none."""
        return None if self._cells is None else self._masks[self._cells[position]]

    def __len__(self) -> int:
        """The number of different masks."""
        return len(self._numbers)

    def _add(self, mask: int) -> int:
        """The number of a new mask; cells become wider where it does not fit."""
        number = self._numbers[mask] = len(self._masks)
        self._masks.append(mask)
        if self._cells is not None and number in _WIDER:
            self._cells = array(_WIDER[number], self._cells)
        return number


class RunHealth:
    """Collects the health of rollouts, each once and in any order.

    Args:
        rollouts: number of planned rollouts.
        group_size: returns the number of rollouts of a task.
        ignored: checks whose findings are left out.

    Attributes:
        ignored: those checks, in the order of `Check`.
        counts: rollouts by finding, and complete tasks by flag.
        totals: sums over model calls.
    """

    def __init__(self, rollouts: int, group_size: Callable[[int], int], ignored: Iterable[Check] = ()) -> None:
        left_out = frozenset(ignored)
        self.ignored = tuple(check for check in CHECKS if check in left_out)
        self.counts = HealthCounts()
        self.totals = CallTotals()
        self._kept = ~(mask_of(self.ignored) | unobserved_mask_of(self.ignored))
        self._group_size = group_size
        self._open: dict[int, list[_Collected]] = {}
        self._given_up: Counter[int] = Counter()
        self._masks = MaskColumn(rollouts)
        self._has_trajectories = False
        self._ids: dict[int, str] = {}
        self._stages: dict[int, Any] = {}

    def add(self, position: int, key: RolloutKey, health: RolloutHealth) -> None:
        """Add a rollout; the last one of its task completes the task."""
        mask = health.mask & self._kept
        self.counts.add_rollout(key, mask)
        self.totals.add(health)
        if mask & ROLLOUT_FINDINGS or health.calls is not None:
            self._add_line(position, key, mask, health)
        if self._group_size(key.task_index) == 1:
            self._add_task(key.task_index, health_of_single(mask))
            return
        collected = _Collected(key.rollout_index, mask, digest_of(health.answer), health.reward or 0.0)
        self._open.setdefault(key.task_index, []).append(collected)
        self._close_if_complete(key.task_index)

    def give_up(self, task_index: int) -> None:
        """Record that a rollout of a task failed, so that its task is complete without it."""
        self._given_up[task_index] += 1
        self._close_if_complete(task_index)

    def end(self) -> None:
        """Check the tasks of which rollouts are missing, after the last rollout."""
        for task_index in list(self._open):
            self._close(task_index)

    def rows(self, collected: Iterable[tuple[int, RolloutKey]]) -> Iterator[CheckedRow]:
        """The rollouts that have a line in the file of verdicts.

        All of them, if one has a trajectory. Otherwise those with a finding, and without the names of the checks that
        need a trajectory, which would be the same in every line.

        Args:
            collected: position and key of each collected rollout.
        """
        without_line = TRAJECTORY_UNOBSERVED & self._kept if self._has_trajectories else None
        relevant = OF_VERDICTS if self._has_trajectories else ROLLOUT_FINDINGS
        if not len(self._masks):
            return
        for position, key in collected:
            mask = self._masks[position]
            if (mask := without_line if mask is None else mask) is not None:
                yield CheckedRow(*key, mask & relevant, self._ids.get(position), self._stages.get(position))

    @property
    def has_lines(self) -> bool:
        """True if there are verdicts to write."""
        return len(self._masks) > 0

    def _add_line(self, position: int, key: RolloutKey, mask: int, health: RolloutHealth) -> None:
        self._masks[position] = mask & OF_VERDICTS
        self._has_trajectories = self._has_trajectories or health.calls is not None
        if health.rollout_id and health.rollout_id != f"{key.task_index}-{key.rollout_index}":
            self._ids[position] = health.rollout_id
        if health.stage is not None:
            self._stages[position] = health.stage

    def _close_if_complete(self, task_index: int) -> None:
        missing = self._given_up.get(task_index, 0)
        if len(self._open.get(task_index, ())) + missing >= self._group_size(task_index):
            self._given_up.pop(task_index, None)
            self._close(task_index)

    def _close(self, task_index: int) -> None:
        if group := self._open.pop(task_index, None):
            self._add_task(task_index, task_health(*zip(*group, strict=True)))

    def _add_task(self, task_index: int, found: TaskHealth) -> None:
        self.counts.add_task(task_index, found, found.mask & self._kept)
