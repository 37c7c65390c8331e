"""A run's files -> what the page knows of every task and rollout without having read them."""

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
from ng_rollouts.types import Json, agent_of

FINISHED, ASIDE, FAILED = range(3)
_PROMPT_CHARACTERS = 300
_HEAD_CHARACTERS = 160


class Entry(NamedTuple):
    """A row of one of a run's files."""

    task_index: int
    kind: int
    path: Path
    row_at: RowAt


@dataclass(slots=True)
class Names:
    """Numbers for the names of agents, over all files of a page."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A name's number."""
        return self.numbers.setdefault(name, len(self.numbers))


@dataclass(slots=True)
class TaskIndex:
    """Columns: those of tasks, and those of rollouts, of which task t has starts[t] to starts[t + 1].

    Attributes:
        numbers: `_ng_rollout_index`.
        kinds: finished, set aside or failed.
        questions: a digest of each task's question.
        means, sds: of each task's finished rollouts; None if there are none, or only one.
        heads: the first of each one's last words, or what failed.
        blocks, lines: where its row is in the page; -1 if it is not in it.
    """

    tasks: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    means: list[float | None] = field(default_factory=list)
    sds: list[float | None] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    rollout_indices: list[int | None] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    tokens: list[int | None] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    agents: list[int] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def add(self, entries: list[Entry], examples: list[Example], names: Names, score: str) -> None:
        """Take a task in; where its rows are is added by who knows."""
        self.tasks.append(entries[0].task_index)
        prompt = next((example.prompt for example in examples if example.prompt), [])
        self.prompts.append(_head(last_user_text(prompt), _PROMPT_CHARACTERS))
        self.questions.append(digest_of(question_of(examples[0].row)))
        for entry, example in zip(entries, examples, strict=True):
            failed, row = entry.kind == FAILED, entry.row_at.row
            number = row.get("_ng_rollout_index")
            self.rollout_indices.append(number if isinstance(number, int) else None)
            self.scores.append(None if failed else example.stats.scores.get(score))
            self.tokens.append(None if failed else example.stats.tokens.get("output_tokens"))
            self.truncated.append(0 if failed else int(example.stats.truncated))
            self.kinds.append(entry.kind)
            self.agents.append(names.number(agent_of(row)))
            said = f"{row.get('failure_class')}: {row.get('message')}" if failed else last_message_text(row) or ""
            self.heads.append(_head(said, _HEAD_CHARACTERS))
        self.starts.append(len(self.kinds))
        span = range(self.starts[-2], self.starts[-1])
        scores = [self.scores[place] for place in span if self.kinds[place] == FINISHED]
        known = [each for each in scores if each is not None]
        moments = RunningStats.of(known) if known else None
        self.means.append(moments.mean if moments else None)
        self.sds.append(moments.sd if moments and moments.count > 1 else None)

    def columns(self) -> Json:
        """As the page reads them."""
        return asdict(self)


def entries_of(paths: OutputPaths) -> Iterator[list[Entry]]:
    """The rows of each task, those set aside and those that failed among them, by task index."""
    files = [(FINISHED, paths.finished), (ASIDE, paths.incomplete), (FAILED, paths.failures)]
    streams = [_entries(kind, path) for kind, path in files if kind == FINISHED or path.exists()]
    for _, entries in groupby(merge(*streams, key=lambda entry: entry.task_index), key=lambda entry: entry.task_index):
        yield list(entries)


def add_stats(aggregate: AgentStats, entries: list[Entry], examples: list[Example]) -> None:
    """Fold the finished rollouts of a task in."""
    pairs = zip(entries, examples, strict=True)
    if stats := [example.stats for entry, example in pairs if entry.kind == FINISHED]:
        aggregate.add(stats)


def example_of(entry: Entry) -> Example:
    """A row as chat messages; a failure's is the task that it was sent."""
    row = entry.row_at.row
    sent = row.get("row")
    return Example(sent if entry.kind == FAILED and isinstance(sent, dict) else row)


def _entries(kind: int, path: Path) -> Iterator[Entry]:
    for number, group in enumerate(located_groups(path)):
        for row_at in group:
            index = row_at.row.get("_ng_task_index")
            yield Entry(index if isinstance(index, int) else number, kind, path, row_at)


def _head(text: str, maximum: int) -> str:
    text = " ".join(text[: 4 * maximum].split())
    text = text.encode(errors="replace").decode()
    return text if len(text) <= maximum else text[: maximum - 1] + "…"
