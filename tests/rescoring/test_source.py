"""Rollouts as tasks: the keys, groups and order of the source, and its side files."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import InputChanged, InputError
from ng_rollouts.inputs.task_parser import Task
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.rescoring.planned_rows import PlannedRows
from ng_rollouts.rescoring.source import RolloutSource
from tests.conftest import keys_of, read_rows
from tests.rescoring.conftest import Rescore, sum_rows
from tests.rollout_files import rollout_row, write_rows

KEYS = st.sets(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=40)


def source_of(path: Path, **options: Any) -> RolloutSource:
    return RolloutSource(paths=output_paths(str(path)), planned=PlannedRows(None), **options)


@given(keys=KEYS, seed=st.integers(0, 1000))
def test_any_rows_with_keys_come_out_in_the_order_of_their_keys(
    keys: set[tuple[int, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each key occurs once, in order, at its position in the plan, in a group of the rollouts of its task."""
    shuffled = sorted(keys)
    random.Random(seed).shuffle(shuffled)
    rows = [rollout_row(task, index, 1.0, f"{task}/{index}") for task, index in shuffled]
    source = source_of(write_rows(tmp_path_factory.mktemp("any") / "rollouts.jsonl", rows))
    plan = source.plan()
    rollouts = list(source.rollouts(plan))
    assert [rollout.key for rollout in rollouts] == sorted(keys) == list(plan.rollout_keys())
    assert [rollout.position for rollout in rollouts] == list(range(len(keys))) == list(range(plan.rollouts))
    texts = [rollout.row["response"]["output"][0]["content"][0]["text"] for rollout in rollouts]
    assert texts == [f"{task}/{index}" for task, index in sorted(keys)]
    size = plan.group_size()
    assert all(size(task) == sum(other == task for other, _ in keys) for task, _ in keys)


@pytest.mark.parametrize(
    "keys",
    [
        [(0, 0), (1, 0), (2, 0)],
        [(task, index) for task in range(3) for index in range(4)],
        [(0, 0), (0, 3), (7, 1), (9, 0), (9, 1)],
    ],
    ids=["one repeat", "several repeats", "gaps"],
)
@pytest.mark.parametrize("step", [1, -1], ids=["ordered", "journal"])
def test_the_output_has_the_keys_and_order_of_the_source(
    keys: list[tuple[int, int]], step: int, rescore: Rescore, tmp_path: Path
) -> None:
    """Groups may have any size and miss rollouts; a journal that no run has finished comes out in order."""
    rows = [rollout_row(task, index, 0.5, "3", expected_answer="3") for task, index in keys]
    write_rows(tmp_path / "rollouts.jsonl", rows[::step])
    ran = rescore("+verifier=exact_match")
    assert ran.code == 0, ran.stderr
    assert keys_of(tmp_path / "new.jsonl") == keys
    assert f"Found {len(keys)} rollouts of {len({task for task, _ in keys})} tasks!" in ran.stdout


def test_rows_without_keys_are_grouped_by_their_question(rescore: Rescore, tmp_path: Path) -> None:
    """Rows of NeMo Gym's first collector get keys: rows with an equal question are one task."""
    rows = sum_rows(2, repeats=2)
    order = [0, 2, 1, 3]
    bare = [{name: value for name, value in rows[place].items() if not name.startswith("_ng_")} for place in order]
    write_rows(tmp_path / "rollouts.jsonl", bare)
    assert rescore("+verifier=exact_match").code == 0
    assert keys_of(tmp_path / "new.jsonl") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [row["expected_answer"] for row in read_rows(tmp_path / "new.jsonl")] == ["0", "0", "3", "3"]


def test_of_two_rows_with_one_key_the_first_counts(rescore: Rescore, tmp_path: Path) -> None:
    """A repeated rollout is scored once."""
    rows = sum_rows(2)
    write_rows(tmp_path / "rollouts.jsonl", [*rows, {**rows[0], "expected_answer": "other"}])
    assert rescore("+verifier=exact_match").code == 0
    assert [row["expected_answer"] for row in read_rows(tmp_path / "new.jsonl")] == ["0", "3"]


def failure(row: dict[str, Any], failure_class: str = "judge_failed", **fields: Any) -> dict[str, Any]:
    """A line of the failures file for a row, with its answer."""
    names = ("_ng_task_index", "_ng_rollout_index", "agent_ref", "response")
    task = {name: row[name] for name in ("responses_create_params", "expected_answer")}
    return {
        **{name: row[name] for name in names},
        "failure_class": failure_class,
        "message": "m",
        "row": task,
        **fields,
    }


def test_incomplete_groups_are_completed_by_a_kept_failure(rescore: Rescore, tmp_path: Path) -> None:
    """The rollouts of an incomplete group are in the output once the failed one of them is scored."""
    rows = sum_rows(3, repeats=2)
    write_rows(tmp_path / "rollouts.jsonl", [*rows[:2], *rows[4:]])
    write_rows(tmp_path / "rollouts_incomplete.jsonl", [rows[2]])
    write_rows(tmp_path / "rollouts_failures.jsonl", [failure(rows[3])])
    ran = rescore("+verifier=exact_match", "+only=failed")
    assert ran.code == 0, ran.stderr
    assert keys_of(tmp_path / "new.jsonl") == [(task, index) for task in range(3) for index in range(2)]
    assert [row["reward"] for row in read_rows(tmp_path / "new.jsonl")] == [0.5, 0.5, 0.5, 0.0, 0.5, 0.5]
    assert not (tmp_path / "new_incomplete.jsonl").exists()
    assert not (tmp_path / "new_failures.jsonl").exists()


def test_a_failure_without_an_answer_keeps_its_group_incomplete(rescore: Rescore, tmp_path: Path) -> None:
    """The rollout fails again with its class and message, and the others of its group are set aside again."""
    rows = sum_rows(2, repeats=2)
    write_rows(tmp_path / "rollouts.jsonl", rows[:2])
    write_rows(tmp_path / "rollouts_incomplete.jsonl", [rows[2]])
    lost = {name: value for name, value in failure(rows[3], "http_500", status=500).items() if name != "response"}
    write_rows(tmp_path / "rollouts_failures.jsonl", [lost])
    ran = rescore("+verifier=exact_match")
    assert ran.code == 1, ran.stderr
    assert keys_of(tmp_path / "new.jsonl") == [(0, 0), (0, 1)]
    assert keys_of(tmp_path / "new_incomplete.jsonl") == [(1, 0)]
    [line] = read_rows(tmp_path / "new_failures.jsonl")
    assert (line["failure_class"], line["status"], line["message"]) == ("http_500", 500, "m")


def test_failures_of_the_source_do_not_end_the_run(rescore: Rescore, tmp_path: Path) -> None:
    """Rollouts that no server was reached for, in the earlier run, say nothing about the servers of this one."""
    rows = sum_rows(40)
    lost = [{k: v for k, v in failure(row, "connection_refused").items() if k != "response"} for row in rows[:30]]
    write_rows(tmp_path / "rollouts_failures.jsonl", lost)
    write_rows(tmp_path / "rollouts.jsonl", rows[30:])
    ran = rescore("+verifier=exact_match", "+num_samples_in_parallel=1")
    assert ran.code == 1, ran.stderr
    assert len(read_rows(tmp_path / "new.jsonl")) == 10
    assert len(read_rows(tmp_path / "new_failures.jsonl")) == 30


def test_a_torn_last_line_of_the_failures_is_left_out(rescore: Rescore, sums_file: Path, tmp_path: Path) -> None:
    """A line that a crash cut off is not a failure."""
    line = json.dumps(failure(sum_rows(5)[4]))
    (tmp_path / "rollouts_failures.jsonl").write_text(f"{line}\n{line[:50]}")
    assert rescore("+verifier=exact_match").code == 0
    assert len(read_rows(tmp_path / "new.jsonl")) == 5


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def grown(path: Path) -> None:
    with path.open("a") as file:
        file.write(json.dumps(rollout_row(99, 0, 1.0)) + "\n")


def rewritten(path: Path) -> None:
    path.write_text(path.read_text().replace("answer", "replay"))
    os.utime(path, ns=(1, 1))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [replaced, grown, rewritten, cut, Path.unlink])
@pytest.mark.parametrize("end", [".jsonl", "_failures.jsonl"])
def test_a_source_that_changes_while_it_is_read_ends_the_run(
    change: Callable[[Path], object], end: str, tmp_path: Path
) -> None:
    """No row of another state of the files is used, also if the file has grown only."""
    rows = sum_rows(50)
    write_rows(tmp_path / "rollouts.jsonl", rows[:40])
    write_rows(tmp_path / "rollouts_failures.jsonl", map(failure, rows[40:]))
    source = source_of(tmp_path / "rollouts.jsonl")
    plan = source.plan()
    rollouts = source.rollouts(plan)
    read = [next(rollouts), next(rollouts)]
    change(tmp_path / f"rollouts{end}")
    with pytest.raises(InputChanged, match=r"rollouts\.jsonl, or a file next to it, was changed"):
        read += list(rollouts)
    assert len(read) <= 3


def test_a_file_that_changed_before_it_is_read_again_ends_the_run(sums_file: Path) -> None:
    """A change between plan and first rollout is found."""
    source = source_of(sums_file)
    plan = source.plan()
    rewritten(sums_file)
    with pytest.raises(InputChanged):
        next(source.rollouts(plan))


def test_check_lists_each_reason_once(sums_file: Path) -> None:
    """The message has a line for each reason, with the number of rollouts and an example."""

    def refuse(task: Task) -> None:
        raise InputError("odd" if task.own_index and task.own_index % 2 else "even")

    with pytest.raises(InputError) as raised:
        source_of(sums_file).check(refuse)
    assert "2 rollouts, such as task 0, rollout 0: even" in str(raised.value)
    assert "2 rollouts, such as task 1, rollout 0: odd" in str(raised.value)


def test_with_groups_each_rollout_has_the_answers_of_its_group(tmp_path: Path) -> None:
    """The responses are in the order of the keys, and each rollout knows its place."""
    rows = sum_rows(2, repeats=3)
    source = source_of(write_rows(tmp_path / "rollouts.jsonl", rows), with_groups=True)
    for number, rollout in enumerate(source.rollouts(source.plan())):
        start = number - number % 3
        assert rollout.row["_ng_transient_group"] == [row["response"] for row in rows[start : start + 3]]
        assert rollout.row["_ng_transient_place"] == number % 3
