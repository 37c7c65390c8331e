"""Groups -> figures, one group at a time: nothing is kept of a group once it is folded in.

Memory goes with distinct values, not with rows: beyond `_DISTINCT` of them a column's median and percentiles are told
from a histogram of equal bins, to a thousandth of its range.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ng_rollouts.estimates import majority_scores, pass_at_k, pass_hat_k, t_quantile
from ng_rollouts.records import Facts, Json

_DISTINCT = 50_000
_BARS = 10
_FIGURES = ("mean", "max", "min", "median", "std")


@dataclass(slots=True)
class Column:
    """Values of one name: moments, extremes, and how often each occurred."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    _mean: float = 0.0
    _lost: float = 0.0
    _values: dict[float, int] = field(default_factory=dict)
    _step: float = 0.0

    def add(self, value: float) -> None:
        """Take a value in (moments by Welford, 1962; the sum by Neumaier, 1974, so that its order hardly matters)."""
        self.count += 1
        total = self.total + value
        self._lost += (self.total - total) + value if abs(self.total) >= abs(value) else (value - total) + self.total
        self.total = total
        before = value - self._mean
        self._mean += before / self.count
        self.squares += before * (value - self._mean)
        self.least = min(self.least, value)
        self.most = max(self.most, value)
        place = self._binned(value) if self._step else value
        self._values[place] = self._values.get(place, 0) + 1
        if len(self._values) > _DISTINCT:
            self._coarsen()

    @property
    def mean(self) -> float:
        return (self.total + self._lost) / self.count

    @property
    def sd(self) -> float:
        """Of a sample (n - 1); 0 for a single value."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def merge(self, other: Column) -> None:
        """Take another column's values in (Chan, Golub and LeVeque, 1979)."""
        if not other.count:
            return
        count, apart = self.count + other.count, other._mean - self._mean
        self.squares += other.squares + apart**2 * self.count * other.count / count
        self._mean += apart * other.count / count
        self.count, self.total = count, self.total + other.total
        self._lost += other._lost
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)
        for value, times in other._values.items():
            self._values[value] = self._values.get(value, 0) + times
        self._step = max(self._step, other._step)
        if len(self._values) > _DISTINCT:
            self._coarsen()

    def times(self, value: float) -> int:
        """How often a value occurred."""
        return self._values.get(value, 0)

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
        figures = (self.mean, self.most, self.least, self.quantile(0.5), self.sd)
        return {f"{figure}/{name}": value for figure, value in zip(_FIGURES, figures, strict=True)}

    def _binned(self, value: float) -> float:
        return round(value / self._step) * self._step

    def _coarsen(self) -> None:
        self._step = max(2 * self._step, (self.most - self.least) / 1000)
        values, self._values = self._values, {}
        for value, count in values.items():
            place = self._binned(value)
            self._values[place] = self._values.get(place, 0) + count

    @staticmethod
    def _at(ordered: Sequence[tuple[float, int]], place: int) -> float:
        for value, count in ordered:
            place -= count
            if place < 0:
                return value
        return ordered[-1][0]


@dataclass(frozen=True, slots=True)
class GroupScore:
    """One score of one task.

    Attributes:
        passes: what does not care whether scores are 0 or 1, by key.
        unbiased: pass@k and pass^k of scores that are; empty if they are not.
        best: pass@k as the best of the first k.
    """

    values: list[float]
    total: float
    binary: bool
    passes: dict[str, float]
    unbiased: dict[str, float]
    best: dict[str, float]

    @classmethod
    def of(cls, values: list[float], answers: Sequence[object]) -> GroupScore:
        """Of the values in rollout order, and the answers that majorities are formed of."""
        total, n = math.fsum(values), len(values)
        binary = all(value in (0, 1) for value in values)
        right = int(total) if binary else 0
        passes: dict[str, float] = {}
        unbiased: dict[str, float] = {}
        bests: dict[str, float] = {}
        first = best = 0.0
        for k, (value, majority) in enumerate(zip(values, majority_scores(answers, values), strict=True), 1):
            first += value
            best = value if k == 1 else max(best, value)
            bests[f"pass@{k}"] = best
            passes[f"pass@1[avg-of-{k}]"] = first / k
            if binary:
                unbiased[f"pass@{k}"] = pass_at_k(n, right, k)
                unbiased[f"pass^{k}"] = pass_hat_k(n, right, k)
            if majority is not None:
                passes[f"majority@{k}"] = majority
        return cls(values, total, binary, passes, unbiased, bests)

    def told(self) -> dict[str, float]:
        """All of them, by what this task's own scores are."""
        return {**(self.unbiased or self.best), **self.passes}


_Sums = dict[str, list[float]]
"""By key: a sum over tasks, and over how many."""


def _count_in(sums: _Sums, key: str, total: float, tasks: int) -> None:
    if not tasks:
        return
    known = sums.get(key)
    if known is None:
        known = sums[key] = [0.0, 0]
    known[0] += total
    known[1] += tasks


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
    passes: _Sums = field(default_factory=dict)
    unbiased: _Sums = field(default_factory=dict)
    best: _Sums = field(default_factory=dict)

    def add(self, group: GroupScore) -> None:
        """Take a task in."""
        n, s = len(group.values), group.total
        mean = s / n
        self.tasks += 1
        self.sum_n, self.sum_s = self.sum_n + n, self.sum_s + s
        self.sum_nn, self.sum_ns, self.sum_ss = self.sum_nn + n * n, self.sum_ns + n * s, self.sum_ss + s * s
        self.within += math.fsum([(value - mean) ** 2 for value in group.values])
        self.task_means.add(mean)
        self.all_zero += not any(group.values)
        self.all_one += group.binary and s == n
        self.binary = self.binary and group.binary
        for sums, values in ((self.passes, group.passes), (self.unbiased, group.unbiased), (self.best, group.best)):
            for key, value in values.items():
                _count_in(sums, key, value, 1)

    def add_singles(self, values: Column, answered: Column) -> None:
        """Take in tasks of one rollout each, all at once.

        Args:
            answered: the values of those that gave an answer.
        """
        count, zeros, ones = values.count, values.times(0), values.times(1)
        squares = values.squares + count * values.mean**2
        self.tasks, self.sum_n, self.sum_nn = self.tasks + count, self.sum_n + count, self.sum_nn + count
        self.sum_s, self.sum_ns = self.sum_s + values.total, self.sum_ns + values.total
        self.sum_ss += squares
        self.task_means.merge(values)
        self.all_zero, self.all_one = self.all_zero + zeros, self.all_one + ones
        self.binary = self.binary and zeros + ones == count
        _count_in(self.best, "pass@1", values.total, count)
        _count_in(self.passes, "pass@1[avg-of-1]", values.total, count)
        for key in ("pass@1", "pass^1"):
            _count_in(self.unbiased, key, float(ones), zeros + ones)
        _count_in(self.passes, "majority@1", answered.total, answered.count)

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
        return {f"{key}/{name}": total / tasks for key, (total, tasks) in self._all_passes().items()}

    def ragged(self) -> Json:
        """Over how many tasks those were taken that not all tasks have enough rollouts for."""
        passes = self._all_passes().items()
        return {key: int(tasks) for key, (_, tasks) in passes if tasks < self.tasks and "pass@1[" not in key}

    def _all_passes(self) -> _Sums:
        """pass@k by what all scores are: a graded one stays so in tasks where it happens to be 0 or 1."""
        return {**(self.unbiased if self.binary else self.best), **self.passes}


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
    _singles: dict[str, tuple[Column, Column]] = field(default_factory=dict)

    def add(self, group: Sequence[Facts]) -> None:
        """Take in the rollouts of one task, in order. Those of tasks that have one count once `end` is called."""
        self.tasks += 1
        self.rollouts += len(group)
        self.group_sizes[len(group)] += 1
        if len(group) == 1:
            self._add_single(group[0])
            return
        given = [facts.answer for facts in group if facts.answer is not None]
        self.distinct, self.answered = self.distinct + len(set(given)), self.answered + len(given)
        scores = scores_of(group)
        for name, score in scores.items():
            column = self.columns.setdefault(name, Column())
            for value in score.values:
                column.add(value)
            self.scores.setdefault(name, Score()).add(score)
        for facts in group:
            self._add_tokens(facts)

    def end(self) -> None:
        """No more will come for now: have the figures whole."""
        for name, (values, answered) in self._singles.items():
            self.columns.setdefault(name, Column()).merge(values)
            self.scores.setdefault(name, Score()).add_singles(values, answered)
        self._singles.clear()

    def _add_single(self, facts: Facts) -> None:
        has_answer = facts.answer is not None
        self.distinct, self.answered = self.distinct + has_answer, self.answered + has_answer
        for name, value in facts.scores.items():
            columns = self._singles.get(name)
            if columns is None:
                columns = self._singles[name] = (Column(), Column())
            columns[0].add(value)
            if has_answer:
                columns[1].add(value)
        self._add_tokens(facts)

    def _add_tokens(self, facts: Facts) -> None:
        self.truncated += facts.truncated
        for name, count in facts.tokens.items():
            column = self.tokens.get(name)
            if column is None:
                column = self.tokens[name] = Column()
            column.add(count)

    def of_nemo_gym(self) -> Json:
        """`agent_metrics` by NeMo Gym's keys: figures of columns and tokens, pass@k and its kin."""
        merged: Json = {}
        every = [*self.columns.items(), *self.tokens.items()]
        by_column = [column.of_nemo_gym(name) for name, column in every]
        for figure in range(len(_FIGURES)):
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


def scores_of(group: Sequence[Facts]) -> dict[str, GroupScore]:
    """The scores of one task, by name."""
    found = {}
    for name in dict.fromkeys(name for facts in group for name in facts.scores):
        having = [facts for facts in group if name in facts.scores]
        found[name] = GroupScore.of([facts.scores[name] for facts in having], [facts.answer for facts in having])
    return found


def group_figures(task_index: int, group: Sequence[Facts]) -> Json:
    """The figures of one task, by NeMo Gym's keys."""
    scores = scores_of(group)
    columns = {name: score.values for name, score in scores.items()}
    for name in dict.fromkeys(name for facts in group for name in facts.tokens):
        columns[name] = [facts.tokens[name] for facts in group if name in facts.tokens]
    by_column = [_figures_of(name, sorted(values)) for name, values in columns.items()]
    told: Json = {"_ng_task_index": task_index}
    for figure in range(len(_FIGURES)):
        told |= dict(pairs[figure] for pairs in by_column)
    for name, score in scores.items():
        told |= {f"{key}/{name}": value for key, value in score.told().items()}
    return told


def _figures_of(name: str, ordered: Sequence[float]) -> list[tuple[str, float]]:
    n = len(ordered)
    mean = math.fsum(ordered) / n
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    sd = math.sqrt(math.fsum([(value - mean) ** 2 for value in ordered]) / (n - 1)) if n > 1 else 0.0
    figures = (mean, ordered[-1], ordered[0], median, sd)
    return [(f"{figure}/{name}", value) for figure, value in zip(_FIGURES, figures, strict=True)]


def _token_figures(column: Column) -> Json:
    quantiles = {f"p{share}": column.quantile(share / 100) for share in (50, 90, 99)}
    return {"sum": int(column.total), "mean": column.mean, **quantiles, "max": column.most}
