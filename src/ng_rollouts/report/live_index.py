"""The index of an output that a run is writing: it grows row by row, in completion order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.chat import last_user_text, question_of
from ng_rollouts.export.example import Example
from ng_rollouts.jsonl import digest_of
from ng_rollouts.metrics.agreement import ScoreChanges
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.metrics.score_stats import ScoreStats
from ng_rollouts.report.html import NOT_IN_PAGE
from ng_rollouts.report.problems import Problems
from ng_rollouts.report.task_index import (
    FAILED,
    FINISHED,
    PREVIEW_CHARACTERS,
    PROMPT_CHARACTERS,
    AgentNumbers,
    TaskIndex,
    preview_of,
    previous_score,
    shortened,
)
from ng_rollouts.types import Json, RolloutKey, agent_of


@dataclass(slots=True)
class RunningScore:
    """Mean of one score with an interval clustered by task, over rollouts in any order."""

    stats: ScoreStats = field(default_factory=ScoreStats)
    _by_task: dict[int, tuple[int, float]] = field(default_factory=dict)

    def add(self, task_index: int, value: float) -> None:
        """Add the score of one rollout."""
        n, total = self._by_task.get(task_index, (0, 0.0))
        new_total, stats = total + value, self.stats
        stats.tasks += n == 0
        stats.sum_n, stats.sum_s = stats.sum_n + 1, stats.sum_s + value
        # The sums over tasks of n * n, n * s and s * s, where one task has changed.
        stats.sum_nn += 2 * n + 1
        stats.sum_ns += (n + 1) * new_total - n * total
        stats.sum_ss += new_total * new_total - total * total
        self._by_task[task_index] = n + 1, new_total


@dataclass(slots=True)
class _Task:
    prompt: str
    question: str
    rollouts: list[list[Any]] = field(default_factory=list)


class LiveIndex:
    """Tasks and rollouts of a live run.

    Attributes:
        scores: every score by name.
        counts: number of rollouts by kind, `FINISHED`, `INCOMPLETE` and `FAILED`.
        masked: number of masked rollouts.
        problems: health problems of rollouts. Those of tasks need whole groups, and follow at the end of the run.
        changes: what scoring again has changed.
        agents: the names of the agents so far, in order.
    """

    def __init__(self, agent_numbers: AgentNumbers, score: str) -> None:
        self.scores: dict[str, RunningScore] = {}
        self.masked = 0
        self.problems = Problems()
        self.changes = ScoreChanges()
        self.counts = [0, 0, 0]
        self.agents: dict[str, None] = {}
        self._agent_numbers = agent_numbers
        self._score = score
        self._tasks: dict[int, _Task] = {}

    def add(self, task_index: int, kind: int, row: Json) -> list[Any]:
        """Add a row; what page.js needs to do the same: task, prompt and question, then the columns of the rollout."""
        sent = row.get("row")
        example = Example(sent if kind == FAILED and isinstance(sent, dict) else row)
        task = self._tasks.get(task_index)
        if task is None:
            prompt = shortened(last_user_text(example.prompt), PROMPT_CHARACTERS)
            task = self._tasks[task_index] = _Task(prompt, digest_of(question_of(example.row)))
        failed, agent = kind == FAILED, agent_of(row)
        self.agents[agent] = None
        number = row.get("_ng_rollout_index")
        scores = {} if failed else example.stats.scores
        masked = None if failed else example.stats.masked
        previous = None if failed else previous_score(example.stats, self._score)
        key = RolloutKey(task_index, number if isinstance(number, int) else 0)
        rollout = [
            number if isinstance(number, int) else None,
            scores.get(self._score),
            scores.get("accuracy"),
            None if failed else example.stats.tokens.get("output_tokens"),
            0 if failed else int(example.stats.truncated),
            masked,
            0 if failed else self.problems.add(key, row),
            kind,
            self._agent_numbers.number(agent),
            shortened(preview_of(row, failed=failed), PREVIEW_CHARACTERS),
            previous,
        ]
        task.rollouts.append(rollout)
        self.counts[kind] += 1
        self.masked += masked is not None
        if kind == FINISHED:
            self.changes.add(key, previous, scores.get(self._score))
            for name, value in scores.items():
                self.scores.setdefault(name, RunningScore()).add(task_index, value)
        return [task_index, task.prompt, task.question, *rollout]

    def columns(self) -> Json:
        """The index in the form of a finished one."""
        index = TaskIndex()
        for task_index, task in sorted(self._tasks.items()):
            index.tasks.append(task_index)
            index.prompts.append(task.prompt)
            index.questions.append(task.question)
            present = [rollout[1] for rollout in task.rollouts if rollout[7] == FINISHED and rollout[1] is not None]
            stats = RunningStats.of(present) if present else None
            index.means.append(stats.mean if stats else None)
            index.sds.append(stats.sd if stats and stats.count > 1 else None)
            for rollout in task.rollouts:
                for column, value in zip(_columns(index), rollout, strict=True):
                    column.append(value)
            index.starts.append(len(index.kinds))
        index.blocks = [NOT_IN_PAGE] * len(index.kinds)
        index.lines = [NOT_IN_PAGE] * len(index.kinds)
        return index.columns()

    def cards(self) -> Iterator[list[Any]]:
        """Title and value of each card of the overview."""
        yield ["tasks so far", len(self._tasks)]
        yield ["rollouts", self.counts[FINISHED]]
        for name in dict.fromkeys((self._score, "accuracy")):
            if (score := self.scores.get(name)) is not None:
                half_width = score.stats.half_width
                yield [f"mean {name}", f"{score.stats.mean:.3f}" + (f" ± {half_width:.3f}" if half_width else "")]
        yield ["failed", self.counts[FAILED]]
        if self.masked:
            yield ["masked, not in any metric", self.masked]


def _columns(index: TaskIndex) -> tuple[list[Any], ...]:
    """The columns of a rollout in the order of `LiveIndex.add`."""
    return (
        index.rollout_indices,
        index.scores,
        index.correct,
        index.tokens,
        index.truncated,
        index.masked,
        index.problems,
        index.kinds,
        index.agents,
        index.previews,
        index.previous,
    )
