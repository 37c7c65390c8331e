"""A histogram of latencies with logarithmic bins, for percentiles in constant memory."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

_BINS = 400
"""Enough for latencies up to 13 hours; longer ones count in the last bin."""

_FIRST_BIN_S = 1e-4
"""Where the first bin begins, in seconds; shorter latencies count in it too."""

_LOG_BIN_WIDTH = 0.05
"""Width of a bin on the scale of the natural logarithm: each bin begins 5 % above the one before."""


@dataclass(slots=True)
class LatencyHistogram:
    """Durations of attempts, in bins that are 5 % wide."""

    _counts: array[int] = field(default_factory=lambda: array("q", [0]) * _BINS)

    def add(self, seconds: float) -> None:
        """Count one attempt."""
        bin_index = int(math.log(max(seconds, _FIRST_BIN_S) / _FIRST_BIN_S) / _LOG_BIN_WIDTH)
        self._counts[min(_BINS - 1, max(0, bin_index))] += 1

    def merge(self, other: LatencyHistogram) -> None:
        """Add the counts of another histogram."""
        for index, count in enumerate(other._counts):
            self._counts[index] += count

    def histogram(self) -> list[tuple[float, int]]:
        """The start of each bin in seconds and its count, for the bins that are not empty."""
        starts = (round(_FIRST_BIN_S * math.exp(index * _LOG_BIN_WIDTH), 6) for index in range(len(self._counts)))
        return [(start, count) for start, count in zip(starts, self._counts, strict=True) if count]

    def percentiles(self) -> dict[str, float | None]:
        """The 50th, 90th and 99th percentile, in seconds to the microsecond; None if there were no attempts."""
        percentiles = {f"p{percent}": self.quantile(percent / 100) for percent in (50, 90, 99)}
        return {name: None if value is None else round(value, 6) for name, value in percentiles.items()}

    def quantile(self, share: float) -> float | None:
        """The seconds below which this share of the attempts lies, to 5 %; None if there were no attempts."""
        remaining = share * sum(self._counts)
        for index, count in enumerate(self._counts):
            remaining -= count
            if count and remaining <= 0:
                # The middle of the bin, so that the error is at most half of its width.
                return float(_FIRST_BIN_S * math.exp((index + 0.5) * _LOG_BIN_WIDTH))
        return None
