"""Differences of two runs are paired by task."""

from __future__ import annotations

import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ng_rollouts.metrics.paired_comparison import difference_of
from tests.metrics.helpers import FLOATS


@given(pairs=st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=30))
def test_difference_agrees_with_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    """The interval is that of scipy's paired t-test, and the same seed gives the same p value."""
    by_task = dict(enumerate(pairs))
    difference = difference_of(by_task, random.Random(0))
    first, second = zip(*pairs, strict=True)
    assert difference.difference == pytest.approx(sum(second) / len(second) - sum(first) / len(first), abs=1e-9)
    assert difference.wins + difference.losses + difference.ties == len(pairs)
    assert difference.p is not None
    assert 0 < difference.p <= 1
    assert difference == difference_of(by_task, random.Random(0))
    if pd.Series(second).sub(pd.Series(first)).std() > 1e-3:
        low, high = scipy_stats.ttest_rel(second, first).confidence_interval(0.95)
        assert difference.interval_95 == pytest.approx([low, high], abs=1e-6)


@pytest.mark.parametrize(("differences", "p"), [([0.1], None), ([0.1, 0.3], 0.5), ([0.2] * 4, 0.125)])
def test_p_value_of_few_tasks_is_at_least_that_of_a_sign_flip_test(differences: list[float], p: float | None) -> None:
    """The p value of n tasks is at least 2 / 2**n; a single task has none."""
    pairs = {task: (0.0, difference) for task, difference in enumerate(differences)}
    assert difference_of(pairs, random.Random(0)).p == p
