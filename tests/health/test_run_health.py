"""The health of a run: that of a file with the same rollouts, in memory that follows the rollouts in flight."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.health.checks import Check
from ng_rollouts.health.rollout import health_of
from ng_rollouts.health.run_health import MaskColumn, RunHealth
from ng_rollouts.health.summary import quality_summary, verdict_lines
from ng_rollouts.types import RolloutKey
from tests.health.rows import NEMO_GYM_CASES, closed, message, row_of, trajectory_row

REPEATS = 3

ROWS = [row_of(message("B")), row_of(message("B"), reward=1.0), row_of(), row_of(message("C"), cut="max_steps")]


def collect(rows: Iterable[dict[str, Any]], planned: int = 100, ignored: Iterable[Check] = ()) -> RunHealth:
    """The health of a finished run of these rows, `REPEATS` for each task."""
    health = RunHealth(planned * REPEATS, lambda _: REPEATS, ignored)
    for row in rows:
        key = RolloutKey(row["_ng_task_index"], row["_ng_rollout_index"])
        health.add(key.task_index * REPEATS + key.rollout_index, key, health_of(row))
    health.end()
    return health


def lines_of(health: RunHealth, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the verdicts of these rows, parsed."""
    keys = sorted(RolloutKey(row["_ng_task_index"], row["_ng_rollout_index"]) for row in rows)
    collected = ((key.task_index * REPEATS + key.rollout_index, key) for key in keys)
    return [json.loads(line) for line in verdict_lines(health.rows(collected))]


def keyed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the keys of a run, in its order."""
    return [
        {**row, "_ng_task_index": number // REPEATS, "_ng_rollout_index": number % REPEATS}
        for number, row in enumerate(rows)
    ]


@given(st.lists(st.sampled_from([*ROWS, *(row for row, _, _ in NEMO_GYM_CASES)]), max_size=12), st.randoms())
def test_health_of_a_run_is_that_of_its_file(rows: list[dict[str, Any]], rng: Any) -> None:
    """In any order of completion, a run has the counts, examples, flags and sums of a report of its output."""
    rows = keyed(rows)
    expected = closed(rows).counts
    rng.shuffle(rows)
    health = collect(rows)
    counts = health.counts
    assert (counts.by_check(), counts.verdicts(), counts.tasks) == (
        expected.by_check(),
        expected.verdicts(),
        expected.tasks,
    )
    assert (counts.problems(), list(counts.listed())) == (expected.problems(), list(expected.listed()))
    assert quality_summary(counts, health.totals)["run"]["artifacts"]["records"] == len(rows)


def test_without_a_trajectory_only_findings_have_a_line() -> None:
    """Each line has all keys of the file, but not the names of the nine checks that no row has evidence for."""
    rows = keyed(ROWS)
    lines = lines_of(collect(rows), rows)
    assert [(line["_ng_task_index"], line["_ng_rollout_index"], line["verdict"]) for line in lines] == [
        (0, 2, "unhealthy"),
        (1, 0, "unhealthy"),
    ]
    assert [line["unobserved"] for line in lines] == [[], []]
    assert [line["findings"][0]["check"] for line in lines] == ["empty", "step_limit"]
    assert list(lines[0]) == ["_ng_task_index", "_ng_rollout_index", "rollout_id", "verdict", "findings", "unobserved"]


def test_without_findings_there_are_no_lines() -> None:
    """A run of rollouts without findings and trajectories has no file of verdicts; the counts are in the summary."""
    rows = keyed(ROWS[:2])
    health = collect(rows)
    assert not health.has_lines
    assert lines_of(health, rows) == []
    assert health.counts.verdicts() == {"unobserved": 2}


def test_with_a_trajectory_every_rollout_has_a_line() -> None:
    """One trajectory is enough: then lines differ in what could be checked, also those of rollouts before it."""
    rows = keyed([row_of(message("a")), row_of(), trajectory_row()])
    rows[2]["ng_trajectory"] = trajectory_row(0, 2)["ng_trajectory"]
    lines = lines_of(collect(rows), rows)
    assert [line["verdict"] for line in lines] == ["unobserved", "unhealthy", "healthy"]
    assert [len(line["unobserved"]) for line in lines] == [9, 9, 0]


def test_lines_have_the_names_and_stages_of_rollouts() -> None:
    """A rollout with its own name or a stage has them in its line."""
    rows = keyed([{**row_of(), "_ng_rollout_id": "x", "stage_index": 2}])
    (line,) = lines_of(collect(rows), rows)
    assert (line["rollout_id"], line["stage_index"]) == ("x", 2)


def test_task_is_complete_without_a_failed_rollout() -> None:
    """A failure completes its task, so that nothing is kept of it until the end of the run."""
    health = RunHealth(REPEATS, lambda _: REPEATS)
    for index in (0, 1):
        health.add(index, RolloutKey(0, index), health_of(row_of()))
    assert health.counts.tasks == 0
    health.give_up(0)
    assert health.counts.tasks == 1
    assert health.counts.count(Check.CONSISTENTLY_UNHEALTHY) == 1


def test_ignored_checks_are_not_found() -> None:
    """An ignored check has no count and no line."""
    health = collect(keyed([row_of()]), ignored=[Check.EMPTY])
    assert health.counts.problems() == []
    assert not health.has_lines


@pytest.mark.parametrize("different", [3, 300, 70_000])
def test_column_of_masks_holds_any_number_of_masks(different: int) -> None:
    """The cells become wider where the number of different masks needs it; positions without a mask have None."""
    column = MaskColumn(different + 1)
    for position in range(different):
        column[position] = position << 3
    assert [column[position] for position in range(different)] == [position << 3 for position in range(different)]
    assert column[different] is None
