"""The cap of the limit where the throughput does not grow."""

from __future__ import annotations

import math

from ng_rollouts.scheduling.throughput_cap import ThroughputCap


def caps_of(saturation: float, *, latency_s: float = 2.0, successes: int) -> list[float]:
    """The caps of a limit that doubles with each window, at servers with a largest throughput."""
    cap, limit, now, caps = ThroughputCap(), 8.0, 0.0, []
    for _ in range(successes):
        used = min(limit, cap.current)
        now += 1 / min(used / latency_s, saturation)
        cap.record_success(int(used), now)
        limit = min(10_000.0, limit + 1)
        caps.append(cap.current)
    return caps


def test_cap_is_near_the_knee_of_the_throughput() -> None:
    """Servers that answer 50 per second, in two seconds, are full with 100 in flight: the cap is up to twice that."""
    caps = caps_of(50.0, successes=3000)
    assert caps[0] == math.inf
    assert 100 <= caps[-1] <= 200


def test_throughput_that_grows_is_not_capped() -> None:
    """As long as more in flight gives more per second, there is no cap."""
    assert caps_of(math.inf, successes=5000)[-1] == math.inf
