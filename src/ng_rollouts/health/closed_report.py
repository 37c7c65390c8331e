"""The result of a report: the rollouts in the order of their keys, with their final masks, and their counts."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from ng_rollouts.health.checks import LINE_UNOBSERVED, Check
from ng_rollouts.health.counts import HealthCounts
from ng_rollouts.health.report import Columns, HealthReport
from ng_rollouts.health.task_rules import task_health
from ng_rollouts.types import RolloutKey


class CheckedRow(NamedTuple):
    """One rollout with its final mask: the findings of duplicates are in it.

    Attributes:
        rollout_id: its own name; None for that of its key.
        stage: its `stage_index`; None without one.
    """

    task_index: int
    rollout_index: int
    mask: int
    rollout_id: str | None
    stage: Any


@dataclass(slots=True, kw_only=True)
class ClosedReport:
    """The health of all rollouts.

    Attributes:
        columns, order, masks: the rollouts, the order of their keys, and their final masks.
        lines: numbers of the lines that are not rollouts.
        line_mask: the mask of each of them.
        counts: rollouts by finding, and tasks by flag.
    """

    columns: Columns
    order: Sequence[int]
    masks: array[int]
    lines: array[int]
    line_mask: int
    counts: HealthCounts = field(default_factory=HealthCounts)

    def rows(self) -> Iterator[CheckedRow]:
        """The rollouts in the order of their keys."""
        columns, masks = self.columns, self.masks
        ids, stages = columns.ids, columns.stages
        for at in self.order:
            yield CheckedRow(columns.tasks[at], columns.rollouts[at], masks[at], ids.get(at), stages.get(at))


def close_report(report: HealthReport) -> ClosedReport:
    """Apply the rules about duplicates and tasks. The report is not changed, and may be continued."""
    columns, order = report.columns, report.columns.order()
    closed = ClosedReport(
        columns=columns,
        order=order,
        masks=array("Q", columns.masks),
        lines=array("Q", sorted(report.lines)),
        line_mask=(Check.RECORD_UNREADABLE.bit | LINE_UNOBSERVED) & report.kept,
    )
    if Check.DUPLICATE_IDENTITY not in report.ignored:
        _mark_duplicates(closed)
    for task_index, numbers in groupby(order, key=columns.tasks.__getitem__):
        _close_task(closed, task_index, list(numbers), report.kept)
    for line in closed.lines:
        closed.counts.add_line(line, closed.line_mask)
    return closed


def _mark_duplicates(closed: ClosedReport) -> None:
    order, columns = closed.order, closed.columns
    for at in range(1, len(order)):
        if columns.same_rollout(order[at - 1], order[at]):
            for number in (order[at - 1], order[at]):
                closed.masks[number] |= Check.DUPLICATE_IDENTITY.bit


def _close_task(closed: ClosedReport, task_index: int, numbers: list[int], kept: int) -> None:
    columns, masks = closed.columns, closed.masks
    found = task_health(
        [columns.rollouts[at] for at in numbers],
        [masks[at] for at in numbers],
        [columns.answers[at] for at in numbers],
        [columns.rewards[at] for at in numbers],
    )
    for at in numbers:
        closed.counts.add_rollout(RolloutKey(task_index, columns.rollouts[at]), masks[at])
    closed.counts.add_task(task_index, found, found.mask & kept)
