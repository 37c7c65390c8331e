"""How two ratings of the same rollouts agree: scores before and after scoring again, or scores and labels."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ng_rollouts.console import counted
from ng_rollouts.errors import InputError
from ng_rollouts.metrics.result_rows import MAX_SCORE
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json, RolloutKey

MAX_LABELS = 20
"""Different values that a confusion table has; further ones are counted as `other`."""

_MAX_PRINTED_LABELS = 8
"""Different values up to which the table fits a terminal."""

_LISTED_CHANGES = 10
_TASKS_PER_MASK = 64

_LABELS = {
    **dict.fromkeys(("correct", "yes", "pass", "true", "1"), 1.0),
    **dict.fromkeys(("incorrect", "no", "fail", "false", "0"), 0.0),
}

Label = float | None
"""A row or column of a confusion table; None for the values beyond `MAX_LABELS`."""


def label_of(value: object, where: str = "label") -> float | None:
    """The label in a field as a number: 1 for right, 0 for wrong, or a grade; None for an absent or empty one.

    Args:
        where: the file, the line and the field, for the message.

    Raises:
        InputError: the value is neither a number of at most `MAX_SCORE`, a bool nor one of the known words.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    label = _LABELS.get(value.strip().lower()) if isinstance(value, str) else value
    if isinstance(label, (int, float)) and abs(label) <= MAX_SCORE:
        return float(label)
    known = ", ".join(_LABELS)
    raise InputError(f"{where}: {str(value)[:100]!r} is not a label: use true, false, a number, or one of {known}")


@dataclass(slots=True)
class Agreement:
    """Agreement of two ratings, from a stream of pairs.

    Attributes:
        first, second: the values of each rating, over the pairs.
        agreeing: number of pairs whose values are equal.
        without_first, without_second: number of rollouts that lack this rating, and are therefore not in `pairs`. A
            rollout that lacks both counts in `without_first`.
    """

    first: RunningStats = field(default_factory=RunningStats)
    second: RunningStats = field(default_factory=RunningStats)
    agreeing: int = 0
    without_first: int = 0
    without_second: int = 0
    _sum_squared_differences: float = 0.0
    _labels: set[float] = field(default_factory=set)
    _cells: Counter[tuple[Label, Label]] = field(default_factory=Counter)

    def add(self, first: float | None, second: float | None) -> None:
        """Add the two ratings of a rollout; None for one that it does not have."""
        if first is None:
            self.without_first += 1
        elif second is None:
            self.without_second += 1
        else:
            self.first.add(first)
            self.second.add(second)
            self.agreeing += first == second
            self._sum_squared_differences += (first - second) ** 2
            self._cells[self._label(first), self._label(second)] += 1

    @property
    def pairs(self) -> int:
        """Number of rollouts with both ratings."""
        return self.first.count

    @property
    def share(self) -> float | None:
        """Share of pairs that agree; None without pairs."""
        return self.agreeing / self.pairs if self.pairs else None

    @property
    def kappa(self) -> float | None:
        """Agreement beyond chance: 1 if all pairs agree, 0 if as many as by chance; None if it is undefined.

        The weight of a disagreement is the square of the distance of its values. Of two different values, this is
        Cohen's kappa. The distance that is expected by chance follows from the means and variances, so no table of all
        values is needed. For grades, this is Lin's concordance correlation coefficient as well.

        Sources: Cohen, 1968; Fleiss and Cohen, 1973; Lin, 1989.
        """
        if not self.pairs:
            return None
        variances = (self.first.sum_squared_deviations + self.second.sum_squared_deviations) / self.pairs
        by_chance = variances + (self.first.mean - self.second.mean) ** 2
        if not by_chance:
            return None
        # Rounding must not leave the range.
        return max(-1.0, 1 - self._sum_squared_differences / self.pairs / by_chance)

    @property
    def kappa_name(self) -> str:
        """The name of `kappa` for these values."""
        return "Cohen's kappa" if len(self._labels) <= 2 else "quadratic weighted kappa"

    @property
    def undefined(self) -> str | None:
        """Why `kappa` is None; None if it has a value."""
        if self.kappa is not None:
            return None
        return f"all values are {self.first.mean:g}" if self.pairs else "no rollout has both values"

    def table(self) -> tuple[list[Label], list[list[int]]]:
        """The confusion table: its values in order, and the counts with a row for each value of the first rating."""
        labels: list[Label] = [*sorted(self._labels)]
        if any(None in cell for cell in self._cells):
            labels.append(None)
        return labels, [[self._cells[first, second] for second in labels] for first in labels]

    def summary(self) -> Json:
        """The agreement as JSON."""
        labels, counts = self.table()
        return {
            "pairs": self.pairs,
            "agreeing": self.agreeing,
            "agreement": self.share,
            "kappa": self.kappa,
            "kappa_name": self.kappa_name,
            **({"kappa_undefined": self.undefined} if self.undefined else {}),
            "without_first": self.without_first,
            "without_second": self.without_second,
            "mean_first": self.first.mean if self.pairs else None,
            "mean_second": self.second.mean if self.pairs else None,
            "confusion": {"labels": ["other" if label is None else label for label in labels], "counts": counts},
        }

    def lines(self, first: str, second: str) -> Iterator[str]:
        """The agreement as lines for the terminal.

        Args:
            first, second: the names of the ratings.
        """
        kappa = f"undefined: {self.undefined}" if self.kappa is None else f"{round(self.kappa, 3) + 0.0:.3f}"
        share = "" if self.share is None else f"{100 * self.share:.1f}% of {counted(self.pairs, 'rollout')}, "
        yield f"Agreement of {first} and {second}: {share}{self.kappa_name} {kappa}"
        for count, name in ((self.without_first, first), (self.without_second, second)):
            if count:
                yield f"  {counted(count, 'rollout')} without {name}"
        if self.pairs:
            yield from self._table_lines(first, second)

    def _table_lines(self, first: str, second: str) -> Iterator[str]:
        labels, counts = self.table()
        if len(labels) > _MAX_PRINTED_LABELS:
            more = "more than " if None in labels else ""
            yield f"  {more}{len(self._labels)} different values: the summary file has their table"
            return
        names = [f"{label:g}" for label in labels if label is not None]
        width = max(map(len, (*names, str(self.pairs))))
        heading = f"{first} \\ {second}"
        yield f"  {heading}  " + "  ".join(f"{name:>{width}}" for name in names)
        for name, row in zip(names, counts, strict=True):
            yield f"  {name:>{len(heading)}}  " + "  ".join(f"{count:>{width}}" for count in row)

    def _label(self, value: float) -> Label:
        if value in self._labels:
            return value
        if len(self._labels) == MAX_LABELS:
            return None
        self._labels.add(value)
        return value


class _TaskSet:
    """A set of task indices: two bits or so for each, where a set of integers takes 60 bytes."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def add(self, task_index: int) -> None:
        position, bit = divmod(task_index, _TASKS_PER_MASK)
        self._masks[position] = self._masks.get(position, 0) | 1 << bit

    def __len__(self) -> int:
        return sum(map(int.bit_count, self._masks.values()))


@dataclass(slots=True)
class ScoreChanges:
    """Counts of the scores that scoring again has changed, from a stream of rollouts.

    Attributes:
        agreement: agreement of the scores before and now.
        to_one, to_zero: number of rollouts whose score went from 0 to 1, and from 1 to 0.
        newly_scored, lost: number of rollouts that have a score now only, and before only.
    """

    agreement: Agreement = field(default_factory=Agreement)
    to_one: int = 0
    to_zero: int = 0
    newly_scored: int = 0
    lost: int = 0
    _tasks_to_one: _TaskSet = field(default_factory=_TaskSet)
    _tasks_to_zero: _TaskSet = field(default_factory=_TaskSet)
    # A heap whose first item is the smallest of the largest changes: size, negated key, previous, new.
    _largest: list[tuple[float, int, int, float, float]] = field(default_factory=list)

    def add(self, key: RolloutKey, previous: float | None, new: float | None) -> None:
        """Add the scores of a rollout; None for one that it does not have."""
        if previous is None or new is None:
            self.newly_scored += new is not None
            self.lost += previous is not None
            return
        self.agreement.add(previous, new)
        if previous == new:
            return
        if (previous, new) == (0, 1):
            self.to_one += 1
            self._tasks_to_one.add(key.task_index)
        elif (previous, new) == (1, 0):
            self.to_zero += 1
            self._tasks_to_zero.add(key.task_index)
        self._keep((abs(new - previous), -key.task_index, -key.rollout_index, previous, new))

    def __bool__(self) -> bool:
        """True if a rollout had a score before."""
        return bool(self.agreement.pairs or self.lost)

    @property
    def unchanged(self) -> int:
        """Number of rollouts with the same score."""
        return self.agreement.agreeing

    @property
    def changed(self) -> int:
        """Number of rollouts with another score."""
        return self.agreement.pairs - self.agreement.agreeing

    @property
    def largest(self) -> list[tuple[RolloutKey, float, float]]:
        """The largest changes: key, score before and score now; of equal ones, the smallest keys first."""
        return [
            (RolloutKey(-task_index, -rollout_index), previous, new)
            for _, task_index, rollout_index, previous, new in sorted(self._largest, reverse=True)
        ]

    def summary(self) -> Json:
        """The changes as JSON. In `agreement`, the scores before are the first rating."""
        return {
            "changed": self.changed,
            "unchanged": self.unchanged,
            "to_one": self.to_one,
            "to_zero": self.to_zero,
            "tasks_to_one": len(self._tasks_to_one),
            "tasks_to_zero": len(self._tasks_to_zero),
            "newly_scored": self.newly_scored,
            "lost": self.lost,
            "agreement": self.agreement.summary(),
            "largest": [
                {"task_index": key.task_index, "rollout_index": key.rollout_index, "previous": previous, "new": new}
                for key, previous, new in self.largest
            ],
        }

    def lines(self) -> Iterator[str]:
        """The changes as lines for the terminal."""
        pairs, agreement = self.agreement.pairs, self.agreement
        yield f"Changed scores: {self.changed} of {counted(pairs, 'rollout')} with a score before and now"
        if pairs:
            yield f"  {agreement.first.mean:.4f}  mean before"
            yield f"  {agreement.second.mean:.4f}  mean now"
        yield from self._count_lines()
        if pairs:
            yield from agreement.lines("before", "now")
        if self._largest:
            yield "Largest changes"
        for key, previous, new in self.largest:
            rollout = f"task {key.task_index}, rollout {key.rollout_index}"
            yield f"  {new - previous:>+8.4g}  {previous:g} to {new:g}  {rollout}"

    def _count_lines(self) -> Iterator[str]:
        """The table of counts. Rows of rollouts with one score only are left out if there are none."""
        yield f"  {'change':<18} {'rollouts':>9} {'share':>7} {'tasks':>7}"
        other = self.changed - self.to_one - self.to_zero
        rows: list[tuple[str, int, int | None]] = [
            ("from 0 to 1", self.to_one, len(self._tasks_to_one)),
            ("from 1 to 0", self.to_zero, len(self._tasks_to_zero)),
            ("another change", other, None),
            ("unchanged", self.unchanged, None),
        ]
        for name, count, tasks in rows:
            share = f"{100 * count / max(1, self.agreement.pairs):.1f}%"
            yield f"  {name:<18} {count:>9} {share:>7} {'' if tasks is None else tasks:>7}".rstrip()
        for name, count in (("scored now only", self.newly_scored), ("scored before only", self.lost)):
            if count:
                yield f"  {name:<18} {count:>9}"

    def _keep(self, change: tuple[float, int, int, float, float]) -> None:
        if len(self._largest) < _LISTED_CHANGES:
            heapq.heappush(self._largest, change)
        else:
            heapq.heappushpop(self._largest, change)
