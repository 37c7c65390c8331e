"""Groups -> figures, one group at a time: nothing is kept of a group once it is folded in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

from ng_rollouts.metrics.distribution import FIGURES, Column
from ng_rollouts.metrics.running_stats import Moments
from ng_rollouts.metrics.score_stats import GroupScore, Score, scores_of
from ng_rollouts.types import Facts, Json


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

    def add(self, group: Sequence[Facts], scores: dict[str, GroupScore] | None = None) -> None:
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
        given = [facts.answer for facts in group if facts.answer is not None]
        self.distinct, self.answered = self.distinct + len(set(given)), self.answered + len(given)
        for name, score in (scores_of(group) if scores is None else scores).items():
            self.columns.setdefault(name, Column()).extend(score.values)
            self.scores.setdefault(name, Score()).add(score)
        self.truncated += sum(facts.truncated for facts in group)
        for name, counts in tokens_of(group).items():
            self.tokens.setdefault(name, Column()).extend(counts)

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
        for figure in range(len(FIGURES)):
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


def by_agent(rollouts: Iterable[tuple[str, Facts]]) -> dict[str, list[Facts]]:
    """A task's rollouts by the agent that answered: a task may be asked of several."""
    found: dict[str, list[Facts]] = {}
    for agent, facts in rollouts:
        found.setdefault(agent, []).append(facts)
    return found


def tokens_of(group: Sequence[Facts]) -> dict[str, list[int]]:
    """A task's counts of tokens by their name."""
    found: dict[str, list[int]] = {}
    for facts in group:
        for name, count in facts.tokens.items():
            found.setdefault(name, []).append(count)
    return found


def group_figures(task_index: int, group: Sequence[Facts], scores: dict[str, GroupScore]) -> Json:
    """The figures of one task, by NeMo Gym's keys."""
    columns: dict[str, Sequence[float]] = {name: score.values for name, score in scores.items()}
    columns |= tokens_of(group)
    by_figure = zip(*map(_figures_of, columns.values()), strict=True)
    told: Json = {"_ng_task_index": task_index}
    told |= zip(_keys(tuple(columns)), chain.from_iterable(by_figure), strict=True)
    for name, score in scores.items():
        told |= {f"{key}/{name}": value for key, value in score.told().items()}
    return told


@lru_cache(maxsize=1024)
def _keys(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{figure}/{name}" for figure in FIGURES for name in names)


def _figures_of(values: Sequence[float]) -> tuple[float, ...]:
    ordered, moments = sorted(values), Moments.of(values)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return moments.mean, ordered[-1], ordered[0], median, moments.sd


def _token_figures(column: Column) -> Json:
    quantiles = {f"p{share}": column.quantile(share / 100) for share in (50, 90, 99)}
    return {"sum": int(column.total), "mean": column.mean, **quantiles, "max": column.most}
