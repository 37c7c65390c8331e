"""Rollouts are aggregated by group, in any order of completion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.group_aggregator import GroupAggregator, aggregate_groups
from ng_rollouts.types import RolloutKey, RolloutStats
from tests.metrics.helpers import ROLLOUT_STATS, flatten


@given(groups=st.lists(st.lists(ROLLOUT_STATS, min_size=2, max_size=2), min_size=1, max_size=8), data=st.data())
def test_metrics_do_not_depend_on_the_order_of_completion(
    groups: list[list[RolloutStats]], data: st.DataObject
) -> None:
    """Rollouts recorded in any order give the metrics of groups that are read in order."""
    rollouts = [
        (RolloutKey(task, index), stats) for task, group in enumerate(groups) for index, stats in enumerate(group)
    ]
    aggregator = GroupAggregator(lambda _: 2)
    for key, stats in data.draw(st.permutations(rollouts)):
        aggregator.record(key, "a", stats)
    aggregator.end()
    in_order = aggregate_groups((task, "a", group) for task, group in enumerate(groups))
    recorded, expected = aggregator.agents["a"], in_order["a"]
    assert flatten(recorded.stats.statistics()) == pytest.approx(flatten(expected.stats.statistics()))
    assert flatten(recorded.stats.nemo_gym_metrics()) == pytest.approx(flatten(expected.stats.nemo_gym_metrics()))
    assert recorded.group_metrics() == expected.group_metrics()
    assert not aggregator._open


def test_incomplete_group_is_left_out_and_released() -> None:
    """A group with a failed rollout does not count in the metrics, and its other rollouts are not kept in memory."""
    aggregator = GroupAggregator(lambda _: 2)
    aggregator.record(RolloutKey(0, 0), "a", RolloutStats(scores={"reward": 1.0}))
    aggregator.mark_incomplete(RolloutKey(0, 1))
    aggregator.record(RolloutKey(1, 0), "a", RolloutStats(scores={"reward": 0.0}))
    aggregator.record(RolloutKey(1, 1), "a", RolloutStats(scores={"reward": 1.0}))
    aggregator.end()
    assert aggregator.agents["a"].stats.columns["reward"].mean == 0.5
    assert not aggregator._open


def test_task_of_two_agents_counts_for_each_agent() -> None:
    """Each rollout of a task counts in the metrics of the agent that ran it."""
    aggregator = GroupAggregator(lambda _: 4)
    for index, (agent, reward) in enumerate([("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 0.0)]):
        aggregator.record(RolloutKey(0, index), agent, RolloutStats(scores={"reward": reward}))
    aggregator.end()
    means = {agent: metrics.stats.columns["reward"].mean for agent, metrics in aggregator.agents.items()}
    assert means == {"a": 1.0, "b": 0.0}
