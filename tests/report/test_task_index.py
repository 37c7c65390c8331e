"""The index of the report page lists every rollout of a task."""

from __future__ import annotations

from pathlib import Path

from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.report.task_index import (
    FAILED,
    FINISHED,
    INCOMPLETE,
    AgentNumbers,
    TaskIndex,
    entries_of,
    example_of,
)
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
