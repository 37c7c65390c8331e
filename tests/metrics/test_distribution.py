"""The statistics of a column agree with pandas, and its memory is bounded."""

from __future__ import annotations

import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.distribution import Distribution
from tests.metrics.helpers import FLOATS


@given(values=st.lists(FLOATS, min_size=1, max_size=200))
def test_distribution_agrees_with_pandas(values: list[float]) -> None:
    """Mean, extremes, standard deviation and quantiles of a column are those of pandas."""
    column = Distribution()
    for value in values:
        column.add(value)
    series = pd.Series(values)
    assert column.mean == pytest.approx(series.mean(), abs=1e-9)
    assert (column.maximum, column.minimum) == (series.max(), series.min())
    assert column.sd == pytest.approx(series.std() if len(values) > 1 else 0.0, abs=1e-9)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert column.quantile(share) == pytest.approx(series.quantile(share), abs=1e-9)
    assert sum(column.histogram()) == len(values)


def test_distribution_keeps_a_bounded_number_of_values() -> None:
    """A column of 120,000 distinct values keeps at most 50,001 of them, and its median stays accurate."""
    column, rng = Distribution(), random.Random(1)
    for _ in range(120_000):
        column.add(rng.random())
    assert len(column._values) <= 50_001
    assert column.quantile(0.5) == pytest.approx(0.5, abs=0.005)
