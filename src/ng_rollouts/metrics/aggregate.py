"""Groups -> figures, one group at a time: nothing is kept of a group once it is folded in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

from ng_rollouts.metrics.distribution import STATISTICS, Distribution
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.metrics.score_stats import GroupScore, ScoreStats, scores_of
from ng_rollouts.types import Json, RolloutStats


@dataclass(slots=True)
class AgentStats:
    """The figures of one agent, or of all."""

    columns: dict[str, Distribution] = field(default_factory=dict)
    scores: dict[str, ScoreStats] = field(default_factory=dict)
    tokens: dict[str, Distribution] = field(default_factory=dict)
    rollouts: int = 0
    truncated: int = 0
    tasks: int = 0
    group_sizes: Counter[int] = field(default_factory=Counter)
    distinct_answers: int = 0
    answers: int = 0
    _singles: dict[str, tuple[Distribution, Distribution]] = field(default_factory=dict)

    def add(self, group: Sequence[RolloutStats], scores: dict[str, GroupScore] | None = None) -> None:
        """Take in the rollouts of one task, in order. Those of tasks that have one count once `end` is called.

        Args:
            scores: the task's, if they are known already.
        """
        self.tasks += 1
        self.rollouts += len(group)
        self.group_sizes[len(group)] += 1
        if len(group) == 1:
            self._add_single(group[0])
            return
        given = [stats.answer for stats in group if stats.answer is not None]
        self.distinct_answers, self.answers = self.distinct_answers + len(set(given)), self.answers + len(given)
        for name, score in (scores_of(group) if scores is None else scores).items():
            self.columns.setdefault(name, Distribution()).extend(score.values)
            self.scores.setdefault(name, ScoreStats()).add(score)
        self.truncated += sum(stats.truncated for stats in group)
        for name, counters in tokens_of(group).items():
            self.tokens.setdefault(name, Distribution()).extend(counters)

    def end(self) -> None:
        """No more will come for now: have the figures whole."""
        for name, (values, answers) in self._singles.items():
            self.columns.setdefault(name, Distribution()).merge(values)
            self.scores.setdefault(name, ScoreStats()).add_singles(values, answers)
        self._singles.clear()

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
        for name, count in stats.tokens.items():
            column = self.tokens.get(name)
            if column is None:
                column = self.tokens[name] = Distribution()
            column.add(count)

    def nemo_gym_metrics(self) -> Json:
        """`agent_metrics` by NeMo Gym's keys: figures of columns and tokens, pass@k and its kin."""
        merged: Json = {}
        every = [*self.columns.items(), *self.tokens.items()]
        by_column = [column.nemo_gym_metrics(name) for name, column in every]
        for figure in range(len(STATISTICS)):
            merged |= dict(list(statistics.items())[figure] for statistics in by_column)
        for name, score in self.scores.items():
            merged |= score.nemo_gym_metrics(name)
        return merged

    def statistics(self) -> Json:
        """What there is beside that: errors, intervals, variances, histograms, tokens, raggedness."""
        told: Json = {
            "tasks": self.tasks,
            "rollouts": self.rollouts,
            "rollouts_per_task": {str(size): count for size, count in sorted(self.group_sizes.items())},
            "scores": {
                name: {**score.statistics(), "histogram": self.columns[name].histogram(), "ragged": score.tasks_per_k()}
                for name, score in self.scores.items()
            },
            "share_truncated": self.truncated / self.rollouts if self.rollouts else None,
            "tokens": {name: _token_figures(column) for name, column in self.tokens.items()},
        }
        if self.answers:
            told["share_distinct_answers"] = self.distinct_answers / self.answers
        return told


def by_agent(rollouts: Iterable[tuple[str, RolloutStats]]) -> dict[str, list[RolloutStats]]:
    """A task's rollouts by the agent that answered: a task may be asked of several."""
    found: dict[str, list[RolloutStats]] = {}
    for agent, stats in rollouts:
        found.setdefault(agent, []).append(stats)
    return found


def tokens_of(group: Sequence[RolloutStats]) -> dict[str, list[int]]:
    """A task's counts of tokens by their name."""
    found: dict[str, list[int]] = {}
    for stats in group:
        for name, count in stats.tokens.items():
            found.setdefault(name, []).append(count)
    return found


def group_metrics(task_index: int, group: Sequence[RolloutStats], scores: dict[str, GroupScore]) -> Json:
    """The figures of one task, by NeMo Gym's keys."""
    columns: dict[str, Sequence[float]] = {name: score.values for name, score in scores.items()}
    columns |= tokens_of(group)
    by_figure = zip(*map(_figures_of, columns.values()), strict=True)
    told: Json = {"_ng_task_index": task_index}
    told |= zip(_keys(tuple(columns)), chain.from_iterable(by_figure), strict=True)
    for name, score in scores.items():
        told |= {f"{key}/{name}": value for key, value in score.as_metrics().items()}
    return told


@lru_cache(maxsize=1024)
def _keys(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{figure}/{name}" for figure in STATISTICS for name in names)


def _figures_of(values: Sequence[float]) -> tuple[float, ...]:
    ordered, moments = sorted(values), RunningStats.of(values)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return moments.mean, ordered[-1], ordered[0], median, moments.sd


def _token_figures(column: Distribution) -> Json:
    quantiles = {f"p{share}": column.quantile(share / 100) for share in (50, 90, 99)}
    return {"sum": int(column.total), "mean": column.mean, **quantiles, "max": column.maximum}
