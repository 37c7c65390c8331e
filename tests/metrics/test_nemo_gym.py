"""The metrics of an agent are those that NeMo Gym defines."""

from __future__ import annotations

import itertools
from collections import Counter
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.types import RolloutStats
from tests.metrics.helpers import ROLLOUT_STATS


@given(groups=st.lists(st.lists(ROLLOUT_STATS, min_size=1, max_size=4), min_size=1, max_size=8))
def test_pass_and_majority_metrics_agree_with_nemo_gym(groups: list[list[RolloutStats]]) -> None:
    """pass@k, pass@1[avg-of-k] and majority@k are NeMo Gym's, for groups of any sizes, binary and other scores.

    One difference: an answer with different scores has all its votes, and the mean of its scores.
    Without an answer in any rollout there is no majority@k; with a score that is not binary there is no pass^k.
    """
    aggregate = AgentStats()
    for group in groups:
        aggregate.add(group)
    aggregate.end()
    expected = _nemo_gym_metrics(groups)
    if all(stats.answer is None for group in groups for stats in group):
        expected = {key: value for key, value in expected.items() if not key.startswith("majority")}
    metrics = aggregate.nemo_gym_metrics()
    assert {key: value for key, value in metrics.items() if key.startswith(("pass@", "majority"))} == pytest.approx(
        expected
    )
    non_binary = any(stats.scores["reward"] == 0.5 for group in groups for stats in group)
    assert any(key.startswith("pass^") for key in metrics) != non_binary


def _nemo_gym_metrics(groups: list[list[RolloutStats]]) -> dict[str, float]:
    """The metrics by NeMo Gym's definitions, except for answers with several scores, computed by enumeration; as shares, where NeMo Gym gives percentages."""
    metrics = {}
    for k in range(1, max(map(len, groups)) + 1):
        passes, averages, majorities = [], [], []
        for group in groups:
            values = [stats.scores["reward"] for stats in group]
            if len(values) >= k:
                binary = all(value in (0, 1) for value in values)
                subsets = list(itertools.combinations(values, k))
                passes.append(sum(map(any, subsets)) / len(subsets) if binary else max(values[:k]))
            averages.append(sum(values[:k]) / len(values[:k]))
            votes = Counter(stats.answer for stats in group[:k] if stats.answer is not None)
            majority = [answer for answer, count in votes.items() if count == max(votes.values())]
            means = [mean(each.scores["reward"] for each in group[:k] if each.answer == answer) for answer in majority]
            majorities.append(mean(means) if means else 0.0)
        for name, values in ((f"pass@{k}", passes), (f"pass@1[avg-of-{k}]", averages), (f"majority@{k}", majorities)):
            metrics[f"{name}/reward"] = sum(values) / len(values)
    return metrics
