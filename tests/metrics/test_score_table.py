"""Means of scores are those of the finished file, to the last digit."""

from __future__ import annotations

import json
import random
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.score_table import ScoreTable
from tests.conftest import needs


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
