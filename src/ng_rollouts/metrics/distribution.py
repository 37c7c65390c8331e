"""Statistics of a column of values: mean, standard deviation, extremes, quantiles and a histogram.

Memory grows with the number of distinct values, not with the number of rows. Beyond `_MAX_DISTINCT` distinct values,
each value is rounded to the middle of one of equal bins. Quantiles are then accurate to a thousandth of the range.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json

STATISTICS = ("mean", "max", "min", "median", "std")
"""The statistics that NeMo Gym reports for a column, in its order."""

_MAX_DISTINCT = 50_000
"""Distinct values that are kept exactly; their counts take a few megabytes."""

_BUFFER_SIZE = 512
"""Values that are added to the statistics at once, which is about nine times faster than adding them one by one."""

_HISTOGRAM_BINS = 10


@dataclass(slots=True)
class Distribution:
    """The distribution of a column of values.

    New values go into a buffer. Every property first adds the buffer to the statistics.
    """

    _stats: RunningStats = field(default_factory=RunningStats)
    _total: float = 0.0
    _compensation: float = 0.0
    _minimum: float = math.inf
    _maximum: float = -math.inf
    _values: Counter[float] = field(default_factory=Counter)
    _bin_width: float = 0.0  # 0 while values are kept exactly
    _buffer: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Add a value."""
        self._buffer.append(value)
        if len(self._buffer) >= _BUFFER_SIZE:
            self._flush()

    def extend(self, values: Sequence[float]) -> None:
        """Add several values."""
        self._buffer += values
        if len(self._buffer) >= _BUFFER_SIZE:
            self._flush()

    @property
    def count(self) -> int:
        return self._stats.count + len(self._buffer)

    @property
    def total(self) -> float:
        self._flush()
        return self._total + self._compensation

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def sd(self) -> float:
        """Standard deviation of the sample (n - 1); 0 for a single value."""
        self._flush()
        return self._stats.sd

    @property
    def sum_squared_deviations(self) -> float:
        """Sum of the squared distances from the mean."""
        self._flush()
        return self._stats.sum_squared_deviations

    @property
    def minimum(self) -> float:
        self._flush()
        return self._minimum

    @property
    def maximum(self) -> float:
        self._flush()
        return self._maximum

    def merge(self, other: Distribution) -> None:
        """Add the values of another column."""
        other._flush()
        self._flush()
        self._stats.merge(other._stats)
        self._add_to_total(other._total)
        self._compensation += other._compensation
        self._minimum, self._maximum = min(self._minimum, other._minimum), max(self._maximum, other._maximum)
        self._bin_width = max(self._bin_width, other._bin_width)
        self._values.update(other._values)
        if len(self._values) > _MAX_DISTINCT:
            self._widen_bins()

    def count_of(self, value: float) -> int:
        """How often a value occurred."""
        self._flush()
        return self._values[value]

    def exact_values(self) -> Iterator[float] | None:
        """All values, equal ones next to each other; None if they are rounded."""
        self._flush()
        return None if self._bin_width else self._values.elements()

    def running_stats(self) -> RunningStats:
        """Count, mean and spread, which are exact also if values are rounded."""
        self._flush()
        return replace(self._stats)

    def quantile(self, share: float) -> float:
        """The value below which this share lies, interpolated linearly as NumPy and pandas do by default."""
        self._flush()
        ordered = sorted(self._values.items())
        rank = share * (self.count - 1)
        low, high = self._value_at(ordered, math.floor(rank)), self._value_at(ordered, math.ceil(rank))
        return low + (high - low) * (rank - math.floor(rank))

    def histogram(self) -> list[int]:
        """Counts in ten equal bins over [0, 1], or over the range of the values if that is wider."""
        low, high = min(0.0, self.minimum), max(1.0, self.maximum)
        counts = [0] * _HISTOGRAM_BINS
        for value, count in self._values.items():
            # The last bin includes its upper end.
            counts[min(_HISTOGRAM_BINS - 1, int((value - low) / (high - low) * _HISTOGRAM_BINS))] += count
        return counts

    def nemo_gym_statistics(self) -> Json:
        """The column's five statistics by their names in `STATISTICS`."""
        values = (self.mean, self.maximum, self.minimum, self.quantile(0.5), self.sd)
        return dict(zip(STATISTICS, values, strict=True))

    def _flush(self) -> None:
        values, self._buffer = self._buffer, []
        if not values:
            return
        self._stats.merge(RunningStats.of(values))
        self._add_to_total(math.fsum(values))
        self._minimum, self._maximum = min(self._minimum, *values), max(self._maximum, *values)
        self._values.update(map(self._rounded, values) if self._bin_width else values)
        if len(self._values) > _MAX_DISTINCT:
            self._widen_bins()

    def _add_to_total(self, value: float) -> None:
        """Add to the compensated sum, so that the order of values hardly matters (Neumaier, 1974)."""
        total = self._total + value
        # The part of the smaller summand that the rounded sum lost.
        self._compensation += (
            (self._total - total) + value if abs(self._total) >= abs(value) else (value - total) + self._total
        )
        self._total = total

    def _rounded(self, value: float) -> float:
        return round(value / self._bin_width) * self._bin_width

    def _widen_bins(self) -> None:
        # The range may have grown since the last time, so doubling alone might leave too many bins.
        self._bin_width = max(2 * self._bin_width, (self._maximum - self._minimum) / 1000)
        values, self._values = self._values, Counter()
        for value, count in values.items():
            self._values[self._rounded(value)] += count

    @staticmethod
    def _value_at(ordered: Sequence[tuple[float, int]], rank: int) -> float:
        for value, count in ordered:
            rank -= count
            if rank < 0:
                return value
        return ordered[-1][0]
