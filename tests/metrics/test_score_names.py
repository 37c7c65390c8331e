"""Scores whose names differ from row to row: bounded, and as fast as others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.metrics.score_names import MAX_SCORE_NAMES, ScoreNames
from ng_rollouts.metrics.score_table import ScoreTable
from ng_rollouts.types import RolloutStats
from tests.conftest import Ran
from tests.rollout_files import write_rows


def test_first_names_and_the_reward_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to the limit all scores count, beyond it those that occurred before, and a line says so once."""
    names = ScoreNames()
    limited = [names.limit(RolloutStats(scores={f"s{n}": 1.0, "reward": 1.0})) for n in range(MAX_SCORE_NAMES + 10)]
    assert limited[0].scores == {"s0": 1.0, "reward": 1.0}
    assert limited[-1].scores == {"reward": 1.0}
    assert names.limit(RolloutStats(scores={"s0": 2.0})).scores == {"s0": 2.0}
    assert len(set().union(*(stats.scores for stats in limited))) <= MAX_SCORE_NAMES
    assert capsys.readouterr().err.count("different scores") == 1


class CountedReads(bytes):
    """Bytes that count how often one of them is read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[int]:
        self.reads += len(self)
        return super().__iter__()


def test_means_take_time_for_values_not_for_names() -> None:
    """With a name of its own in every row, twice the rows take about twice the steps, not four times."""

    def steps(rollouts: int) -> int:
        table, included = ScoreTable(rollouts), CountedReads(b"\1" * rollouts)
        for position in range(rollouts):
            table.record(position, "a", {f"s{position}": 1.0})
        assert len(table.averages(included)) == rollouts
        return included.reads

    assert steps(400) <= 2 * steps(200)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("ng_reward_profile", ["+rollouts_jsonl_fpath=r.jsonl"]),
        ("ng_aggregate_rollouts", ["+input_glob=r.jsonl", "+output_jsonl_fpath=m.jsonl"]),
    ],
)
def test_reading_commands_limit_the_names(
    command: Callable[..., Ran], tmp_path: Path, script: str, arguments: list[str]
) -> None:
    """Reading commands count the same number of names, and say that they leave out others."""
    write_rows(
        tmp_path / "r.jsonl",
        [
            {"_ng_task_index": n, "_ng_rollout_index": 0, "reward": 1.0, **{f"s{n}_{k}": 1.0 for k in range(50)}}
            for n in range(100)
        ],
    )
    ran = command(*arguments, script=script)
    assert (ran.code, "different scores" in ran.stderr) == (0, True), ran.stderr
