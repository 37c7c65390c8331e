"""The index of a page: what it knows of every task and rollout before it reads any row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ng_rollouts.chat import last_user_text, question_of
from ng_rollouts.export.example import Example
from ng_rollouts.jsonl import digest_of
from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.reader import RowAt, last_message_text, located_groups
from ng_rollouts.types import Json, RolloutStats, agent_of

FINISHED, INCOMPLETE, FAILED = range(3)
"""Kinds of rollouts: in the output, set aside because their group is incomplete, or failed. page.js uses the same."""

PROMPT_CHARACTERS = 300
PREVIEW_CHARACTERS = 160
"""The index is in memory as a whole, so texts in it are short. The page searches these texts first."""


class Entry(NamedTuple):
    """A row of the output, of the incomplete groups or of the failures.

    Attributes:
        kind: `FINISHED`, `INCOMPLETE` or `FAILED`.
    """

    task_index: int
    kind: int
    path: Path
    row_at: RowAt


@dataclass(slots=True)
class AgentNumbers:
    """Consecutive numbers for the names of agents, over all files of a page.

    Attributes:
        numbers: number by name, in order.
    """

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The number of a name; a new name gets the next one."""
        return self.numbers.setdefault(name, len(self.numbers))


@dataclass(slots=True)
class TaskIndex:
    """Tasks and rollouts as columns, which are much smaller as JSON than an object each.

    The first six columns have an item per task, the others an item per rollout. The rollouts of task t are those from
    starts[t] to starts[t + 1], exclusive. page.js reads the columns by these names.

    Attributes:
        tasks: the `_ng_task_index` of each task.
        prompts: the beginning of each task's last user message.
        questions: a digest of each task's question.
        means, sds: mean and standard deviation over each task's finished rollouts; None if there are none, or (for
            `sds`) only one.
        starts: the first rollout of each task, and the number of rollouts.
        rollout_indices: the `_ng_rollout_index` of each rollout.
        scores: the score that the page sorts by.
        correct: the accuracy, if the row has one.
        tokens: output tokens.
        truncated: 1 if the response was truncated, else 0.
        masked: why the result is not a measurement; None if it is one.
        problems: the mask of the rollout's and its task's health problems.
        kinds: `FINISHED`, `INCOMPLETE` or `FAILED`.
        agents: the agent's number.
        previews: the beginning of the last message, or of the failure class and message.
        previous: the score before the rollout was scored again; None if it was not.
        blocks, lines: the position of the row in the page; `NOT_IN_PAGE` if the page does not contain it.
    """

    tasks: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    means: list[float | None] = field(default_factory=list)
    sds: list[float | None] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    rollout_indices: list[int | None] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    correct: list[float | None] = field(default_factory=list)
    tokens: list[int | None] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    masked: list[str | None] = field(default_factory=list)
    problems: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    agents: list[int] = field(default_factory=list)
    previews: list[str] = field(default_factory=list)
    previous: list[float | None] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def add(self, entries: list[Entry], examples: list[Example], agent_numbers: AgentNumbers, score: str) -> None:
        """Add a task with its rollouts.

        The caller appends `problems`, and `blocks` and `lines` once it has stored the rows.
        """
        self.tasks.append(entries[0].task_index)
        prompt = next((example.prompt for example in examples if example.prompt), [])
        self.prompts.append(shortened(last_user_text(prompt), PROMPT_CHARACTERS))
        self.questions.append(digest_of(question_of(examples[0].row)))
        for entry, example in zip(entries, examples, strict=True):
            failed, row = entry.kind == FAILED, entry.row_at.row
            number = row.get("_ng_rollout_index")
            self.rollout_indices.append(number if isinstance(number, int) else None)
            self.scores.append(None if failed else example.stats.scores.get(score))
            self.correct.append(None if failed else example.stats.scores.get("accuracy"))
            self.tokens.append(None if failed else example.stats.tokens.get("output_tokens"))
            self.truncated.append(0 if failed else int(example.stats.truncated))
            self.masked.append(None if failed else example.stats.masked)
            self.kinds.append(entry.kind)
            self.agents.append(agent_numbers.number(agent_of(row)))
            self.previews.append(shortened(preview_of(row, failed=failed), PREVIEW_CHARACTERS))
            self.previous.append(None if failed else previous_score(example.stats, score))
        self.starts.append(len(self.kinds))
        self._add_mean()

    def _add_mean(self) -> None:
        """Append mean and standard deviation of the last task, over its finished rollouts alone."""
        positions = range(self.starts[-2], self.starts[-1])
        scores = [self.scores[position] for position in positions if self.kinds[position] == FINISHED]
        present = [score for score in scores if score is not None]
        stats = RunningStats.of(present) if present else None
        self.means.append(stats.mean if stats else None)
        self.sds.append(stats.sd if stats and stats.count > 1 else None)

    def columns(self) -> Json:
        """The columns by name, as page.js reads them."""
        return asdict(self)


def entries_of(paths: OutputPaths) -> Iterator[list[Entry]]:
    """The rows of each task, with those set aside and those that failed, by task index."""
    files = [(FINISHED, source_of(paths)), (INCOMPLETE, paths.incomplete), (FAILED, paths.failures)]
    streams = [_entries(kind, path) for kind, path in files if kind == FINISHED or path.exists()]
    # Each stream is in order of task index, so merging needs memory for one group per file only.
    for _, entries in groupby(merge(*streams, key=lambda entry: entry.task_index), key=lambda entry: entry.task_index):
        yield list(entries)


def source_of(paths: OutputPaths) -> Path:
    """The file with the rollouts: the finished one, or the journal of a run that compresses it at its end."""
    return paths.finished if paths.finished.exists() or not paths.output.exists() else paths.output


def add_stats(aggregate: AgentStats, entries: list[Entry], examples: list[Example]) -> None:
    """Add the finished rollouts of a task to the statistics."""
    pairs = zip(entries, examples, strict=True)
    if stats := [example.stats for entry, example in pairs if entry.kind == FINISHED]:
        aggregate.add(stats)


def example_of(entry: Entry) -> Example:
    """The row as chat messages; of a failure, the row that was sent to the agent."""
    row = entry.row_at.row
    sent = row.get("row")
    return Example(sent if entry.kind == FAILED and isinstance(sent, dict) else row)


def _entries(kind: int, path: Path) -> Iterator[Entry]:
    for number, group in enumerate(located_groups(path)):
        for row_at in group:
            index = row_at.row.get("_ng_task_index")
            # Rows of other programs may have no index: their groups are numbered in file order.
            yield Entry(index if isinstance(index, int) else number, kind, path, row_at)


def preview_of(row: Json, *, failed: bool) -> str:
    """The last message of a row; of a failure, its class and message."""
    return f"{row.get('failure_class')}: {row.get('message')}" if failed else last_message_text(row) or ""


def previous_score(stats: RolloutStats, score: str) -> float | None:
    """The score before the rollout was scored again; None if it was not. Rows keep an earlier reward only."""
    return stats.scores.get("previous_reward") if score == "reward" else None


def shortened(text: str, maximum: int) -> str:
    """The beginning of a text on one line, with an ellipsis if there is more of it."""
    # A slice first, because a text can be megabytes long: four times the maximum, since white space collapses.
    text = " ".join(text[: 4 * maximum].split())
    # Lone surrogates cannot be encoded as UTF-8.
    text = text.encode(errors="replace").decode()
    return text if len(text) <= maximum else text[: maximum - 1] + "…"
