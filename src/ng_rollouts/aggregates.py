"""Groups -> figures, one group at a time: nothing is kept of a group once it is folded in.

Memory goes with distinct values, not with rows: beyond `_DISTINCT` of them a column's median and percentiles are told
from a histogram of equal bins, to a thousandth of its range.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ng_rollouts.estimates import best_of_first, majority_score, pass_at_k, pass_hat_k, t_quantile
from ng_rollouts.records import Facts, Json

_DISTINCT = 50_000
_BARS = 10


@dataclass(slots=True)
class Column:
    """Values of one name: moments, extremes, and how often each occurred."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    _mean: float = 0.0
    _values: Counter[float] = field(default_factory=Counter)
    _step: float = 0.0

    def add(self, value: float) -> None:
        """Take a value in (moments by Welford, 1962)."""
        self.count += 1
        self.total += value
        before = value - self._mean
        self._mean += before / self.count
        self.squares += before * (value - self._mean)
        self.least, self.most = min(self.least, value), max(self.most, value)
        self._values[self._binned(value)] += 1
        if len(self._values) > _DISTINCT:
            self._coarsen()

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def sd(self) -> float:
        """Of a sample (n - 1); 0 for a single value."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def quantile(self, share: float) -> float:
        """The value below which this share lies, interpolated as pandas and numpy do by default."""
        ordered = sorted(self._values.items())
        place = share * (self.count - 1)
        low, high = self._at(ordered, math.floor(place)), self._at(ordered, math.ceil(place))
        return low + (high - low) * (place - math.floor(place))

    def histogram(self) -> list[int]:
        """Counts in ten equal bins over [0, 1], or over the range of the values if that is wider."""
        low, high = min(0.0, self.least), max(1.0, self.most)
        bars = [0] * _BARS
        for value, count in self._values.items():
            bars[min(_BARS - 1, int((value - low) / (high - low) * _BARS))] += count
        return bars

    def of_nemo_gym(self, name: str) -> Json:
        """The five figures that NeMo Gym gives a column, by their keys."""
        figures = {
            "mean": self.mean,
            "max": self.most,
            "min": self.least,
            "median": self.quantile(0.5),
            "std": self.sd,
        }
        return {f"{figure}/{name}": value for figure, value in figures.items()}

    def _binned(self, value: float) -> float:
        return round(value / self._step) * self._step if self._step else value

    def _coarsen(self) -> None:
        self._step = max(2 * self._step, (self.most - self.least) / 1000)
        values, self._values = self._values, Counter()
        for value, count in values.items():
            self._values[self._binned(value)] += count

    @staticmethod
    def _at(ordered: Sequence[tuple[float, int]], place: int) -> float:
        for value, count in ordered:
            place -= count
            if place < 0:
                return value
        return ordered[-1][0]


@dataclass(slots=True)
class Score:
    """One score over tasks: what repeats and tasks each contribute, pass@k and its kin.

    Sums over tasks t of n (rollouts), s (sum of scores) and their products make the clustered standard error.
    """

    tasks: int = 0
    sum_n: int = 0
    sum_s: float = 0.0
    sum_nn: int = 0
    sum_ns: float = 0.0
    sum_ss: float = 0.0
    within: float = 0.0
    task_means: Column = field(default_factory=Column)
    all_zero: int = 0
    all_one: int = 0
    binary: bool = True
    passes: dict[str, list[float]] = field(default_factory=dict)

    def add(self, scores: Sequence[float], answers: Sequence[object]) -> None:
        """Take a group in: its scores in rollout order, and the answers that majorities are formed of."""
        n, s = len(scores), math.fsum(scores)
        self.tasks += 1
        self.sum_n, self.sum_s = self.sum_n + n, self.sum_s + s
        self.sum_nn, self.sum_ns, self.sum_ss = self.sum_nn + n * n, self.sum_ns + n * s, self.sum_ss + s * s
        self.within += math.fsum((score - s / n) ** 2 for score in scores)
        self.task_means.add(s / n)
        self.all_zero += all(score == 0 for score in scores)
        self.all_one += all(score == 1 for score in scores)
        binary = all(score in (0, 1) for score in scores)
        self.binary = self.binary and binary
        right = int(s) if binary else 0
        for k in range(1, n + 1):
            self._pass(f"pass@{k}", pass_at_k(n, right, k) if binary else best_of_first(scores, k))
            self._pass(f"pass@1[avg-of-{k}]", math.fsum(scores[:k]) / k)
            if binary:
                self._pass(f"pass^{k}", pass_hat_k(n, right, k))
            majority = majority_score(answers, scores, k)
            if majority is not None:
                self._pass(f"majority@{k}", majority)

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

    def figures(self) -> Json:
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

    def of_nemo_gym(self, name: str) -> Json:
        """pass@k and its kin, in percent of nothing: as shares, by NeMo Gym's keys."""
        return {f"{key}/{name}": total / tasks for key, (total, tasks) in self.passes.items()}

    def ragged(self) -> Json:
        """Over how many tasks those were taken that not all tasks have enough rollouts for."""
        return {
            key: int(tasks) for key, (_, tasks) in self.passes.items() if tasks < self.tasks and "pass@1[" not in key
        }

    def _pass(self, key: str, value: float) -> None:
        sums = self.passes.setdefault(key, [0.0, 0])
        sums[0] += value
        sums[1] += 1


@dataclass(slots=True)
class Aggregate:
    """The figures of one agent, or of all."""

    columns: dict[str, Column] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    tokens: dict[str, Column] = field(default_factory=dict)
    rollouts: int = 0
    truncated: int = 0
    tasks: int = 0
    group_sizes: Counter[int] = field(default_factory=Counter)
    distinct: int = 0
    answered: int = 0

    def add(self, group: Sequence[Facts]) -> None:
        """Take in the rollouts of one task, in order."""
        self.tasks += 1
        self.rollouts += len(group)
        self.group_sizes[len(group)] += 1
        answers = [facts.answer for facts in group]
        given = [answer for answer in answers if answer is not None]
        self.distinct, self.answered = self.distinct + len(set(given)), self.answered + len(given)
        for name in _names(facts.scores for facts in group):
            pairs = [(facts.scores[name], facts.answer) for facts in group if name in facts.scores]
            column = self.columns.setdefault(name, Column())
            for value, _ in pairs:
                column.add(value)
            score = self.scores.setdefault(name, Score())
            score.add([value for value, _ in pairs], [answer for _, answer in pairs])
        for facts in group:
            self.truncated += facts.truncated
            for name, count in facts.tokens.items():
                self.tokens.setdefault(name, Column()).add(count)

    def of_nemo_gym(self) -> Json:
        """`agent_metrics` by NeMo Gym's keys: figures of columns and tokens, pass@k and its kin."""
        merged: Json = {}
        every = [*self.columns.items(), *self.tokens.items()]
        by_column = [column.of_nemo_gym(name) for name, column in every]
        for figure in range(5):
            merged |= dict(list(figures.items())[figure] for figures in by_column)
        for name, score in self.scores.items():
            merged |= score.of_nemo_gym(name)
        return merged

    def figures(self) -> Json:
        """What there is beside that: errors, intervals, variances, histograms, tokens, raggedness."""
        told: Json = {
            "tasks": self.tasks,
            "rollouts": self.rollouts,
            "rollouts_per_task": {str(size): count for size, count in sorted(self.group_sizes.items())},
            "scores": {
                name: {**score.figures(), "histogram": self.columns[name].histogram(), "ragged": score.ragged()}
                for name, score in self.scores.items()
            },
            "share_truncated": self.truncated / self.rollouts if self.rollouts else None,
            "tokens": {name: _token_figures(column) for name, column in self.tokens.items()},
        }
        if self.answered:
            told["share_distinct_answers"] = self.distinct / self.answered
        return told


def group_figures(task_index: int, group: Sequence[Facts]) -> Json:
    """The figures of one task, by NeMo Gym's keys."""
    alone = Aggregate()
    alone.add(group)
    return {"_ng_task_index": task_index, **alone.of_nemo_gym()}


def _names(scores: Iterable[dict[str, float]]) -> Iterator[str]:
    return iter(dict.fromkeys(name for each in scores for name in each))


def _token_figures(column: Column) -> Json:
    quantiles = {f"p{share}": column.quantile(share / 100) for share in (50, 90, 99)}
    return {"sum": int(column.total), "mean": column.mean, **quantiles, "max": column.most}
