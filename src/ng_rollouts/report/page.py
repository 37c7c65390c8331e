"""The data of a page over one file of rollouts, or over two."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.paired_comparison import difference_of
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.report.html import page_head
from ng_rollouts.report.overview import SharedParameters, overview_of
from ng_rollouts.report.problems import Problems
from ng_rollouts.report.run_state import heading_of
from ng_rollouts.report.task_index import (
    FAILED,
    FINISHED,
    AgentNumbers,
    Entry,
    TaskIndex,
    add_stats,
    entries_of,
    example_of,
    source_of,
)
from ng_rollouts.types import Json

StoreRow = Callable[[TaskIndex, Entry], None]
"""Stores the row of an entry, and appends its block and line to the index."""


@dataclass(frozen=True, slots=True)
class FileData:
    """Index and overview of a file, in the form that page.js reads."""

    columns: Json
    overview: Json

    @property
    def rollouts(self) -> int:
        """Number of rollouts in the output."""
        return int(self.columns["kinds"].count(FINISHED))


def read_file(
    paths: OutputPaths, score: str, agent_numbers: AgentNumbers, store_row: StoreRow, *, running: bool
) -> FileData:
    """Read a file and its side files.

    Args:
        running: whether a run writes the file, for the heading.

    Raises:
        InputError: it has no rollouts.
        ConfigError: none of them has the score.
    """
    index, aggregate, failures, parameters = TaskIndex(), AgentStats(), Counter[str](), SharedParameters()
    problems, has_results = Problems(), False
    for entries in entries_of(paths):
        examples = [example_of(entry) for entry in entries]
        index.add(entries, examples, agent_numbers, score)
        rows = [None if entry.kind == FAILED else entry.row_at.row for entry in entries]
        index.problems += problems.add_task(entries[0].task_index, rows)
        add_stats(aggregate, entries, examples)
        for entry, example in zip(entries, examples, strict=True):
            store_row(index, entry)
            parameters.add(entry.row_at.row)
            if entry.kind == FAILED:
                failures[str(entry.row_at.row.get("failure_class"))] += 1
            has_results = has_results or entry.kind == FAILED or bool(example.completion or example.stats.scores)
    aggregate.end()
    if not index.tasks:
        raise InputError(f"{source_of(paths)} has no rollouts")
    if not has_results:
        raise InputError(f"{source_of(paths)} has no rollouts: its rows have neither a response nor a score")
    if score not in aggregate.scores and aggregate.scores:
        available = ", ".join(aggregate.scores)
        raise ConfigError(f"no rollout of {source_of(paths)} has the score {score!r}: available scores: {available}")
    numbers = set(index.agents)
    agents = [name for name, number in agent_numbers.numbers.items() if number in numbers]
    heading = heading_of(paths, index.kinds.count(FINISHED), index.kinds.count(FAILED), agents, running=running)
    overview = overview_of(paths, index, aggregate, failures, parameters, score)
    return FileData(index.columns(), {"heading": heading, **overview, "problems": problems.listed()})


def head_of(files: Sequence[FileData], agent_numbers: AgentNumbers, score: str, *, version: int | None) -> bytes:
    """The page without its rows.

    Args:
        version: of a page whose server answers requests for rows, see `ServedPage.followed`; None for a file.
    """
    served = version is not None
    overview = {
        "files": [each.overview for each in files],
        "agents": list(agent_numbers.numbers),
        "score": score,
        "served": served,
        "version": version,
        "difference": _difference(files),
    }
    title = " and ".join(each.overview["name"] for each in files)
    return page_head(title, overview, [each.columns for each in files], served=served)


def _difference(files: Sequence[FileData]) -> Json | None:
    """The paired difference of two files; None if there is one file, or no common task."""
    if len(files) < 2:
        return None
    # Tasks are common if index and question agree: an index alone may name another task in another input.
    first, second = (
        dict(zip(zip(columns["tasks"], columns["questions"], strict=True), columns["means"], strict=True))
        for columns in (each.columns for each in files)
    )
    common = {
        task: (mean, other)
        for (task, question), mean in first.items()
        if mean is not None and (other := second.get((task, question))) is not None
    }
    # The default seed of ng_compare_rollouts, so that the page shows the same p value.
    rng = random.Random(0)  # noqa: S311 - a bootstrap
    return asdict(difference_of(common, rng)) if common else None
