"""The cap of the limit where the throughput does not grow."""

from __future__ import annotations

import math
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.scheduling.throughput_cap import ThroughputCap

LATENCY_S = 2.0


class Servers:
    """Servers with a largest throughput, and a limit that rises by one with each success, up to a ceiling."""

    def __init__(self, ceiling: int) -> None:
        self.cap = ThroughputCap()
        self._ceiling = ceiling
        self._limit, self._now = 8, 0.0

    def answer(self, successes: int, saturation: float) -> list[float]:
        """The caps after each of some successes, of which there are `saturation` per second at most."""
        caps = []
        for _ in range(successes):
            used = int(min(self._limit, self.cap.current))
            self._now += 1 / min(used / LATENCY_S, saturation)
            self.cap.record_success(used, self._now)
            self._limit = min(self._ceiling, used + 1)
            caps.append(self.cap.current)
        return caps


def test_cap_is_near_the_knee_of_the_throughput() -> None:
    """Servers that answer 50 per second, in two seconds, are full with 100 in flight: the cap is up to twice that."""
    caps = Servers(10_000).answer(3000, saturation=50.0)
    assert caps[0] == math.inf
    assert 100 <= caps[-1] <= 200


def test_throughput_that_grows_is_not_capped() -> None:
    """As long as more in flight gives more per second, there is no cap."""
    assert Servers(10_000).answer(5000, saturation=math.inf)[-1] == math.inf


@settings(max_examples=25)
@given(saturation=st.floats(4, 30), ceiling=st.integers(8, 200))
def test_cap_settles_and_probes_for_ever(saturation: float, ceiling: int) -> None:
    """Servers that never change get one cap at most, near their knee. Every probe ends, and another follows."""
    caps = Servers(ceiling).answer(30_000, saturation)[5_000:]
    if caps[0] == math.inf:
        assert ceiling < 3 * saturation * LATENCY_S  # it has never risen far above the knee
        return
    probes = [cap for cap, _ in groupby(caps) if cap != min(caps)]
    assert min(caps) <= 2.5 * max(16, saturation * LATENCY_S)
    assert set(probes) == {math.ceil(1.5 * min(caps))}
    assert len(probes) >= 2


@settings(max_examples=25)
@given(saturation=st.floats(4, 30), times=st.floats(2, 10), ceiling=st.integers(16, 500))
def test_cap_follows_servers_that_become_faster(saturation: float, times: float, ceiling: int) -> None:
    """The cap rises until most of the new throughput is used, or until it is near the ceiling."""
    servers = Servers(ceiling)
    servers.answer(5_000, saturation)
    caps = servers.answer(40_000, times * saturation)
    assert min(caps[-5_000:]) >= 0.65 * min(ceiling, times * saturation * LATENCY_S)
