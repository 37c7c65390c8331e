"""Values of one name -> moments, extremes, median, histogram.

Memory goes with distinct values, not with rows: beyond `_DISTINCT` of them median and percentiles are told from a
histogram of equal bins, to a thousandth of the range.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json

STATISTICS = ("mean", "max", "min", "median", "std")
"""What NeMo Gym tells of a column, in its order."""

_DISTINCT = 50_000
_AT_ONCE = 512
_BARS = 10


@dataclass(slots=True)
class Distribution:
    """Values of one name; they are folded in by the hundred, which costs a fraction of one at a time."""

    _moments: RunningStats = field(default_factory=RunningStats)
    _total: float = 0.0
    _lost: float = 0.0
    _least: float = math.inf
    _most: float = -math.inf
    _values: Counter[float] = field(default_factory=Counter)
    _step: float = 0.0
    _waiting: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Take a value in."""
        self._waiting.append(value)
        if len(self._waiting) >= _AT_ONCE:
            self._fold()

    def extend(self, values: Sequence[float]) -> None:
        """Take several in."""
        self._waiting += values
        if len(self._waiting) >= _AT_ONCE:
            self._fold()

    @property
    def count(self) -> int:
        return self._moments.count + len(self._waiting)

    @property
    def total(self) -> float:
        self._fold()
        return self._total + self._lost

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def sd(self) -> float:
        """Of a sample (n - 1); 0 for a single value."""
        self._fold()
        return self._moments.sd

    @property
    def sum_squared_deviations(self) -> float:
        """Sum of squared distances from the mean."""
        self._fold()
        return self._moments.sum_squared_deviations

    @property
    def minimum(self) -> float:
        self._fold()
        return self._least

    @property
    def maximum(self) -> float:
        self._fold()
        return self._most

    def merge(self, other: Distribution) -> None:
        """Take another column's values in."""
        other._fold()
        self._fold()
        self._moments.merge(other._moments)
        self._add_to_total(other._total)
        self._lost += other._lost
        self._least, self._most = min(self._least, other._least), max(self._most, other._most)
        self._step = max(self._step, other._step)
        self._values.update(other._values)
        if len(self._values) > _DISTINCT:
            self._coarsen()

    def count_of(self, value: float) -> int:
        """How often a value occurred."""
        self._fold()
        return self._values[value]

    def quantile(self, share: float) -> float:
        """The value below which this share lies, interpolated as pandas and numpy do by default."""
        self._fold()
        ordered = sorted(self._values.items())
        place = share * (self.count - 1)
        low, high = self._at(ordered, math.floor(place)), self._at(ordered, math.ceil(place))
        return low + (high - low) * (place - math.floor(place))

    def histogram(self) -> list[int]:
        """Counts in ten equal bins over [0, 1], or over the range of the values if that is wider."""
        low, high = min(0.0, self.minimum), max(1.0, self.maximum)
        bars = [0] * _BARS
        for value, count in self._values.items():
            bars[min(_BARS - 1, int((value - low) / (high - low) * _BARS))] += count
        return bars

    def nemo_gym_metrics(self, name: str) -> Json:
        """The five figures that NeMo Gym gives a column, by their keys."""
        statistics = (self.mean, self.maximum, self.minimum, self.quantile(0.5), self.sd)
        return {f"{figure}/{name}": value for figure, value in zip(STATISTICS, statistics, strict=True)}

    def _fold(self) -> None:
        values, self._waiting = self._waiting, []
        if not values:
            return
        self._moments.merge(RunningStats.of(values))
        self._add_to_total(math.fsum(values))
        self._least, self._most = min(self._least, *values), max(self._most, *values)
        self._values.update(map(self._binned, values) if self._step else values)
        if len(self._values) > _DISTINCT:
            self._coarsen()

    def _add_to_total(self, value: float) -> None:
        """Sum up so that the order hardly matters (Neumaier, 1974)."""
        total = self._total + value
        self._lost += (self._total - total) + value if abs(self._total) >= abs(value) else (value - total) + self._total
        self._total = total

    def _binned(self, value: float) -> float:
        return round(value / self._step) * self._step

    def _coarsen(self) -> None:
        self._step = max(2 * self._step, (self._most - self._least) / 1000)
        values, self._values = self._values, Counter()
        for value, count in values.items():
            self._values[self._binned(value)] += count

    @staticmethod
    def _at(ordered: Sequence[tuple[float, int]], place: int) -> float:
        for value, count in ordered:
            place -= count
            if place < 0:
                return value
        return ordered[-1][0]
