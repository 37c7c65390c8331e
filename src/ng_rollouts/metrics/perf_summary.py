"""NeMo Gym's `perf_summary`: turns, tokens and latencies of rollouts, from the `ng_perf` objects of their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ng_rollouts.metrics.distribution import Distribution
from ng_rollouts.types import Json

_TOKENS = ("prompt_tokens", "cached_prompt_tokens", "completion_tokens", "reasoning_tokens")
_COVERAGE = "token_observability_coverage"

PERF_FIELDS = frozenset((*_TOKENS, "num_turns", "total_latency_ms", _COVERAGE))
"""The fields of `ng_perf` that the summary is computed from."""

_STATISTICS: dict[str, Callable[[Distribution], float]] = {
    "mean": lambda column: column.mean,
    "median": lambda column: column.quantile(0.5),
    "total": lambda column: column.total,
    # Over all rollouts, so with n, unlike the `std/` of a score.
    "std": lambda column: math.sqrt(column.sum_squared_deviations / column.count),
    "min": lambda column: column.minimum,
    "max": lambda column: column.maximum,
    "p50": lambda column: column.quantile(0.50),
    "p90": lambda column: column.quantile(0.90),
    "p99": lambda column: column.quantile(0.99),
}

_KEYS = {
    **{name: (f"{{}}_{name}", ("mean", "median", "total")) for name in _TOKENS},
    "num_turns": ("{}_num_turns", ("mean", "median", "std", "min", "p90", "max")),
    "tokens_per_turn": ("{}_tokens_per_turn", ("mean", "median")),
    "total_latency_ms": ("total_latency_{}_ms", ("p50", "p90", "p99", "mean")),
}
"""By column: the template of its keys, and the statistics that NeMo Gym reports."""


@dataclass(slots=True)
class PerfStats:
    """Running statistics of the `ng_perf` objects of an agent's rollouts, masked ones included.

    Attributes:
        records: number of rollouts with such an object.
        with_tokens: number of rollouts whose model calls reported tokens.
        columns: the values of each field.
    """

    records: int = 0
    with_tokens: int = 0
    columns: dict[str, Distribution] = field(default_factory=dict)

    def add(self, perf: Mapping[str, float]) -> None:
        """Add the numbers of one object."""
        self.records += 1
        self.with_tokens += perf.get(_COVERAGE, 0) > 0
        values = dict(perf)
        if "completion_tokens" in perf and perf.get("num_turns", 0) > 0:
            values["tokens_per_turn"] = perf["completion_tokens"] / perf["num_turns"]
        for name in values.keys() & _KEYS:
            column = self.columns.get(name)
            if column is None:
                column = self.columns[name] = Distribution()
            column.add(values[name])

    def summary(self, rollouts: int) -> Json:
        """The summary by NeMo Gym's keys; a field that no rollout reports has none.

        Args:
            rollouts: number of all rollouts, with or without such an object.
        """
        summary = {
            "overall_observability_coverage": self.records / rollouts,
            "token_observability_coverage": self.with_tokens / rollouts,
        }
        for name, (template, statistics) in _KEYS.items():
            if column := self.columns.get(name):
                summary |= {template.format(statistic): _STATISTICS[statistic](column) for statistic in statistics}
        return summary
