"""What is kept of values that come by: their moments, or how many fell into each class."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Moments:
    """Count, mean and spread.

    Attributes:
        squares: sum of squared distances from the mean.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take a value in (Welford, 1962)."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before * (value - self.mean)

    def merge(self, other: Moments) -> None:
        """Take in what another has seen (Chan, Golub and LeVeque, 1979)."""
        if not other.count:
            return
        count, apart = self.count + other.count, other.mean - self.mean
        self.squares += other.squares + apart**2 * self.count * other.count / count
        self.mean += apart * other.count / count
        self.count = count

    @classmethod
    def of(cls, values: Sequence[float]) -> Moments:
        """Of values that are there; at least one."""
        mean = math.fsum(values) / len(values)
        return cls(len(values), mean, math.fsum([(value - mean) ** 2 for value in values]))

    @property
    def sd(self) -> float:
        """Of a sample (n - 1); 0 for a single value."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def half_width(self) -> float:
        """Of a 95 % interval of the mean, as if values had nothing in common; the figures at the end know better."""
        return 1.96 * self.sd / math.sqrt(max(1, self.count))


@dataclass(slots=True)
class Latencies:
    """How long attempts took, in classes that are a twentieth wide: enough for percentiles."""

    _classes: array[int] = field(default_factory=lambda: array("q", [0]) * 400)

    def add(self, seconds: float) -> None:
        """Count one."""
        self._classes[min(399, max(0, int(math.log(max(seconds, 1e-4) / 1e-4) / _CLASS_WIDTH)))] += 1

    def merge(self, other: Latencies) -> None:
        """Count those of another."""
        for number, count in enumerate(other._classes):
            self._classes[number] += count

    def histogram(self) -> list[tuple[float, int]]:
        """Seconds from which each class that is not empty begins, and how many are in it."""
        starts = (round(1e-4 * math.exp(number * _CLASS_WIDTH), 6) for number in range(len(self._classes)))
        return [(start, count) for start, count in zip(starts, self._classes, strict=True) if count]

    def percentiles(self) -> dict[str, float | None]:
        """The 50th, 90th and 99th, in seconds to the microsecond; None if there were no attempts."""
        found = {f"p{share}": self.quantile(share / 100) for share in (50, 90, 99)}
        return {name: None if value is None else round(value, 6) for name, value in found.items()}

    def quantile(self, share: float) -> float | None:
        """Seconds below which this share lies, to a twentieth; None if there were none."""
        left = share * sum(self._classes)
        for number, count in enumerate(self._classes):
            left -= count
            if count and left <= 0:
                return float(1e-4 * math.exp((number + 0.5) * _CLASS_WIDTH))
        return None


_CLASS_WIDTH = 0.05
