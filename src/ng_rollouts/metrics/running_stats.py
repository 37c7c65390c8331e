"""Count, mean and standard deviation of a stream of values, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class RunningStats:
    """Count, mean and spread of values.

    Attributes:
        sum_squared_deviations: sum of the squared distances from the mean.
    """

    count: int = 0
    mean: float = 0.0
    sum_squared_deviations: float = 0.0

    def add(self, value: float) -> None:
        """Add a value (Welford, 1962)."""
        self.count += 1
        deviation = value - self.mean
        self.mean += deviation / self.count
        # The distance from the old mean times the distance from the new mean is exactly what the sum grows by.
        self.sum_squared_deviations += deviation * (value - self.mean)

    def merge(self, other: RunningStats) -> None:
        """Add the values of other statistics (Chan, Golub and LeVeque, 1979)."""
        if not other.count:
            return
        count, distance = self.count + other.count, other.mean - self.mean
        self.sum_squared_deviations += other.sum_squared_deviations + distance**2 * self.count * other.count / count
        self.mean += distance * other.count / count
        self.count = count

    @classmethod
    def of(cls, values: Sequence[float]) -> RunningStats:
        """The statistics of a sequence of at least one value, in two passes."""
        mean = math.fsum(values) / len(values)
        return cls(len(values), mean, math.fsum([(value - mean) ** 2 for value in values]))

    @property
    def sd(self) -> float:
        """Standard deviation of the sample (n - 1); 0 for a single value."""
        return math.sqrt(self.sum_squared_deviations / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def ci95_half_width(self) -> float:
        """Half the width of a 95 % confidence interval of the mean, for independent values.

        Rollouts of one task are not independent, so this is for progress only. `ScoreStats.standard_error` is
        clustered by task.
        """
        return 1.96 * self.sd / math.sqrt(max(1, self.count))
