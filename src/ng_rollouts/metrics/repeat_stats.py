"""Statistics of each repeat over all tasks, and of their means across repeats, by the keys of NeMo Gym 0.7.

All values are kept, because the quantiles of a repeat need them: whole numbers in one to four bytes each, others in
eight. Two limits bound the memory: `MAX_COLUMNS` ends the statistics of repeats, and `MAX_VALUES` their quantiles.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from ng_rollouts.metrics.distribution import Distribution
from ng_rollouts.metrics.estimators import t_quantile
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json, RolloutStats

MAX_COLUMNS = 4096
"""Columns of all repeats together, such as 64 repeats with 64 scores. With more, repeats have no statistics."""

MAX_VALUES = 8_000_000
"""Values of an agent that are kept, at most 64 MB. With more, repeats have no quantiles; the rest stays exact."""

_UNPACKED_VALUES = 1 << 15
"""Number of values of an agent that are packed at once."""

_QUANTILES = {"median": 0.5, "p25": 0.25, "p75": 0.75}

_NOT_ACROSS_REPEATS = (
    *("/max", "/min", "/median", "/p5", "/p25", "/p75", "/p95", "/ci_low_95", "/ci_high_95"),
    *("/ci_lower", "/ci_upper", "_ci_lower", "_ci_upper", "_ci95_lower", "_ci95_upper"),
    *("/_ng_attempt_index", "/std_dev_across_runs", "/std_err_across_runs", "/avg_sample_std_dev"),
)
"""Endings of scores that are statistics themselves: NeMo Gym computes no statistics of these across repeats."""


@dataclass(slots=True)
class RepeatColumn:
    """The values of one column in one repeat.

    Attributes:
        stats, minimum, maximum: statistics of the values that are not kept any more.
        recent: the last of the values that are kept, which `pack` packs.
    """

    stats: RunningStats = field(default_factory=RunningStats)
    minimum: float = math.inf
    maximum: float = -math.inf
    recent: array[float] = field(default_factory=lambda: array("d"))
    _packed: list[array[Any]] = field(default_factory=list)

    @classmethod
    def of(cls, distribution: Distribution) -> RepeatColumn:
        """The column with the values of a distribution."""
        values = distribution.exact_values()
        if values is not None:
            return cls(recent=array("d", values))
        return cls(distribution.running_stats(), distribution.minimum, distribution.maximum)

    @property
    def values(self) -> array[float]:
        """The values that are kept, in the order in which they were added."""
        return array("d", chain(*self._packed, self.recent))

    def pack(self) -> None:
        """Store the recent values in fewer bytes, if they are whole numbers."""
        packed = _packed(self.recent)
        if self._packed and self._packed[-1].typecode == packed.typecode:
            self._packed[-1].extend(packed)
        else:
            self._packed.append(packed)
        self.recent = array("d")

    def condense(self) -> None:
        """Replace the kept values by their statistics."""
        if values := self.values:
            self.stats = self.all_stats()
            self.minimum, self.maximum = min(self.minimum, *values), max(self.maximum, *values)
            self.recent = array("d")
            self._packed.clear()

    def all_stats(self) -> RunningStats:
        """Count, mean and spread of all values."""
        stats = replace(self.stats)
        if values := self.values:
            stats.merge(RunningStats.of(values))
        return stats

    def statistics(self) -> dict[str, float]:
        """NeMo Gym's statistics by name; the quantiles are left out if not all values are kept."""
        ordered = sorted(self.values)
        minimum, maximum = min([self.minimum, *ordered[:1]]), max([self.maximum, *ordered[-1:]])
        quantiles = {} if self.stats.count else {name: _quantile(ordered, share) for name, share in _QUANTILES.items()}
        return _statistics(self.all_stats(), minimum, maximum, quantiles, error_name="sem")


@dataclass(slots=True)
class RepeatColumns:
    """One repeat: the rollouts with the same rollout index.

    Attributes:
        tasks: number of tasks with a measured rollout.
    """

    tasks: int = 0
    columns: dict[str, RepeatColumn] = field(default_factory=dict)


@dataclass(slots=True)
class RepeatStats:
    """Running statistics of an agent's repeats, by rollout index.

    Attributes:
        indices: the rollout indices.
        left_out: whether there are more than `MAX_COLUMNS` columns, so that repeats have no statistics.
    """

    repeats: dict[int, RepeatColumns] = field(default_factory=dict)
    indices: set[int] = field(default_factory=set)
    left_out: bool = False
    _columns: int = 0
    _values: int = 0
    _unpacked: int = 0

    def add(self, stats: RolloutStats) -> None:
        """Add a measured rollout, the only one of its task in its repeat."""
        self.indices.add(stats.rollout_index)
        if self.left_out:
            return
        repeat = self.repeats.get(stats.rollout_index)
        if repeat is None:
            repeat = self.repeats[stats.rollout_index] = RepeatColumns()
        repeat.tasks += 1
        columns = repeat.columns
        # As in all metrics by column, a token count takes the place of a score of the same name.
        for name, value in (stats.scores | stats.tokens).items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = RepeatColumn()
                self._columns += 1
            column.recent.append(value)
            self._values += 1
            self._unpacked += 1
        self._check_limits()

    def seed(self, rollout_index: int, tasks: int, columns: dict[str, Distribution]) -> None:
        """Add the only repeat so far, from the statistics over all rollouts."""
        repeat = RepeatColumns(tasks, {name: RepeatColumn.of(column) for name, column in columns.items()})
        self.repeats[rollout_index] = repeat
        self.indices.add(rollout_index)
        self._columns = len(repeat.columns)
        self._values = sum(len(column.values) for column in repeat.columns.values())

    def entries(self, tasks: int) -> list[Json]:
        """NeMo Gym's `repeat_level_metrics`: the statistics of each repeat, by rollout index.

        Args:
            tasks: number of the agent's tasks with a measured rollout.
        """
        return [self._entry(index, tasks) for index in sorted(self.repeats)]

    def across_repeats(self) -> Json:
        """NeMo Gym's statistics of the repeats' means: the spread that another run of as many tasks would show."""
        names = sorted({name for repeat in self.repeats.values() for name in repeat.columns})
        metrics: Json = {}
        for name in names:
            if not f"mean/{name}".endswith(_NOT_ACROSS_REPEATS) and "_across_repeats/" not in name:
                statistics = _across(list(self._means(name)))
                metrics |= {f"{key}_across_repeats/mean/{name}": value for key, value in statistics.items()}
        return metrics

    def _entry(self, index: int, tasks: int) -> Json:
        repeat = self.repeats[index]
        entry: Json = {"_ng_rollout_index": index, "sample_count": repeat.tasks, "missing_count": tasks - repeat.tasks}
        for name, column in sorted(repeat.columns.items()):
            entry |= {f"{key}/{name}": value for key, value in column.statistics().items()}
        return entry

    def _means(self, name: str) -> Iterator[float]:
        for index in sorted(self.repeats):
            if column := self.repeats[index].columns.get(name):
                yield column.all_stats().mean

    def _check_limits(self) -> None:
        if self._columns > MAX_COLUMNS:
            self.left_out = True
            self.repeats.clear()
        elif self._values > MAX_VALUES:
            self._values = 0
            for column in self._all_columns():
                column.condense()
        elif self._unpacked > _UNPACKED_VALUES:
            self._unpacked = 0
            for column in self._all_columns():
                column.pack()

    def _all_columns(self) -> Iterator[RepeatColumn]:
        return (column for repeat in self.repeats.values() for column in repeat.columns.values())


def _packed(values: array[float]) -> array[Any]:
    """The same values in the fewest bytes each."""
    for type_code in "bhi":
        with suppress(OverflowError, ValueError):  # too large, or not a number
            packed = array(type_code, map(int, values))
            return packed if array("d", packed).tobytes() == values.tobytes() else values
    return values


def _across(means: Sequence[float]) -> dict[str, float]:
    ordered = sorted(means)
    quantiles = {"median": _quantile(ordered, 0.5)}
    return _statistics(RunningStats.of(means), ordered[0], ordered[-1], quantiles, error_name="se")


def _statistics(
    stats: RunningStats, minimum: float, maximum: float, quantiles: dict[str, float], *, error_name: str
) -> dict[str, float]:
    """Statistics by NeMo Gym's names, with the 95 % interval of the mean by t over independent values.

    Args:
        error_name: the name of the standard error.
    """
    error = stats.sd / math.sqrt(stats.count)
    statistics = {"mean": stats.mean, "std": stats.sd, error_name: error, "min": minimum, "max": maximum, **quantiles}
    if stats.count > 1:
        half_width = t_quantile(stats.count - 1) * error
        statistics |= {"ci_low_95": stats.mean - half_width, "ci_high_95": stats.mean + half_width}
    return statistics


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted values, interpolated linearly as pandas does by default."""
    rank = share * (len(ordered) - 1)
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    return low + (high - low) * (rank - math.floor(rank))
