"""The limit of one engine: traces, bounds, and other clients of the engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.scheduling.gauge_limit import GaugeLimit
from ng_rollouts.types import EngineSample

CEILING = 500


def limits_of(samples: list[tuple[int, int, float, int]], completed: float = 1.0) -> list[int]:
    """The limits after samples, one per second: running, waiting, cache, preemptions."""
    limit, limits = GaugeLimit(CEILING), []
    for at, (running, waiting, cache, preemptions) in enumerate(samples):
        sample = EngineSample(at=at, running=running, waiting=waiting, cache=cache, preemptions=preemptions)
        limit.observe(sample, completed)
        limits.append(limit.current)
    return limits


@pytest.mark.parametrize(
    ("samples", "limits"),
    [
        pytest.param([(16, 0, 0.0, 0)] * 4, [16, 24, 36, 54], id="grows by half while nothing waits and nothing is used"),
        pytest.param([(16, 1, 0.2, 0)] * 4, [16, 16, 16, 16], id="holds while a few wait"),
        pytest.param([(10, 6, 0.9, 0)] * 5, [16, 16, 16, 11, 11], id="falls by a queue that stays"),
        pytest.param([(16, 0, 0.5, 0), (16, 0, 1.0, 2), (13, 0, 1.0, 4)], [16, 13, 11], id="is cut by preemptions"),
        pytest.param([(16, 0, 0.5, 0), (16, 0, 1.0, 2), (16, 0, 1.0, 4)], [16, 13, 13], id="is cut once until it has its effect"),
        pytest.param([(16, 0, 0.5, 9), (16, 0, 0.1, 0)], [16, 24], id="takes fewer preemptions for a restart"),
    ],
)  # fmt: skip
def test_traces_of_samples_give_these_limits(samples: list[tuple[int, int, float, int]], limits: list[int]) -> None:
    """A trace of samples gives the limits that the module's docstring describes."""
    assert limits_of(samples) == limits


def test_an_engine_without_a_cache_gauge_is_steered_by_its_queue() -> None:
    """Without a share of the cache, as TGI has none, the limit grows until requests wait, and holds there."""
    limit = GaugeLimit(CEILING)
    for at in range(40):
        in_flight = limit.current
        limit.observe(EngineSample(at=at, running=min(100, in_flight), waiting=max(0, in_flight - 100)), 1)
    assert 100 <= limit.current <= 105


counts = st.integers(0, 1000)
samples_of_an_engine = st.lists(
    st.tuples(st.floats(0.1, 60), counts, counts, st.none() | st.floats(0, 1), st.integers(0, 3), st.integers(0, 50)),
    max_size=60,
)


@given(samples=samples_of_an_engine, ceiling=st.integers(1, 2000), is_used=st.booleans())
def test_limit_stays_in_its_bounds_and_never_grows_with_preemptions(
    samples: list[tuple[float, int, int, float | None, int, int]], ceiling: int, *, is_used: bool
) -> None:
    """The limit is from 1 to the ceiling, and no sample with new preemptions raises it."""
    limit, at, preemptions = GaugeLimit(ceiling), 0.0, 0
    for seconds, running, waiting, cache, preempted, completed in samples:
        at, preemptions, before = at + seconds, preemptions + preempted, limit.current
        sample = EngineSample(at=at, running=running, waiting=waiting, cache=cache, preemptions=preemptions)
        limit.observe(sample, completed, is_used=is_used)
        assert 1 <= limit.current <= ceiling
        assert not (preempted and limit.current > before)


@given(samples_of_an_engine)
def test_limit_recovers_from_anything(samples: list[tuple[float, int, int, float | None, int, int]]) -> None:
    """After any trace, the limit returns to an empty engine's ceiling within 400 samples."""
    limit, at = GaugeLimit(CEILING), 0.0
    for seconds, running, waiting, cache, preempted, completed in samples:
        at += seconds
        sample = EngineSample(at=at, running=running, waiting=waiting, cache=cache, preemptions=preempted)
        limit.observe(sample, completed)
    for _ in range(400):
        at += 1
        limit.observe(EngineSample(at=at, running=limit.current, waiting=0, cache=0.01, preemptions=0), limit.current)
    assert limit.current == CEILING


def test_queue_of_another_client_leaves_what_we_have() -> None:
    """A queue that another client fills does not lower a limit that is at most half of what runs."""
    limit = GaugeLimit(CEILING)
    for at in range(4):
        limit.observe(EngineSample(at=at, running=200, waiting=0), 5)
    before = limit.current
    for at in range(4, 300):
        limit.observe(EngineSample(at=at, running=200, waiting=100, cache=0.9), 5)
    assert limit.current == before == 54


@given(others=st.integers(0, 1000), slots=st.integers(20, 300))
def test_queue_leaves_a_fair_share(others: int, slots: int) -> None:
    """Two clients of an engine, of which only we adapt: we keep half of the engine, or no queue is left."""
    limit = GaugeLimit(CEILING)
    for at in range(20):
        limit.observe(EngineSample(at=at, running=limit.current, waiting=0), 5)
    assert limit.current == CEILING
    for at in range(20, 3000):
        requests = limit.current + others
        limit.observe(EngineSample(at=at, running=min(slots, requests), waiting=max(0, requests - slots)), 5)
    assert limit.current >= slots // 2
    if others < slots // 2:
        assert limit.current + others <= 1.03 * slots + 2


def test_lost_gauges_keep_the_limit() -> None:
    """The limit continues from where it was when its gauges return, and no time has passed for it."""
    limit = GaugeLimit(CEILING)
    for at in range(5):
        limit.observe(EngineSample(at=at, running=limit.current, waiting=0, preemptions=1), 5)
    before = limit.current
    limit.lose()
    assert not limit.is_known
    limit.observe(EngineSample(at=1000, running=before, waiting=0, preemptions=3), 5)
    assert limit.is_known
    assert limit.current == before > 50
