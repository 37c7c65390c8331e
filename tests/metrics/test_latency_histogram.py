"""Percentiles of latencies are accurate to the width of a bin."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.latency_histogram import LatencyHistogram


@given(seconds=st.lists(st.floats(0.001, 1000), min_size=1, max_size=50))
def test_median_latency_is_accurate_to_a_bin(seconds: list[float]) -> None:
    """The median of latencies from a millisecond to a quarter of an hour is accurate to 6 %."""
    latencies = LatencyHistogram()
    for each in seconds:
        latencies.add(each)
    ordered = sorted(seconds)
    assert latencies.quantile(0.5) == pytest.approx(ordered[math.ceil(len(ordered) / 2) - 1], rel=0.06)
