"""Tasks that give rollouts the fields that their rows lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from ng_rollouts.errors import InputError
from ng_rollouts.rescoring.planned_rows import PlannedRows
from ng_rollouts.types import RolloutKey
from tests.conftest import read_rows
from tests.rescoring.conftest import Rescore, sum_rows
from tests.rollout_files import write_rows


def test_rows_have_the_task_of_their_index(tmp_path: Path) -> None:
    """A file of planned rows has a line for each rollout; a file of tasks has one for each task, by position."""
    planned = [
        {"_ng_task_index": task, "_ng_rollout_index": index, "gold": task} for task in (3, 5) for index in (0, 1)
    ]
    rows = PlannedRows(write_rows(tmp_path / "planned.jsonl", planned))
    assert [rows.of(RolloutKey(task, 1)) for task in (3, 5, 4, 3)] == [{"gold": 3}, {"gold": 5}, {}, {"gold": 3}]
    rows = PlannedRows(write_rows(tmp_path / "tasks.jsonl", [{"gold": "a"}, {"gold": "b"}]))
    assert [rows.of(RolloutKey(task, 0)) for task in (1, 0, 2)] == [{"gold": "b"}, {"gold": "a"}, {}]
    assert PlannedRows(None).of(RolloutKey(0, 0)) == {}


@pytest.mark.parametrize(("text", "message"), [("{}\nodd\n", "line 2: not JSON"), ("[1]\n", "line 1: not an object")])
def test_a_line_that_is_no_row_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    """The message has file and line."""
    path = tmp_path / "tasks.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        PlannedRows(path)


def test_fields_of_the_rollout_come_before_none_of_its_task(rescore: Rescore, tmp_path: Path) -> None:
    """The expected answer of the tasks is used; the score and the answer are those of the rollout."""
    rows = sum_rows(2)
    for row in rows:
        del row["expected_answer"]
    write_rows(tmp_path / "rollouts.jsonl", rows)
    write_rows(tmp_path / "tasks.jsonl", [{"expected_answer": "0", "level": 3}, {"expected_answer": "4", "level": 4}])
    ran = rescore("+verifier=exact_match", "+tasks_jsonl_fpath=tasks.jsonl", "+training_view=false")
    assert ran.code == 0, ran.stderr
    new = read_rows(tmp_path / "new.jsonl")
    assert [(row["reward"], row["expected_answer"]) for row in new] == [(1.0, "0"), (1.0, "4")]
    assert "level" not in new[0]  # at the top level, it would be a score
    assert new[0]["_ng_task_fields"]["level"] == 3
