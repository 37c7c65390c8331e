"""One score of a task, and over tasks: pass@k and its kin, errors clustered by task, variances."""

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
_COUNTING = range(1, sys.maxsize)


@dataclass(frozen=True, slots=True)
class GroupScore:
    """One score of one task.

    Attributes:
        values: in rollout order.
        binary: whether all are 0 or 1.
        majorities: of the first k, for every k; None if nobody answered.
    """

    values: list[float]
    total: float
    binary: bool
    majorities: list[float] | None

    @classmethod
    def of(cls, values: list[float], answers: Sequence[object]) -> GroupScore:
        """Of the values in rollout order, and the answers that majorities are formed of."""
        has_votes = any(answer is not None for answer in answers)
        majorities = majority_scores(answers, values) if has_votes else None
        return cls(values, math.fsum(values), _BINARY.issuperset(values), majorities)

    @property
    def averages(self) -> list[float]:
        """Of the first k, for every k."""
        return list(map(truediv, accumulate(self.values), _COUNTING))

    @property
    def n_and_correct(self) -> tuple[int, int]:
        """Of binary values: how many, and how many of them right."""
        return len(self.values), int(self.total)

    def as_metrics(self) -> dict[str, float]:
        """All of them, by what this task's own scores are."""
        as_metrics = dict(_unbiased(*self.n_and_correct) if self.binary else _best(self.values))
        as_metrics |= zip(_names("pass@1[avg-of-{}]", len(self.values)), self.averages, strict=True)
        if self.majorities:
            as_metrics |= zip(_names("majority@{}", len(self.values)), self.majorities, strict=True)
        return as_metrics


@lru_cache(maxsize=4096)
def _unbiased(n: int, right: int) -> Mapping[str, float]:
    """pass@k and pass^k for every k, where so many of n are right."""
    as_metrics = {}
    for k in range(1, n + 1):
        as_metrics[f"pass@{k}"] = pass_at_k(n, right, k)
        as_metrics[f"pass^{k}"] = pass_hat_k(n, right, k)
    return as_metrics


def _best(values: Sequence[float]) -> dict[str, float]:
    """pass@k as the best of the first k."""
    return dict(zip(_names("pass@{}", len(values)), accumulate(values, max), strict=True))


@lru_cache(maxsize=4096)
def _names(form: str, n: int) -> tuple[str, ...]:
    """A name for every k from 1 to n."""
    return tuple(form.format(k) for k in range(1, n + 1))


_Sums = dict[str, list[float]]
"""By key: a sum over tasks, and over how many."""


def _count_in(sums: _Sums, values: Mapping[str, float], tasks: int = 1) -> None:
    for key, value in values.items():
        known = sums.get(key)
        if known is None:
            known = sums[key] = [0.0, 0]
        known[0] += value * tasks
        known[1] += tasks


@dataclass(slots=True)
class PrefixMeans:
    """Sums over tasks of a figure of the first k rollouts; a task of fewer has all of its own counted for every k."""

    _at: list[float] = field(default_factory=list)
    _ends: list[float] = field(default_factory=list)

    def add(self, statistics: Sequence[float], tasks: int = 1) -> None:
        """Take so many tasks in that have these figures, for every k up to the number of their rollouts."""
        more = len(statistics) - len(self._at)
        if more > 0:
            self._at += [0.0] * more
            self._ends += [0.0] * more
        for place, figure in enumerate(statistics):
            self._at[place] += figure * tasks
        self._ends[len(statistics) - 1] += statistics[-1] * tasks

    def totals(self) -> Iterator[float]:
        """For every k."""
        ended = accumulate(self._ends, initial=0.0)
        return (total + before for total, before in zip(self._at, ended, strict=False))


@dataclass(slots=True)
class ScoreStats:
    """One score over tasks: what repeats and tasks each contribute, pass@k and its kin.

    Sums over tasks t of n (rollouts), s (sum of scores) and their products make the clustered standard error.

    Attributes:
        patterns: tasks whose scores are 0 or 1, by `GroupScore.pattern`.
        graded: pass@k, as the best of k, of those whose scores are not.
    """

    tasks: int = 0
    sum_n: int = 0
    sum_s: float = 0.0
    sum_nn: int = 0
    sum_ns: float = 0.0
    sum_ss: float = 0.0
    within: float = 0.0
    task_means: Distribution = field(default_factory=Distribution)
    all_zero: int = 0
    all_one: int = 0
    averages: PrefixMeans = field(default_factory=PrefixMeans)
    majorities: PrefixMeans = field(default_factory=PrefixMeans)
    has_votes: bool = False
    patterns: Counter[tuple[int, int]] = field(default_factory=Counter)
    non_binary: _Sums = field(default_factory=dict)

    def add(self, group: GroupScore) -> None:
        """Take a task in."""
        n, s = len(group.values), group.total
        mean = s / n
        self.tasks += 1
        self.sum_n, self.sum_s = self.sum_n + n, self.sum_s + s
        self.sum_nn, self.sum_ns, self.sum_ss = self.sum_nn + n * n, self.sum_ns + n * s, self.sum_ss + s * s
        self.within += RunningStats.of(group.values).sum_squared_deviations
        self.task_means.add(mean)
        self.all_zero += not any(group.values)
        self.all_one += group.binary and s == n
        self.averages.add(group.averages)
        self.majorities.add(group.majorities or [0.0] * n)
        self.has_votes = self.has_votes or group.majorities is not None
        if group.binary:
            self.patterns[group.n_and_correct] += 1
        else:
            _count_in(self.non_binary, _best(group.values))

    def add_singles(self, values: Distribution, has_votes: Distribution) -> None:
        """Take in tasks of one rollout each, all at once.

        Args:
            answered: the values of those that gave an answer.
        """
        count, zeros, ones = values.count, values.count_of(0), values.count_of(1)
        sum_squared_deviations = values.sum_squared_deviations + count * values.mean**2
        self.tasks, self.sum_n, self.sum_nn = self.tasks + count, self.sum_n + count, self.sum_nn + count
        self.sum_s, self.sum_ns = self.sum_s + values.total, self.sum_ns + values.total
        self.sum_ss += sum_squared_deviations
        self.task_means.merge(values)
        self.all_zero, self.all_one = self.all_zero + zeros, self.all_one + ones
        self.patterns[1, 0] += zeros
        self.patterns[1, 1] += ones
        if others := count - zeros - ones:
            _count_in(self.non_binary, {"pass@1": (values.total - ones) / others}, others)
        self.averages.add([values.mean], count)
        self.majorities.add([has_votes.total / count], count)
        self.has_votes = self.has_votes or has_votes.count > 0

    @property
    def mean(self) -> float:
        return self.sum_s / self.sum_n

    @property
    def standard_error(self) -> float | None:
        """Of the mean, clustered by task (Miller, "Adding Error Bars to Evals", 2024); None for a single task."""
        if self.tasks < 2:
            return None
        residuals = self.sum_ss - 2 * self.mean * self.sum_ns + self.mean**2 * self.sum_nn
        return math.sqrt(max(0.0, residuals) * self.tasks / (self.tasks - 1)) / self.sum_n

    def statistics(self) -> Json:
        """What there is to tell beside NeMo Gym's figures."""
        error = self.standard_error
        half = None if error is None else t_quantile(self.tasks - 1) * error
        freedom = self.sum_n - self.tasks
        return {
            "mean": self.mean,
            "tasks": self.tasks,
            "rollouts": self.sum_n,
            "standard_error": error,
            "interval_95": None if half is None else [self.mean - half, self.mean + half],
            "variance_between_tasks": self.task_means.sd**2,
            "variance_within_tasks": self.within / freedom if freedom else None,
            "share_all_zero": self.all_zero / self.tasks,
            "share_all_one": self.all_one / self.tasks,
        }

    def nemo_gym_metrics(self, name: str) -> Json:
        """pass@k and its kin, as shares from 0 to 1, by NeMo Gym's keys."""
        as_metrics = {f"{key}/{name}": total / tasks for key, (total, tasks) in self._passes().items()}
        as_metrics |= {
            f"pass@1[avg-of-{k}]/{name}": total / self.tasks for k, total in enumerate(self.averages.totals(), 1)
        }
        if self.has_votes:
            as_metrics |= {
                f"majority@{k}/{name}": total / self.tasks for k, total in enumerate(self.majorities.totals(), 1)
            }
        return as_metrics

    def tasks_per_k(self) -> Json:
        """Over how many tasks those were taken that not all tasks have enough rollouts for."""
        return {key: int(tasks) for key, (_, tasks) in self._passes().items() if tasks < self.tasks}

    def _passes(self) -> _Sums:
        """pass@k by what each task's own scores are; pass^k if all are 0 or 1."""
        sums: _Sums = {key: list(known) for key, known in self.non_binary.items()}
        for (n, right), tasks in self.patterns.items():
            _count_in(sums, _unbiased(n, right), tasks)
        return {key: known for key, known in sums.items() if not (self.non_binary and key.startswith("pass^"))}


def scores_of(group: Sequence[RolloutStats]) -> dict[str, GroupScore]:
    """The scores of one task, by name."""
    found = {}
    for name in dict.fromkeys(name for stats in group for name in stats.scores):
        having = [stats for stats in group if name in stats.scores]
        found[name] = GroupScore.of([stats.scores[name] for stats in having], [stats.answer for stats in having])
    return found
