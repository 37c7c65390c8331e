"""The index of the report page lists every rollout of a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.report.live_index import LiveIndex
from ng_rollouts.report.overview import listed_changes
from ng_rollouts.report.page import read_file
from ng_rollouts.report.task_index import (
    FAILED,
    FINISHED,
    INCOMPLETE,
    AgentNumbers,
    TaskIndex,
    entries_of,
    example_of,
)
from tests.metrics.helpers import flatten
from tests.rollout_files import rollout_row, write_rows


def test_index_lists_finished_incomplete_and_failed_rollouts_by_task(tmp_path: Path) -> None:
    """Rollouts of the output, of incomplete groups and of the failures file are listed by task.

    Only the rollouts of the output count in the mean of a task.
    """
    output = write_rows(
        tmp_path / "r.jsonl", [rollout_row(0, 0, 1.0), rollout_row(0, 1, 0.5), rollout_row(2, 0, 0.0, "last answer")]
    )
    write_rows(tmp_path / "r_incomplete.jsonl", [rollout_row(1, 0, 1.0)])
    failure = {"failure_class": "http_400", "message": "bad request", "row": rollout_row(1, 1, None)}
    write_rows(tmp_path / "r_failures.jsonl", [{**failure, "_ng_task_index": 1, "_ng_rollout_index": 1}])
    index, agents = TaskIndex(), AgentNumbers()
    for entries in entries_of(output_paths(str(output))):
        index.add(entries, [example_of(entry) for entry in entries], agents, "reward")
    assert (index.tasks, index.starts) == ([0, 1, 2], [0, 2, 4, 5])
    assert index.prompts == ["question 0", "question 1", "question 2"]
    assert index.kinds == [FINISHED, FINISHED, INCOMPLETE, FAILED, FINISHED]
    assert index.rollout_indices == [0, 1, 0, 1, 0]
    assert index.scores == [1.0, 0.5, 1.0, None, 0.0]
    assert index.means == [0.75, None, 0.0]
    assert index.previews[3:] == ["http_400: bad request", "last answer"]


def test_live_index_of_rollouts_scored_again_is_that_of_the_finished_file(tmp_path: Path) -> None:
    """While rollouts are scored again, in any order, the page has the columns and changes of the finished file."""
    rows = [
        rollout_row(task, index, float(task == index), previous_reward=float(index % 2))
        for task in range(3)
        for index in range(4)
    ]
    output = write_rows(tmp_path / "r.jsonl", rows)
    live = LiveIndex(AgentNumbers(), "reward")
    for row in sorted(rows, key=lambda row: (row["_ng_rollout_index"], -row["_ng_task_index"])):
        live.add(row["_ng_task_index"], FINISHED, row)
    finished = read_file(output_paths(str(output)), "reward", AgentNumbers(), lambda *_: None, running=False)
    assert live.columns()["previous"] == finished.columns["previous"] == [0, 1, 0, 1] * 3
    assert live.columns()["scores"] == finished.columns["scores"]
    changes = listed_changes(live.changes)
    assert changes
    assert (changes["changed"], changes["to_one"], changes["to_zero"]) == (7, 2, 5)
    assert finished.overview["changes"]["largest"] == changes["largest"]
    assert flatten(finished.overview["changes"]["agreement"]["confusion"]) == flatten(changes["agreement"]["confusion"])
    assert finished.overview["changes"]["agreement"]["kappa"] == pytest.approx(changes["agreement"]["kappa"])
