"""Statistics of each repeat, and across repeats."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics import repeat_stats
from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.repeat_stats import RepeatColumn
from ng_rollouts.types import Json, RolloutStats
from tests.metrics.helpers import flatten

Tasks = list[dict[int, float]]

TASKS = st.lists(st.dictionaries(st.integers(0, 3), st.sampled_from([0.0, 0.25, 1.0]), min_size=1), min_size=1)
"""For each task, the reward by rollout index."""


def stats_of_tasks(tasks: Tasks) -> AgentStats:
    """The statistics of an agent with these rewards; a negative reward is that of a masked rollout."""
    aggregate = AgentStats()
    for task in tasks:
        aggregate.add([_rollout(index, reward) for index, reward in sorted(task.items())])
    aggregate.end()
    return aggregate


def _rollout(index: int, reward: float) -> RolloutStats:
    if reward < 0:
        return RolloutStats(scores={}, masked="no_kind", rollout_index=index)
    return RolloutStats(scores={"reward": reward}, tokens={"output_tokens": index}, rollout_index=index)


def entries(tasks: Tasks) -> list[Json]:
    """The statistics of each repeat."""
    return stats_of_tasks(tasks).repeat_level_metrics()


@given(TASKS)
def test_entries_are_the_statistics_of_each_repeat(tasks: Tasks) -> None:
    """An entry has the statistics of the rollouts with its index alone, and counts the tasks without one."""
    indices = sorted({index for task in tasks for index in task})
    found = entries(tasks)
    if len(indices) == 1:
        assert found == []
        return
    assert [entry["_ng_rollout_index"] for entry in found] == indices
    for entry in found:
        values = [task[index] for task in tasks if (index := entry["_ng_rollout_index"]) in task]
        assert (entry["sample_count"], entry["missing_count"]) == (len(values), len(tasks) - len(values))
        for key, value in _expected(values).items():
            assert entry[f"{key}/reward"] == pytest.approx(value)
        assert entry["mean/output_tokens"] == entry["_ng_rollout_index"]
        assert ("ci_low_95/reward" in entry) == (len(values) > 1)


def _expected(values: Sequence[float]) -> dict[str, float]:
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": statistics.fmean(values),
        "std": sd,
        "sem": sd / len(values) ** 0.5,
        "min": min(values),
        "p25": quartiles[0],
        "median": quartiles[1],
        "p75": quartiles[2],
        "max": max(values),
    }


@given(TASKS, st.randoms(use_true_random=False))
def test_order_of_tasks_does_not_matter(tasks: Tasks, random: Any) -> None:
    """Tasks with the first repeat alone may come before or after those that show that there are several."""
    shuffled = random.sample(tasks, len(tasks))
    assert flatten(entries(shuffled)) == pytest.approx(flatten(entries(tasks)))


@given(TASKS)
def test_across_repeats_are_the_statistics_of_the_means(tasks: Tasks) -> None:
    """The statistics across repeats treat the mean of each repeat as one value."""
    aggregate = stats_of_tasks(tasks)
    metrics, means = aggregate.nemo_gym_metrics(), [each["mean/reward"] for each in aggregate.repeat_level_metrics()]
    assert metrics["num_repeats"] == len({index for task in tasks for index in task})
    if not means:
        assert not any("_across_repeats" in key for key in metrics)
        return
    expected = _expected(means)
    expected["se"] = expected["sem"]
    for key in ("mean", "median", "std", "min", "max", "se"):
        assert metrics[f"{key}_across_repeats/mean/reward"] == pytest.approx(expected[key])
    low, high = (metrics[f"ci_{end}_95_across_repeats/mean/reward"] for end in ("low", "high"))
    assert low <= metrics["mean_across_repeats/mean/reward"] <= high


def test_masked_rollouts_count_as_repeats_only() -> None:
    """A masked rollout is in no statistic of its repeat, but in `num_repeats`."""
    aggregate = stats_of_tasks([{0: 1.0, 1: -1}, {0: 0.0}, {2: -1}])
    assert aggregate.repeat_level_metrics() == []
    assert aggregate.nemo_gym_metrics()["num_repeats"] == 3
    (first, second) = entries([{0: 1.0, 1: -1}, {0: -1, 1: 0.5}])
    assert (first["mean/reward"], second["mean/reward"]) == (1.0, 0.5)
    assert (first["missing_count"], second["missing_count"]) == (1, 1)


def test_scores_that_are_statistics_have_none_across_repeats() -> None:
    """As in NeMo Gym, a score named like a statistic has metrics by repeat, but none across repeats."""
    aggregate = AgentStats()
    aggregate.add([RolloutStats(scores={"x/max": 1.0, "reward": 1.0}, rollout_index=index) for index in range(2)])
    assert aggregate.repeat_level_metrics()[0]["mean/x/max"] == 1.0
    across = [key for key in aggregate.nemo_gym_metrics() if key.startswith("mean_across_repeats/")]
    assert across == ["mean_across_repeats/mean/reward"]


@given(TASKS)
def test_above_the_limit_of_values_quantiles_are_left_out(tasks: Tasks) -> None:
    """All other statistics stay the same."""
    exact = stats_of_tasks(tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeat_stats, "MAX_VALUES", 3)
        limited = stats_of_tasks(tasks)
    expected = flatten(exact.repeat_level_metrics())
    found = flatten(limited.repeat_level_metrics())
    assert all(("median" in key or "p25" in key or "p75" in key) for key in expected.keys() - found.keys())
    assert found == pytest.approx({key: expected[key] for key in found})
    assert flatten(limited.nemo_gym_metrics()) == pytest.approx(flatten(exact.nemo_gym_metrics()))


@given(st.lists(st.integers(-200, 200) | st.integers(-(2**40), 2**40) | st.floats() | st.just(-0.0)), st.integers(1, 5))
def test_packed_values_stay_the_same(values: list[float], at_once: int) -> None:
    """Values of any size keep their order and every bit, however many are packed at once."""
    column = RepeatColumn()
    expected = array("d", values)
    for count, value in enumerate(expected, 1):
        column.recent.append(value)
        if not count % at_once:
            column.pack()
    assert column.values.tobytes() == expected.tobytes()


def test_above_the_limit_of_columns_repeats_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of repeats is released, and the entry says that they are left out."""
    monkeypatch.setattr(repeat_stats, "MAX_COLUMNS", 5)
    aggregate = stats_of_tasks([{0: 1.0, 1: 0.0, 2: 0.5}])
    assert (aggregate.repeat_level_metrics(), aggregate.repeats_left_out) == ([], True)
    assert aggregate.nemo_gym_metrics()["num_repeats"] == 3
