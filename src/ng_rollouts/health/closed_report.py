"""The result of a report: counts of checks with examples, verdicts, and the flags of tasks, in the order of keys."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from ng_rollouts.health.checks import (
    CHECKS,
    LINE_UNOBSERVED,
    ROLLOUT_FINDINGS,
    TASK_FINDINGS,
    Check,
    findings_in,
    mask_of,
    verdict_of,
)
from ng_rollouts.health.report import Columns, HealthReport
from ng_rollouts.health.task_rules import TaskHealth, task_health
from ng_rollouts.types import Json

MAX_TASKS = 5000
"""Tasks that are listed. Of more, only those with a problem are listed, again at most this many."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of several rollouts or tasks.

    Attributes:
        count: rollouts with it, or tasks if the check is of tasks.
        share: their share of all rollouts or tasks.
        example: the first of them, in words: `task 3, rollout 1`, `task 3` or `line 7`.
    """

    check: Check
    count: int
    share: float
    example: str

    @property
    def meaning(self) -> str:
        """The reason, in one line."""
        return self.check.meaning


class CheckedRow(NamedTuple):
    """One rollout with its final mask: the findings of its task and those of duplicates are in it.

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
        tasks: the number of tasks, unreadable lines not included.
        listed: tasks by index, as in the summary; see `MAX_TASKS`.
        counts: rollouts with a finding, or tasks with a flag.
        examples: the first of them.
        task_evaluated: tasks with enough evidence for a check of tasks.
    """

    columns: Columns
    order: Sequence[int]
    masks: array[int]
    lines: array[int]
    line_mask: int
    tasks: int = 0
    listed: dict[int, Json] = field(default_factory=dict)
    counts: Counter[Check] = field(default_factory=Counter)
    examples: dict[Check, str] = field(default_factory=dict)
    task_evaluated: Counter[Check] = field(default_factory=Counter)

    def __len__(self) -> int:
        """The number of rollouts and unreadable lines."""
        return len(self.masks) + len(self.lines)

    def rows(self) -> Iterator[CheckedRow]:
        """The rollouts in the order of their keys."""
        columns, masks = self.columns, self.masks
        ids, stages = columns.ids, columns.stages
        for at in self.order:
            yield CheckedRow(columns.tasks[at], columns.rollouts[at], masks[at], ids.get(at), stages.get(at))

    def mask_counts(self) -> Counter[int]:
        """The number of rollouts and lines by mask."""
        counts = Counter(self.masks)
        if self.lines:
            counts[self.line_mask] += len(self.lines)
        return counts

    def verdicts(self) -> Counter[str]:
        """The number of rollouts and lines by verdict."""
        verdicts: Counter[str] = Counter()
        for mask, count in self.mask_counts().items():
            verdicts[verdict_of(mask)] += count
        return verdicts

    def share_with(self, checks: Iterable[Check]) -> float:
        """The share of rollouts with one of these findings, or whose task has one of these flags."""
        wanted = mask_of(checks)
        found = sum(count for mask, count in self.mask_counts().items() if mask & wanted)
        return found / len(self) if len(self) else 0.0

    def problems(self) -> list[Problem]:
        """All problems, the most frequent first. A flag that follows from the verdicts of rollouts comes last."""
        found = [self._problem(check) for check in CHECKS if check.is_problem and self.counts[check]]
        return sorted(found, key=lambda each: (each.check is Check.CONSISTENTLY_UNHEALTHY, -each.share))

    def largest_problems(self, number: int) -> list[Problem]:
        """The most frequent problems."""
        return self.problems()[:number]

    def _problem(self, check: Check) -> Problem:
        total = self.tasks if check.is_of_task else len(self)
        return Problem(check, self.counts[check], self.counts[check] / total, self.examples[check])


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
    lists_all = sum(1 for _ in groupby(order, key=columns.tasks.__getitem__)) <= MAX_TASKS
    for task_index, numbers in groupby(order, key=columns.tasks.__getitem__):
        _close_task(closed, task_index, list(numbers), report.kept, lists_all=lists_all)
    for mask, count in closed.mask_counts().items():
        for check in findings_in(mask & ROLLOUT_FINDINGS):
            closed.counts[check] += count
    if closed.lines and closed.line_mask & ROLLOUT_FINDINGS:
        closed.examples.setdefault(Check.RECORD_UNREADABLE, f"line {closed.lines[0]}")
    return closed


def _mark_duplicates(closed: ClosedReport) -> None:
    order, columns = closed.order, closed.columns
    for at in range(1, len(order)):
        if columns.same_rollout(order[at - 1], order[at]):
            for number in (order[at - 1], order[at]):
                closed.masks[number] |= Check.DUPLICATE_IDENTITY.bit


def _close_task(closed: ClosedReport, task_index: int, numbers: list[int], kept: int, *, lists_all: bool) -> None:
    columns, masks = closed.columns, closed.masks
    found = task_health(
        [columns.rollouts[at] for at in numbers],
        [masks[at] for at in numbers],
        [columns.answers[at] for at in numbers],
        [columns.rewards[at] for at in numbers],
    )
    flags = found.mask & kept
    closed.tasks += 1
    closed.task_evaluated[Check.CONSISTENTLY_UNHEALTHY] += found.evaluated > 1
    closed.task_evaluated[Check.NO_SUCCESSFUL_CALLS] += found.calls_observed
    for check in findings_in(flags):
        closed.counts[check] += 1
        closed.examples.setdefault(check, f"task {task_index}")
    seen = mask_of(closed.examples)
    for at in numbers:
        for check in findings_in(masks[at] & ROLLOUT_FINDINGS & ~seen):
            closed.examples.setdefault(check, f"task {task_index}, rollout {columns.rollouts[at]}")
        masks[at] |= flags
    summary = task_summary(found, flags)
    if lists_all or (len(closed.listed) < MAX_TASKS and (summary["unhealthy"] or summary["flags"])):
        closed.listed[task_index] = summary


def task_summary(found: TaskHealth, flags: int) -> Json:
    """A task as in the quality summary; `notes` are its flags that are not problems."""
    verdicts = Counter(each.verdict for each in found.repeats)
    checks = findings_in(flags & TASK_FINDINGS)
    summary: Json = {"repeats": len(found.repeats)}
    summary |= {verdict: verdicts[verdict] for verdict in ("healthy", "unhealthy", "unobserved")}
    summary["flags"] = [check for check in checks if check.is_problem]
    notes = [check for check in checks if not check.is_problem]
    return {**summary, "notes": notes} if notes else summary
