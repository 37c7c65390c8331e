"""A histogram of latencies with logarithmic bins, for percentiles in constant memory."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field


@dataclass(slots=True)
class LatencyHistogram:
    """How long attempts took, in classes that are a twentieth wide: enough for percentiles."""

    _classes: array[int] = field(default_factory=lambda: array("q", [0]) * 400)

    def add(self, seconds: float) -> None:
        """Count one."""
        self._classes[min(399, max(0, int(math.log(max(seconds, 1e-4) / 1e-4) / _CLASS_WIDTH)))] += 1

    def merge(self, other: LatencyHistogram) -> None:
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
