"""Statistics of one score, within a task and over tasks: pass@k, majority@k, clustered standard errors, variances."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from operator import truediv

from ng_rollouts.metrics.distribution import Distribution
from ng_rollouts.metrics.estimators import majority_scores, pass_at_k, pass_hat_k, t_quantile
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json, RolloutStats

_BINARY = frozenset((0, 1))
_FROM_ONE = range(1, sys.maxsize)


@dataclass(frozen=True, slots=True)
class GroupScore:
    """One score of one task.

    Attributes:
        values: the values in rollout order.
        total: their sum.
        binary: whether all values are 0 or 1.
        majorities: majority@k for every k; None if no rollout has an answer.
    """

    values: list[float]
    total: float
    binary: bool
    majorities: list[float] | None

    @classmethod
    def of(cls, values: list[float], answers: Sequence[object]) -> GroupScore:
        """Compute a score from its values and the rollouts' answers, both in rollout order."""
        has_votes = any(answer is not None for answer in answers)
        majorities = majority_scores(answers, values) if has_votes else None
        return cls(values, math.fsum(values), _BINARY.issuperset(values), majorities)

    @property
    def averages(self) -> list[float]:
        """The mean of the first k values, for every k."""
        return list(map(truediv, accumulate(self.values), _FROM_ONE))

    @property
    def n_and_correct(self) -> tuple[int, int]:
        """The number of values, and the number of ones; for binary values only."""
        return len(self.values), int(self.total)

    def as_metrics(self) -> dict[str, float]:
        """This task's pass@k, pass^k (binary values only), pass@1[avg-of-k] and majority@k, for every k."""
        metrics = dict(_unbiased_passes(*self.n_and_correct) if self.binary else _best_of_first(self.values))
        metrics |= zip(_names("pass@1[avg-of-{}]", len(self.values)), self.averages, strict=True)
        if self.majorities:
            metrics |= zip(_names("majority@{}", len(self.values)), self.majorities, strict=True)
        return metrics


# Few pairs of n and correct values occur in a run, and a task needs 2n binomial quotients: worth a cache.
@lru_cache(maxsize=4096)
def _unbiased_passes(n: int, correct: int) -> Mapping[str, float]:
    """pass@k and pass^k for every k, for n rollouts of which `correct` are correct."""
    metrics = {}
    for k in range(1, n + 1):
        metrics[f"pass@{k}"] = pass_at_k(n, correct, k)
        metrics[f"pass^{k}"] = pass_hat_k(n, correct, k)
    return metrics


def _best_of_first(values: Sequence[float]) -> dict[str, float]:
    """pass@k as the maximum of the first k values; the unbiased estimator needs binary values."""
    return dict(zip(_names("pass@{}", len(values)), accumulate(values, max), strict=True))


@lru_cache(maxsize=4096)
def _names(template: str, n: int) -> tuple[str, ...]:
    """The template filled in with every k from 1 to n."""
    return tuple(template.format(k) for k in range(1, n + 1))


_Sums = dict[str, list[float]]
"""By key: the sum over tasks, and the number of tasks."""


def _add_to_sums(sums: _Sums, values: Mapping[str, float], tasks: int = 1) -> None:
    """Add the values that `tasks` tasks have in common."""
    for key, value in values.items():
        entry = sums.get(key)
        if entry is None:
            entry = sums[key] = [0.0, 0]
        entry[0] += value * tasks
        entry[1] += tasks


@dataclass(slots=True)
class PrefixMeans:
    """For every k: the sum over tasks of a statistic of each task's first k rollouts.

    A task with fewer than k rollouts contributes the statistic of all its rollouts, as in NeMo Gym. So `_sums[k - 1]`
    covers the tasks with at least k rollouts. `_last_values[n - 1]` sums the last values of the tasks with n rollouts.
    """

    _sums: list[float] = field(default_factory=list)
    _last_values: list[float] = field(default_factory=list)

    def add(self, statistics: Sequence[float], tasks: int = 1) -> None:
        """Add the statistics of the first 1, 2, ... n rollouts, which `tasks` tasks have in common."""
        missing = len(statistics) - len(self._sums)
        if missing > 0:
            self._sums += [0.0] * missing
            self._last_values += [0.0] * missing
        for index, statistic in enumerate(statistics):
            self._sums[index] += statistic * tasks
        self._last_values[len(statistics) - 1] += statistics[-1] * tasks

    def totals(self) -> Iterator[float]:
        """The sum over all tasks, for every k."""
        # For each k: the last values of the tasks that have fewer than k rollouts.
        ended = accumulate(self._last_values, initial=0.0)
        return (total + before for total, before in zip(self._sums, ended, strict=False))


@dataclass(slots=True)
class ScoreStats:
    """Statistics of one score over tasks: pass@k and related metrics, standard error, variances.

    A task has n rollouts, and s is the sum of their scores. With m as the mean of all scores, the clustered standard
    error is the root of T / (T - 1) * (sum_ss - 2 m sum_ns + m^2 sum_nn), divided by sum_n, for T tasks.

    Attributes:
        sum_n, sum_s, sum_nn, sum_ns, sum_ss: sums over tasks of n, s, n * n, n * s and s * s.
        sum_squared_within: sum of the squared distances of scores from their task's mean.
        tasks_all_zero, tasks_all_one: number of tasks whose scores are all 0, or all 1.
        has_votes: whether any rollout has an answer.
        patterns: the number of tasks with binary scores, by `GroupScore.n_and_correct`.
        non_binary: sums of pass@k, as the best of k, over the other tasks.
    """

    tasks: int = 0
    sum_n: int = 0
    sum_s: float = 0.0
    sum_nn: int = 0
    sum_ns: float = 0.0
    sum_ss: float = 0.0
    sum_squared_within: float = 0.0
    task_means: Distribution = field(default_factory=Distribution)
    tasks_all_zero: int = 0
    tasks_all_one: int = 0
    averages: PrefixMeans = field(default_factory=PrefixMeans)
    majorities: PrefixMeans = field(default_factory=PrefixMeans)
    has_votes: bool = False
    patterns: Counter[tuple[int, int]] = field(default_factory=Counter)
    non_binary: _Sums = field(default_factory=dict)

    def add(self, group: GroupScore) -> None:
        """Add a task."""
        n, s = len(group.values), group.total
        mean = s / n
        self.tasks += 1
        self.sum_n, self.sum_s = self.sum_n + n, self.sum_s + s
        self.sum_nn, self.sum_ns, self.sum_ss = self.sum_nn + n * n, self.sum_ns + n * s, self.sum_ss + s * s
        self.sum_squared_within += RunningStats.of(group.values).sum_squared_deviations
        self.task_means.add(mean)
        self.tasks_all_zero += not any(group.values)
        self.tasks_all_one += group.binary and s == n
        self.averages.add(group.averages)
        # NeMo Gym counts a task without answers as 0 in majority@k.
        self.majorities.add(group.majorities or [0.0] * n)
        self.has_votes = self.has_votes or group.majorities is not None
        if group.binary:
            self.patterns[group.n_and_correct] += 1
        else:
            _add_to_sums(self.non_binary, _best_of_first(group.values))

    def add_singles(self, values: Distribution, answered: Distribution) -> None:
        """Add tasks with a single rollout each, all at once.

        Args:
            values: the score of each task.
            answered: the scores of the tasks whose rollout has an answer.
        """
        count, zeros, ones = values.count, values.count_of(0), values.count_of(1)
        # sum of (x - mean)^2 = sum of x^2 - count * mean^2
        sum_squares = values.sum_squared_deviations + count * values.mean**2
        # With n = 1, n * n = n and n * s = s. The variance within tasks is not defined, and gets no summand.
        self.tasks, self.sum_n, self.sum_nn = self.tasks + count, self.sum_n + count, self.sum_nn + count
        self.sum_s, self.sum_ns = self.sum_s + values.total, self.sum_ns + values.total
        self.sum_ss += sum_squares
        self.task_means.merge(values)
        self.tasks_all_zero, self.tasks_all_one = self.tasks_all_zero + zeros, self.tasks_all_one + ones
        self.patterns[1, 0] += zeros
        self.patterns[1, 1] += ones
        if others := count - zeros - ones:
            _add_to_sums(self.non_binary, {"pass@1": (values.total - ones) / others}, others)
        self.averages.add([values.mean], count)
        self.majorities.add([answered.total / count], count)
        self.has_votes = self.has_votes or answered.count > 0

    @property
    def mean(self) -> float:
        return self.sum_s / self.sum_n

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, clustered by task; None for a single task.

        Source: Miller, "Adding Error Bars to Evals", 2024.
        """
        if self.tasks < 2:
            return None
        # Sum over tasks of (s - mean * n)^2, expanded. Rounding can make it slightly negative.
        residuals = self.sum_ss - 2 * self.mean * self.sum_ns + self.mean**2 * self.sum_nn
        return math.sqrt(max(0.0, residuals) * self.tasks / (self.tasks - 1)) / self.sum_n

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95 % confidence interval of the mean, by t over tasks; None for a single task."""
        error = self.standard_error
        return None if error is None else t_quantile(self.tasks - 1) * error

    def statistics(self) -> Json:
        """The statistics beyond NeMo Gym's metrics."""
        half_width = self.half_width
        degrees_within = self.sum_n - self.tasks
        return {
            "mean": self.mean,
            "tasks": self.tasks,
            "rollouts": self.sum_n,
            "standard_error": self.standard_error,
            "interval_95": None if half_width is None else [self.mean - half_width, self.mean + half_width],
            "variance_between_tasks": self.task_means.sd**2,
            "variance_within_tasks": self.sum_squared_within / degrees_within if degrees_within else None,
            "share_all_zero": self.tasks_all_zero / self.tasks,
            "share_all_one": self.tasks_all_one / self.tasks,
        }

    def nemo_gym_metrics(self, name: str) -> Json:
        """pass@k, pass^k, pass@1[avg-of-k] and majority@k, as shares from 0 to 1, by NeMo Gym's keys."""
        metrics = {f"{key}/{name}": total / tasks for key, (total, tasks) in self._passes().items()}
        metrics |= {
            f"pass@1[avg-of-{k}]/{name}": total / self.tasks for k, total in enumerate(self.averages.totals(), 1)
        }
        if self.has_votes:
            metrics |= {
                f"majority@{k}/{name}": total / self.tasks for k, total in enumerate(self.majorities.totals(), 1)
            }
        return metrics

    def tasks_per_k(self) -> Json:
        """The number of tasks behind each pass@k and pass^k that some tasks have too few rollouts for."""
        return {key: int(tasks) for key, (_, tasks) in self._passes().items() if tasks < self.tasks}

    def _passes(self) -> _Sums:
        """Sums of pass@k, by each task's own kind of scores, and of pass^k if the scores of all tasks are binary."""
        sums: _Sums = {key: list(entry) for key, entry in self.non_binary.items()}
        for (n, correct), tasks in self.patterns.items():
            _add_to_sums(sums, _unbiased_passes(n, correct), tasks)
        return {key: entry for key, entry in sums.items() if not (self.non_binary and key.startswith("pass^"))}


def scores_of(group: Sequence[RolloutStats]) -> dict[str, GroupScore]:
    """The scores of one task by name, each over the rollouts that have it."""
    scores = {}
    for name in dict.fromkeys(name for stats in group for name in stats.scores):
        scored = [stats for stats in group if name in stats.scores]
        scores[name] = GroupScore.of([stats.scores[name] for stats in scored], [stats.answer for stats in scored])
    return scores
