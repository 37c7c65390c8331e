"""What is kept of values that come by: their moments, or how many fell into each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class RunningStats:
    """Count, mean and spread.

    Attributes:
        squares: sum of squared distances from the mean.
    """

    count: int = 0
    mean: float = 0.0
    sum_squared_deviations: float = 0.0

    def add(self, value: float) -> None:
        """Take a value in (Welford, 1962)."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.sum_squared_deviations += before * (value - self.mean)

    def merge(self, other: RunningStats) -> None:
        """Take in what another has seen (Chan, Golub and LeVeque, 1979)."""
        if not other.count:
            return
        count, apart = self.count + other.count, other.mean - self.mean
        self.sum_squared_deviations += other.sum_squared_deviations + apart**2 * self.count * other.count / count
        self.mean += apart * other.count / count
        self.count = count

    @classmethod
    def of(cls, values: Sequence[float]) -> RunningStats:
        """Of values that are there; at least one."""
        mean = math.fsum(values) / len(values)
        return cls(len(values), mean, math.fsum([(value - mean) ** 2 for value in values]))

    @property
    def sd(self) -> float:
        """Of a sample (n - 1); 0 for a single value."""
        return math.sqrt(self.sum_squared_deviations / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def ci95_half_width(self) -> float:
        """Of a 95 % interval of the mean, as if values had nothing in common; the figures at the end know better."""
        return 1.96 * self.sd / math.sqrt(max(1, self.count))
