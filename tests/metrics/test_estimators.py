"""Estimators agree with enumeration, with scipy and with an example worked out by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ng_rollouts.metrics.estimators import majority_scores, pass_at_k, pass_hat_k, t_quantile


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_and_pass_hat_k_equal_shares_of_subsets(n: int, data: st.DataObject) -> None:
    """pass@k is the share of the k-subsets with at least one correct rollout; pass^k needs all k to be correct."""
    correct = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    subsets = list(itertools.combinations(correct, k))
    assert pass_at_k(n, sum(correct), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_hat_k(n, sum(correct), k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.995])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8, 30, 199, 200, 999, 1000, 5000, 250_000])
def test_t_quantile_agrees_with_scipy(degrees: int, probability: float) -> None:
    """The quantile of Student's t distribution is exact, below 1000 degrees of freedom and above."""
    expected = scipy_stats.t.ppf(probability, degrees)
    assert t_quantile(degrees, probability) == pytest.approx(expected, rel=1e-12)


def test_majority_scores_average_the_most_frequent_answers() -> None:
    """For each k, the score is the mean over the most frequent answers among the first k; None is not a vote."""
    answers, scores = ["a", "b", "b", None, "a", "a"], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert majority_scores(answers, scores) == [1.0, 0.5, 0.0, 0.0, 0.5, 1.0]
    assert majority_scores([None], [1.0]) == [0.0]
