"""Means of scores are those of the finished file, to the last digit. Their names are bounded, and as fast as others."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.score_table import MAX_SCORE_NAMES, ScoreNames, ScoreTable
from ng_rollouts.types import RolloutStats
from tests.conftest import Ran, needs
from tests.rollout_files import write_rows


@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["reward", "b", "accuracy"]), st.floats(-1e6, 1e6) | st.integers(-200, 200)),
        max_size=30,
    ),
    max_sparse=st.integers(0, 4),
    seed=st.integers(),
)
def test_averages_do_not_depend_on_the_order_of_completion(
    rows: list[dict[str, float]], max_sparse: int, seed: int
) -> None:
    """A mean is the left-to-right sum in file order over the rows that have the score, in any storage format.

    `reward` and `accuracy` are listed first.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ng_rollouts.metrics.score_table._MAX_SPARSE", max_sparse)
        scores = ScoreTable(len(rows))
        order = list(range(len(rows)))
        random.Random(seed).shuffle(order)
        for position in order:
            scores.record(position, "a", rows[position])
    averages = scores.averages(b"\1" * len(rows))
    for name in ("reward", "accuracy", "b"):
        total, count = 0.0, 0
        for row in rows:
            if name in row:
                total, count = total + row[name], count + 1
        assert averages.get(name) == (total / count if count else None)
    assert [name for name in averages if name != "b"] == [name for name in ("reward", "accuracy") if name in averages]


@needs("jq")
def test_averages_equal_those_of_jq() -> None:
    """The mean of a score equals that of `jq 'map(.reward) | add/length'` to the last digit."""
    rewards = [random.Random(5).random() for _ in range(1)] + [random.Random(seed).random() for seed in range(500)]
    scores = ScoreTable(len(rewards))
    for position in reversed(range(len(rewards))):
        scores.record(position, "a", {"reward": rewards[position]})
    text = "\n".join(json.dumps({"reward": reward}) for reward in rewards)
    done = subprocess.run(
        ["jq", "-s", "map(.reward) | add/length"], input=text, capture_output=True, text=True, check=True
    )
    assert scores.averages(b"\1" * len(rewards))["reward"] == float(done.stdout)


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
