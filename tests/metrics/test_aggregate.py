"""The statistics of an agent, whether groups are added one by one or in bulk."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.distribution import Distribution
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.metrics.score_stats import ScoreStats, scores_of
from ng_rollouts.types import RolloutStats
from tests.conftest import SHARED_DATA
from tests.metrics.helpers import ROLLOUT_STATS, flatten


@given(groups=st.lists(st.lists(ROLLOUT_STATS, min_size=1, max_size=3), min_size=1, max_size=8))
def test_single_rollout_tasks_added_in_bulk_equal_groups(groups: list[list[RolloutStats]]) -> None:
    """Tasks with one rollout are added in bulk, with the same result as if each was added as a group."""
    in_bulk, as_groups = AgentStats(), AgentStats()
    for group in groups:
        in_bulk.add(group)
        as_groups.add(group) if len(group) > 1 else _add_as_group(as_groups, group)
    in_bulk.end()
    assert flatten(in_bulk.statistics()) == pytest.approx(flatten(as_groups.statistics()))
    assert flatten(in_bulk.nemo_gym_metrics()) == pytest.approx(flatten(as_groups.nemo_gym_metrics()))


def _add_as_group(aggregate: AgentStats, group: list[RolloutStats]) -> None:
    """Add a task with one rollout in the way in which `add` treats a larger group."""
    (stats,) = group
    aggregate._add_to_repeats(group)
    aggregate.tasks, aggregate.rollouts = aggregate.tasks + 1, aggregate.rollouts + 1
    aggregate.group_sizes[1] += 1
    aggregate.distinct_answers, aggregate.answers = (
        aggregate.distinct_answers + (stats.answer is not None),
        aggregate.answers + (stats.answer is not None),
    )
    for name, score in scores_of(group).items():
        aggregate.columns.setdefault(name, Distribution()).add(score.values[0])
        aggregate.scores.setdefault(name, ScoreStats()).add(score)
    aggregate._add_tokens(stats)


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not available")
def test_metrics_of_nemo_gym_rollouts_agree_with_pandas() -> None:
    """Means, medians and standard deviations of the example rollouts of every environment are those of pandas."""
    compared = 0
    for file in sorted(SHARED_DATA.glob("*/example_rollouts.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        aggregate = AgentStats()
        for row in rows:
            aggregate.add([stats_of(row)])
        aggregate.end()
        metrics = aggregate.nemo_gym_metrics()
        frame = pd.DataFrame([{**stats_of(row).scores, **stats_of(row).tokens} for row in rows])
        for name in frame:
            assert metrics[f"mean/{name}"] == pytest.approx(frame[name].mean())
            assert metrics[f"median/{name}"] == pytest.approx(frame[name].median())
            if frame[name].count() > 1:
                assert metrics[f"std/{name}"] == pytest.approx(frame[name].std(), abs=1e-9)
            compared += 1
    assert compared > 20
