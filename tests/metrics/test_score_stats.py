"""The standard error of a score is clustered by task."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ng_rollouts.metrics.score_stats import GroupScore, ScoreStats
from tests.metrics.helpers import FLOATS


@given(groups=st.lists(st.lists(FLOATS, min_size=1, max_size=6), min_size=2, max_size=12))
def test_standard_error_is_clustered_by_task(groups: list[list[float]]) -> None:
    """The standard error is that of the sandwich formula; for groups of one size, that of the tasks' means."""
    score = ScoreStats()
    for group in groups:
        score.add(GroupScore.of(group, [None] * len(group)))
    total = sum(map(len, groups))
    mean = sum(map(sum, groups)) / total
    residuals = [sum(value - mean for value in group) for group in groups]
    expected = math.sqrt(len(groups) / (len(groups) - 1) * sum(value**2 for value in residuals)) / total
    assert score.standard_error == pytest.approx(expected, abs=1e-6)
    if len({len(group) for group in groups}) == 1:
        means = [sum(group) / len(group) for group in groups]
        assert score.standard_error == pytest.approx(scipy_stats.sem(means), abs=1e-6)
