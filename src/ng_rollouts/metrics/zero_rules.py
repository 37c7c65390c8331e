"""The rollouts that count as a reward of 0 in metrics, as `count_as_zero` names them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from ng_rollouts.types import MASK, Json, RolloutStats, is_masked

FAILED, MASKED, MISSING = "failed", "masked", "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroRules:
    """Which rollouts count as 0. By default, none do: they are in no metric.

    Attributes:
        names: `failed`, `masked`, `missing`, and failure classes.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """The rules for the values of `count_as_zero`."""
        return cls(names=frozenset(names))

    @property
    def counts_missing(self) -> bool:
        """Whether planned rollouts without a row and without a failure count."""
        return MISSING in self.names

    @property
    def adds_rollouts(self) -> bool:
        """Whether rollouts without a row may count: all names but `masked` are about these."""
        return bool(self.names - {MASKED})

    def counts_failure(self, failure_class: object) -> bool:
        """Whether failures of a class count."""
        return FAILED in self.names or failure_class in self.names

    def apply(self, stats: RolloutStats) -> RolloutStats:
        """The statistics of a rollout that was collected, as they count. Its tokens stay."""
        if stats.masked is None or MASKED not in self.names:
            return stats
        return replace(stats, scores={"reward": 0.0}, masked=None, counted_as_zero=MASKED)

    def apply_to_row(self, row: Json) -> Json:
        """The row of a rollout that was collected, as it counts, for metrics that are computed elsewhere."""
        if not is_masked(row) or MASKED not in self.names:
            return row
        kept = {name: value for name, value in row.items() if name[:1] == "_" or not isinstance(value, (int, float))}
        return {**kept, MASK: False, "reward": 0.0}
