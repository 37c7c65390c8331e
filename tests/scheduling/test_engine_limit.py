"""The limit that follows the gauges of engines: traces, bounds, pools, and engines in virtual time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.engine_limit import EngineAwareLimit, EngineSample, GaugeLimit
from tests.conftest import ROOT

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


def test_limit_of_a_pool_is_the_sum_of_its_engines() -> None:
    """Each engine has its own limit, an unknown one counts as the mean of the others, and a lost one as unknown."""
    limit = EngineAwareLimit(CEILING)
    limit.expect(3)
    for at in range(4):
        limit.observe("a", EngineSample(at=at, running=50, waiting=0, cache=0.0), CEILING, "vllm")
        limit.observe("b", EngineSample(at=at, running=8, waiting=1, cache=0.5), CEILING, "vllm")
    assert (limit.of("a"), limit.of("b")) == (54, 16)
    assert limit.current == int((54 + 16) * 3 / 2)
    assert limit.steered_by == "vllm_gauges"
    limit.lose("a")
    assert limit.current == 3 * 16
    limit.lose("b")
    assert limit.steered_by in ("throughput", "refusals")


def test_refusals_bound_the_limit_of_gauges() -> None:
    """A 429 lowers the limit even while the gauges have room, and successes raise it again."""
    limit = EngineAwareLimit(CEILING)
    for at in range(8):
        limit.observe("a", EngineSample(at=at, running=limit.current, waiting=0, cache=0.0), CEILING)
    before = limit.current
    limit.record_failure(AttemptFailed("http_429", "", status=429), 8.5, 9.0)
    assert limit.current <= 0.61 * before
    assert limit.steered_by == "refusals"
    for second in range(10, 2000):
        limit.record_success(second)
    assert limit.current > 0.8 * before


@pytest.fixture(scope="module")
def simulator() -> Iterator[Any]:
    """The module of `benchmarks`, which is not a package."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield import_module("engine_simulator")
    sys.path.remove(str(ROOT / "benchmarks"))


def test_simulated_engine_computes_every_token_once_without_preemptions(simulator: Any) -> None:
    """One request at a time takes the steps of its tokens, and preemptions happen only if the cache is too small."""
    engine = replace(next(iter(simulator.ENGINES.values())), cached_s=0.0, request_s=0.0, prefill_s=0.0)
    rollouts = simulator.rollouts_of(engine, 20, 1)
    alone = simulator.simulate(engine, FixedLimit(1), rollouts)
    steps = sum(each.output + 1 + each.prompt // engine.budget for each in rollouts)
    assert alone.seconds == pytest.approx(steps * engine.step_s, rel=0.01)
    assert alone.recomputed == 0
    together = simulator.simulate(replace(engine, blocks=500), FixedLimit(20), rollouts)
    assert together.recomputed > 0


@pytest.mark.parametrize("number", range(4))
def test_gauges_keep_an_engine_full_without_preemptions(simulator: Any, number: int) -> None:
    """In virtual time, gauges reach 97 % of the best fixed number's throughput, and at most 2.5 % are computed again."""
    engine = list(simulator.ENGINES.values())[number]
    best = (36, 186, 64, 74)[number]  # by `best_fixed`, which takes longer
    fixed = simulator.collect(engine, FixedLimit(best), 1000, 1)
    steered = simulator.collect(engine, EngineAwareLimit(1000), 1000, 1, gauges=True)
    assert steered.seconds <= fixed.seconds / 0.97
    assert steered.preempted_share <= 0.025


def test_ceiling_of_engines_can_be_set() -> None:
    """A lower ceiling holds at once, whatever the gauges say; a higher one lets the limit grow again."""
    limit = EngineAwareLimit(64)
    limit.set_ceiling(3)
    assert limit.current <= 3
    limit.set_ceiling(64)
    for second in range(200):
        limit.record_success(float(second))
    assert 3 < limit.current <= 64
