"""The simulated policy of the example agents varies with temperature as the documentation of the strategies says."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from tests.conftest import read_rows
from tests.example_runs import collect_examples

TOLERANCE = 0.05
"""How far a documented share may be missed."""


@pytest.fixture(scope="module")
def rows_by_temperature(tmp_path_factory: pytest.TempPathFactory) -> dict[float, list[Any]]:
    """300 rows at each of three temperatures."""
    folder = tmp_path_factory.mktemp("temperatures")
    return {
        temperature: read_rows(
            collect_examples(folder / f"{temperature}.jsonl", f"+responses_create_params.temperature={temperature}")
        )
        for temperature in (0.2, 0.5, 0.9)
    }


@pytest.mark.parametrize(("temperature", "minimum", "maximum"), [(0.2, 0.3, 0.5), (0.5, 0.6, 0.8), (0.9, 0.85, 0.95)])
def test_share_of_distinct_answers_is_as_documented(
    rows_by_temperature: dict[float, list[Any]], temperature: float, minimum: float, maximum: float
) -> None:
    """The share of distinct last messages, with one rollout per task, lies in the documented range."""
    distinct = len({row["output"][-1]["content"] for row in rows_by_temperature[temperature]})
    assert minimum - TOLERANCE <= distinct / 300 <= maximum + TOLERANCE


def test_rewards_spread_with_temperature(rows_by_temperature: dict[float, list[Any]]) -> None:
    """Most rewards are from 0.7 up at 0.2 and from 0.3 to 0.9 at 0.5, and they cover the range from 0 to 1 at 0.9."""
    rewards = {temperature: [row["reward"] for row in rows] for temperature, rows in rows_by_temperature.items()}
    spread = {temperature: statistics.stdev(values) for temperature, values in rewards.items()}
    assert spread[0.2] < spread[0.5] < spread[0.9]
    assert sum(reward >= 0.7 for reward in rewards[0.2]) / 300 >= 0.9 - TOLERANCE
    low, *_, high = statistics.quantiles(rewards[0.5], n=10)
    assert low == pytest.approx(0.3, abs=0.1 + TOLERANCE)
    assert high >= 0.9 - TOLERANCE
    assert (min(rewards[0.9]), max(rewards[0.9])) == (0.0, 1.0)
