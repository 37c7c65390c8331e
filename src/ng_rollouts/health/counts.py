"""The counts of a report: rollouts by mask, tasks by flag, and an example of each problem; added in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from ng_rollouts.health.checks import ALL_UNOBSERVED, CHECKS, ROLLOUT_FINDINGS, Check, findings_in, verdict_of
from ng_rollouts.health.task_rules import TaskHealth
from ng_rollouts.types import Json, RolloutKey

MAX_TASKS = 5000
"""Tasks that are listed. Of more, only those with a problem are listed, again at most this many."""

OF_VERDICTS = ROLLOUT_FINDINGS | ALL_UNOBSERVED
"""The part of a mask that decides the verdict, and the end of its line in the file of verdicts."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of several rollouts or tasks.

    Attributes:
        count: rollouts with it, or tasks if the check is of tasks.
        share: their share of all rollouts or tasks.
        example: the first of them, in words: `task 3, rollout 1`, `task 3` or `line 7`.
        task_index: its task; None for a line.
    """

    check: Check
    count: int
    share: float
    example: str
    task_index: int | None = None

    @property
    def meaning(self) -> str:
        """The reason, in one line."""
        return self.check.meaning


class TaskCounts(NamedTuple):
    """The rollouts of a task by verdict, and the mask of its flags."""

    repeats: int
    healthy: int
    unhealthy: int
    unobserved: int
    flags: int

    @property
    def has_problem(self) -> bool:
        """True with an unhealthy rollout or a flag."""
        return self.unhealthy > 0 or self.flags > 0

    def summary(self) -> Json:
        """The task as in the quality summary; `notes` are its flags that are not problems."""
        checks = findings_in(self.flags)
        notes = [check for check in checks if not check.is_problem]
        flags = [check for check in checks if check.is_problem]
        verdicts = {"healthy": self.healthy, "unhealthy": self.unhealthy, "unobserved": self.unobserved}
        return {"repeats": self.repeats, **verdicts, "flags": flags, **({"notes": notes} if notes else {})}


@dataclass(slots=True)
class HealthCounts:
    """Counts over rollouts and tasks. Its size depends on the number of different findings, not on that of rollouts.

    Attributes:
        by_mask: number of rollouts and unreadable lines by the part of their masks that decides the verdict.
        tasks: the number of tasks, without unreadable lines.
        lines: the number of unreadable lines.
        flagged: tasks by flag.
        task_evaluated: tasks with enough evidence for a check of tasks.
    """

    by_mask: Counter[int] = field(default_factory=Counter)
    tasks: int = 0
    lines: int = 0
    flagged: Counter[Check] = field(default_factory=Counter)
    task_evaluated: Counter[Check] = field(default_factory=Counter)
    # The smallest key with each finding. A task has no rollout index.
    _examples: dict[Check, tuple[int, ...]] = field(default_factory=dict)
    _first_line: int = 0
    _listed: dict[int, TaskCounts] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of rollouts and unreadable lines."""
        return self.by_mask.total()

    def add_rollout(self, key: RolloutKey, mask: int) -> None:
        """Add a rollout."""
        self.by_mask[mask & OF_VERDICTS] += 1
        if found := mask & ROLLOUT_FINDINGS:
            self._add_examples(found, key)

    def add_line(self, line: int, mask: int) -> None:
        """Add a line that is not a rollout, by its number from 1."""
        self.by_mask[mask & OF_VERDICTS] += 1
        self.lines += 1
        self._first_line = min(line, self._first_line or line)

    def add_task(self, task_index: int, found: TaskHealth, flags: int) -> None:
        """Add a task, after all of its rollouts.

        Args:
            flags: those of `found` that are not ignored.
        """
        self.tasks += 1
        if found.evaluated > 1:
            self.task_evaluated[Check.CONSISTENTLY_UNHEALTHY] += 1
        if found.calls_observed:
            self.task_evaluated[Check.NO_SUCCESSFUL_CALLS] += 1
        if flags:
            self.flagged.update(findings_in(flags))
            self._add_examples(flags, (task_index,))
        self._list(task_index, _task_counts(tuple(each.verdict for each in found.repeats), flags))

    def count(self, check: Check) -> int:
        """The number of rollouts with a finding, or of tasks with a flag."""
        if check.is_of_task:
            return self.flagged[check]
        return sum(count for mask, count in self.by_mask.items() if mask & check.bit)

    def share(self, check: Check) -> float:
        """The share of the rollouts with a finding, or of the tasks with a flag; 0 if there are none."""
        return self.count(check) / ((self.tasks if check.is_of_task else len(self)) or 1)

    def example(self, check: Check) -> str:
        """The rollout or task with the smallest key that has a finding, in words; empty if there is none."""
        if key := self._examples.get(check):
            return f"task {key[0]}" if len(key) == 1 else f"task {key[0]}, rollout {key[1]}"
        return f"line {self._first_line}" if check is Check.RECORD_UNREADABLE and self._first_line else ""

    def by_check(self) -> dict[Check, int]:
        """The number of rollouts by finding and of tasks by flag, without those that do not occur."""
        return {check: count for check in CHECKS if (count := self.count(check))}

    def verdicts(self) -> Counter[str]:
        """The number of rollouts and lines by verdict."""
        verdicts: Counter[str] = Counter()
        for mask, count in self.by_mask.items():
            verdicts[verdict_of(mask)] += count
        return verdicts

    def problems(self) -> list[Problem]:
        """All problems, the most frequent first. A flag that follows from the verdicts of rollouts comes last."""
        found = [
            Problem(check, count, self.share(check), self.example(check), self._examples.get(check, (None,))[0])
            for check, count in self.by_check().items()
            if check.is_problem
        ]
        return sorted(found, key=lambda each: (each.check is Check.CONSISTENTLY_UNHEALTHY, -each.share))

    def listed(self) -> Iterator[tuple[int, Json]]:
        """Tasks with their summaries, in order; see `MAX_TASKS`."""
        for index, counts in islice(sorted(self._listed.items()), MAX_TASKS):
            yield index, counts.summary()

    def _add_examples(self, found: int, key: tuple[int, ...]) -> None:
        for check in findings_in(found):
            self._examples[check] = min(self._examples.get(check, key), key)

    def _list(self, task_index: int, counts: TaskCounts) -> None:
        if self.tasks == MAX_TASKS + 1:
            self._listed = {index: each for index, each in self._listed.items() if each.has_problem}
        if self.tasks <= MAX_TASKS or counts.has_problem:
            self._listed[task_index] = counts
        # Twice as many, so that they are sorted rarely.
        if len(self._listed) > 2 * MAX_TASKS:
            self._listed = dict(islice(sorted(self._listed.items()), MAX_TASKS))


@lru_cache(maxsize=4096)
def _task_counts(verdicts: tuple[str, ...], flags: int) -> TaskCounts:
    """The counts of a task. Many tasks have the same, so they share one object."""
    return TaskCounts(
        repeats=len(verdicts),
        healthy=verdicts.count("healthy"),
        unhealthy=verdicts.count("unhealthy"),
        unobserved=verdicts.count("unobserved"),
        flags=flags,
    )
