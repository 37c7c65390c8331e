"""Statistics of one agent's rollouts, and the metrics of one task.

`AgentStats` adds one group at a time and keeps no reference to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from ng_rollouts.metrics.distribution import STATISTICS, Distribution
from ng_rollouts.metrics.perf_summary import PerfStats
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.metrics.score_stats import GroupScore, ScoreStats, scores_of
from ng_rollouts.types import Json, RolloutStats

if TYPE_CHECKING:
    from ng_rollouts.metrics.repeat_stats import RepeatStats


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the planned rollouts a mean is over, and why others are not.

    Attributes:
        reasons: number of rollouts that it is not over, by reason.
    """

    measured: int
    planned: int
    reasons: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of the planned rollouts; 1 if none are planned."""
        return self.measured / self.planned if self.planned else 1.0

    @property
    def text(self) -> str:
        """Such as `940 of 1,000 rollouts: 12 masked, 48 failed`; empty if the mean is over all of them."""
        if self.measured == self.planned:
            return ""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items() if count)
        return f"{self.measured:,} of {self.planned:,} rollouts: {reasons}"


@dataclass(slots=True)
class AgentStats:
    """Running statistics of one agent's rollouts, or of all agents' rollouts.

    Attributes:
        columns, scores, tokens: statistics by name.
        rollouts, truncated, empty: number of measured rollouts, and how many of these are truncated or empty.
        tasks: number of tasks with a measured rollout.
        group_sizes: number of these tasks, by their number of measured rollouts.
        masked: number of masked rollouts, which are in none of the statistics, by reason.
        fully_masked_tasks: number of tasks without a measured rollout.
        repeats: statistics of each repeat; None while all measured rollouts have the same rollout index.
        masked_indices: rollout indices of masked rollouts.
        perf: statistics of the `ng_perf` objects; None without any.
        counted_as_zero: number of rollouts that count as 0, which are in `rollouts`, by reason.
    """

    columns: dict[str, Distribution] = field(default_factory=dict)
    scores: dict[str, ScoreStats] = field(default_factory=dict)
    tokens: dict[str, Distribution] = field(default_factory=dict)
    rollouts: int = 0
    truncated: int = 0
    empty: int = 0
    tasks: int = 0
    group_sizes: Counter[int] = field(default_factory=Counter)
    distinct_answers: int = 0
    answers: int = 0
    masked: Counter[str] = field(default_factory=Counter)
    fully_masked_tasks: int = 0
    repeats: RepeatStats | None = None
    masked_indices: set[int] = field(default_factory=set)
    perf: PerfStats | None = None
    counted_as_zero: Counter[str] = field(default_factory=Counter)
    # The rollout index of all measured rollouts so far; None before the first, and not used with `repeats`.
    _only_index: int | None = None
    # By score: the values of all single-rollout tasks, and the values of those that have an answer.
    _singles: dict[str, tuple[Distribution, Distribution]] = field(default_factory=dict)

    def add(self, group: Sequence[RolloutStats], scores: dict[str, GroupScore] | None = None) -> None:
        """Add the rollouts of one task, in order. Tasks with a single rollout count once `end` is called.

        Args:
            scores: the task's scores, if the caller has computed them already.
        """
        for stats in group:
            if stats.perf is not None:
                self.perf = self.perf or PerfStats()
                self.perf.add(stats.perf)
            if stats.counted_as_zero:
                self.counted_as_zero[stats.counted_as_zero] += 1
        if any(stats.masked for stats in group):
            self._add_masked([stats for stats in group if stats.masked])
            group = measured(group)
            if not group:
                self.fully_masked_tasks += 1
                return
        # With num_repeats=1 this comparison is all that the statistics of repeats cost.
        if len(group) > 1 or self.repeats or group[0].rollout_index != self._only_index:
            self._add_to_repeats(group)
        self.tasks += 1
        self.rollouts += len(group)
        self.group_sizes[len(group)] += 1
        if len(group) == 1:
            # With num_repeats=1 this runs for every rollout. Adding such tasks in bulk is about ten times faster.
            self._add_single(group[0])
            return
        answers = [stats.answer for stats in group if stats.answer is not None]
        self.distinct_answers, self.answers = self.distinct_answers + len(set(answers)), self.answers + len(answers)
        for name, score in (scores_of(group) if scores is None else scores).items():
            self.columns.setdefault(name, Distribution()).extend(score.values)
            self.scores.setdefault(name, ScoreStats()).add(score)
        self.truncated += sum(stats.truncated for stats in group)
        self.empty += sum(stats.empty for stats in group)
        for name, counts in tokens_of(group).items():
            self.tokens.setdefault(name, Distribution()).extend(counts)

    def end(self) -> None:
        """Include the single-rollout tasks. Call this before you read the statistics; you may add more groups later."""
        for name, (values, answered) in self._singles.items():
            self.columns.setdefault(name, Distribution()).merge(values)
            self.scores.setdefault(name, ScoreStats()).add_singles(values, answered)
        self._singles.clear()

    @property
    def num_repeats(self) -> int:
        """The number of different rollout indices, those of masked rollouts included."""
        indices = set() if self._only_index is None else {self._only_index}
        return len(self.masked_indices | (self.repeats.indices if self.repeats else indices))

    @property
    def repeats_left_out(self) -> bool:
        """Whether there are too many columns for statistics of each repeat."""
        return self.repeats is not None and self.repeats.left_out

    def _add_masked(self, group: Sequence[RolloutStats]) -> None:
        self.masked.update(stats.masked for stats in group if stats.masked)
        self.masked_indices.update(stats.rollout_index for stats in group)

    def _add_to_repeats(self, group: Sequence[RolloutStats]) -> None:
        """Add the measured rollouts of one task, before they are added to the columns."""
        if self.repeats is None:
            if self._only_index is None:
                self._only_index = group[0].rollout_index
            # Nothing is kept by repeat before the second one: the first has the statistics of all rollouts.
            if all(stats.rollout_index == self._only_index for stats in group):
                return
            from ng_rollouts.metrics.repeat_stats import RepeatStats  # noqa: PLC0415 - a run without repeats needs none

            self.end()
            self.repeats = RepeatStats()
            if self.tasks:
                self.repeats.seed(self._only_index, self.tasks, self.columns | self.tokens)
        for stats in group:
            self.repeats.add(stats)

    def _add_single(self, stats: RolloutStats) -> None:
        has_answer = stats.answer is not None
        self.distinct_answers, self.answers = self.distinct_answers + has_answer, self.answers + has_answer
        for name, value in stats.scores.items():
            columns = self._singles.get(name)
            if columns is None:
                columns = self._singles[name] = (Distribution(), Distribution())
            columns[0].add(value)
            if has_answer:
                columns[1].add(value)
        self._add_tokens(stats)

    def _add_tokens(self, stats: RolloutStats) -> None:
        self.truncated += stats.truncated
        self.empty += stats.empty
        for name, count in stats.tokens.items():
            column = self.tokens.get(name)
            if column is None:
                column = self.tokens[name] = Distribution()
            column.add(count)

    @property
    def coverage(self) -> Coverage:
        """How many of the rollouts that are there the statistics are over."""
        masked = self.masked.total()
        return Coverage(self.rollouts, self.rollouts + masked, {"masked": masked})

    def nemo_gym_metrics(self) -> Json:
        """NeMo Gym's `agent_metrics`: the statistics of each column, then pass@k and majority@k of each score."""
        # A token count takes the place of a score of the same name.
        coverage = self._coverage() if self.masked else {}
        columns = {name: column.nemo_gym_statistics() for name, column in (self.columns | self.tokens).items()}
        metrics: Json = {}
        for statistic in STATISTICS:
            for name, values in columns.items():
                metrics[f"{statistic}/{name}"] = values[statistic]
        for name, score in self.scores.items():
            metrics |= score.nemo_gym_metrics(name)
        if self.repeats:
            metrics |= self.repeats.across_repeats()
        metrics |= coverage
        return metrics | {"num_repeats": self.num_repeats} if self.rollouts else metrics

    def repeat_level_metrics(self) -> list[Json]:
        """NeMo Gym's statistics of each repeat; empty if there is only one."""
        return self.repeats.entries(self.tasks) if self.repeats else []

    def _coverage(self) -> Json:
        """NeMo Gym's keys that say how much the other metrics leave out."""
        return {
            "coverage/measured_rollouts": self.rollouts,
            "coverage/masked_rollouts": self.masked.total(),
            "coverage/measured_tasks": self.tasks,
            "coverage/fully_masked_tasks": self.fully_masked_tasks,
        }

    def perf_summary(self) -> Json | None:
        """NeMo Gym's `perf_summary`; None if no rollout has an `ng_perf` object."""
        return self.perf.summary(self.rollouts + self.masked.total()) if self.perf else None

    def statistics(self) -> Json:
        """Statistics beyond NeMo Gym's: errors, intervals, variances, histograms, tokens, and rollouts per task."""
        statistics: Json = {
            "tasks": self.tasks,
            "rollouts": self.rollouts,
            "rollouts_per_task": {str(size): count for size, count in sorted(self.group_sizes.items())},
            "scores": {
                name: {**score.statistics(), "histogram": self.columns[name].histogram(), "ragged": score.tasks_per_k()}
                for name, score in self.scores.items()
            },
            "share_truncated": self.truncated / self.rollouts if self.rollouts else None,
            "share_empty": self.empty / self.rollouts if self.rollouts else None,
            "tokens": {name: _token_statistics(column) for name, column in self.tokens.items()},
        }
        if self.masked:
            statistics["masked"] = dict(self.masked.most_common())
        if self.counted_as_zero:
            statistics["counted_as_zero"] = dict(self.counted_as_zero.most_common())
        if self.answers:
            statistics["share_distinct_answers"] = self.distinct_answers / self.answers
        return statistics


def measured(group: Sequence[RolloutStats]) -> list[RolloutStats]:
    """The rollouts of one task whose results are measurements."""
    return [stats for stats in group if stats.masked is None]


def by_agent(rollouts: Iterable[tuple[str, RolloutStats]]) -> dict[str, list[RolloutStats]]:
    """The rollouts of one task, grouped by agent; several agents may answer one task."""
    groups: dict[str, list[RolloutStats]] = {}
    for agent, stats in rollouts:
        groups.setdefault(agent, []).append(stats)
    return groups


def tokens_of(group: Sequence[RolloutStats]) -> dict[str, list[int]]:
    """The token counts of one task's rollouts, by name."""
    tokens: dict[str, list[int]] = {}
    for stats in group:
        for name, count in stats.tokens.items():
            tokens.setdefault(name, []).append(count)
    return tokens


def group_metrics(task_index: int, group: Sequence[RolloutStats], scores: dict[str, GroupScore]) -> Json:
    """The metrics of one task, by NeMo Gym's keys.

    Args:
        scores: the task's scores by name, as `scores_of` returns them.
    """
    columns: dict[str, Sequence[float]] = {name: score.values for name, score in scores.items()}
    columns |= tokens_of(group)
    # Transposed to NeMo Gym's order: the means of all columns, then their maxima, and so on.
    by_statistic = zip(*map(_statistics_of, columns.values()), strict=True)
    metrics: Json = {"_ng_task_index": task_index}
    metrics |= zip(_column_keys(tuple(columns)), chain.from_iterable(by_statistic), strict=True)
    for name, score in scores.items():
        metrics |= {f"{key}/{name}": value for key, value in score.as_metrics().items()}
    return metrics


@lru_cache(maxsize=1024)
def _column_keys(names: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of all columns, statistic by statistic. They are cached, since most tasks have the same columns."""
    return tuple(f"{statistic}/{name}" for statistic in STATISTICS for name in names)


def _statistics_of(values: Sequence[float]) -> tuple[float, ...]:
    """The statistics of a few values, in the order of `STATISTICS`."""
    if len(values) == 1:  # with num_repeats=1, for every column of every task
        (value,) = values
        return float(value), value, value, float(value), 0.0
    ordered, stats = sorted(values), RunningStats.of(values)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return stats.mean, ordered[-1], ordered[0], median, stats.sd


def _token_statistics(column: Distribution) -> Json:
    percentiles = {f"p{percent}": column.quantile(percent / 100) for percent in (50, 90, 99)}
    return {"sum": int(column.total), "mean": column.mean, **percentiles, "max": column.maximum}
