"""The summary of turns, tokens and latencies."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.types import Json

PERFS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"num_turns": st.integers(0, 9)},
        optional={
            "completion_tokens": st.integers(0, 999),
            "token_observability_coverage": st.sampled_from([0.0, 1.0]),
        },
    ),
)


def summary_of(rows: list[Json]) -> Json | None:
    """The summary of rollouts of a task each."""
    aggregate = AgentStats()
    for row in rows:
        aggregate.add([stats_of(row)])
    return aggregate.perf_summary()


@given(st.lists(st.tuples(PERFS, st.booleans()), min_size=1))
def test_summary_covers_all_rollouts_with_perf(rollouts: list[tuple[Json | None, bool]]) -> None:
    """Masked rollouts are in it, and coverage is a share of all rollouts; without any `ng_perf` there is none."""
    summary = summary_of([{"reward": 1.0, "mask_sample": masked, "ng_perf": perf} for perf, masked in rollouts])
    perfs = [perf for perf, _ in rollouts if perf is not None]
    if not perfs:
        assert summary is None
        return
    assert summary is not None
    turns = [perf["num_turns"] for perf in perfs]
    with_tokens = sum(perf.get("token_observability_coverage", 0) > 0 for perf in perfs)
    assert summary["overall_observability_coverage"] == len(perfs) / len(rollouts)
    assert summary["token_observability_coverage"] == with_tokens / len(rollouts)
    assert summary["mean_num_turns"] == pytest.approx(statistics.fmean(turns))
    assert summary["std_num_turns"] == pytest.approx(statistics.pstdev(turns))
    rates = [p["completion_tokens"] / p["num_turns"] for p in perfs if p["num_turns"] and "completion_tokens" in p]
    assert summary.get("median_tokens_per_turn") == pytest.approx(statistics.median(rates) if rates else None)


@pytest.mark.parametrize("perf", [None, [], "x", 3])
def test_other_values_are_no_measurement(perf: object) -> None:
    """A row whose `ng_perf` is not an object has none, and odd values in one do not count."""
    assert summary_of([{"reward": 1.0, "ng_perf": perf}]) is None
    summary = summary_of([{"reward": 1.0, "ng_perf": {"num_turns": "many", "prompt_tokens": 10**400}}])
    assert summary == {"overall_observability_coverage": 1.0, "token_observability_coverage": 0.0}
