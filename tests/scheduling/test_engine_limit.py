"""The limit of all engines together: pools, refusals, and engines in virtual time."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.concurrency import FixedLimit
from ng_rollouts.scheduling.engine_limit import EngineAwareLimit
from ng_rollouts.types import EngineSample
from tests.conftest import ROOT

CEILING = 500


def test_limit_of_a_pool_is_the_sum_of_its_engines() -> None:
    """Each engine has its own limit, an unknown one counts as the mean of the others, and a lost one as unknown."""
    limit = EngineAwareLimit(CEILING)
    limit.expect(3)
    for at in range(4):
        limit.observe("a", EngineSample(at=at, running=50, waiting=0, cache=0.0, engine="vllm"), CEILING)
        limit.observe("b", EngineSample(at=at, running=8, waiting=1, cache=0.5, engine="vllm"), CEILING)
    assert (limit.of("a"), limit.of("b")) == (54, 16)
    assert limit.current == int((54 + 16) * 3 / 2)
    assert limit.steered_by == "vllm_gauges"
    limit.lose("a")
    assert limit.current == 3 * 16
    assert (limit.of("a"), limit.of("b"), limit.of("c")) == (16, 16, 16)
    limit.observe("a", EngineSample(at=60, running=50, waiting=0, cache=0.0, engine="vllm"), CEILING)
    assert limit.of("a") == 54
    limit.lose("a")
    limit.lose("b")
    assert limit.steered_by in ("throughput", "refusals")


def steered_to(limit: EngineAwareLimit, requests: int) -> None:
    """Let the gauges of engine `a` steer the limit to a number of requests that fill its cache, from above."""
    for at in range(60):
        cache = min(1.0, 0.92 * limit.current / requests)
        limit.observe(
            "a", EngineSample(at=at, running=limit.current, waiting=0, cache=cache, engine="vllm"), limit.current
        )


def full_engine(limit: EngineAwareLimit, seconds: int, requests: int) -> list[int]:
    """The limits of each second at an engine without gauges that runs a number of requests, each for a second."""
    limits = []
    for second in range(seconds):
        done = min(limit.current, requests)
        for each in range(done):
            limit.record_success(1000 + second + each / done)
        limits.append(limit.current)
    return limits


def test_limit_without_the_last_gauges_stays_at_what_they_have_found() -> None:
    """It rests at the last limit of the gauges, and probes half more from time to time; gauges then go on from there."""
    limit = EngineAwareLimit(CEILING)
    steered_to(limit, 24)
    found = limit.current
    assert 20 <= found <= 26
    limit.lose("a")
    assert (limit.current, limit.steered_by) == (found, "throughput")
    limits = full_engine(limit, 300, found)
    assert set(limits) <= set(range(found, math.ceil(1.5 * found) + 1))
    assert limits.count(found) > 200
    limit.observe("a", EngineSample(at=400, running=found, waiting=0, cache=0.92, engine="vllm"), limit.current)
    assert (limit.current, limit.steered_by) == (found, "vllm_gauges")


def test_limit_without_the_last_gauges_grows_with_the_throughput() -> None:
    """If the engine has become larger, probes raise the limit step by step."""
    limit = EngineAwareLimit(CEILING)
    steered_to(limit, 24)
    found = limit.current
    limit.lose("a")
    limits = full_engine(limit, 300, 4 * found)
    assert all(after <= 1.5 * before + 1 for before, after in pairwise(limits))
    assert limits[-1] >= 3 * found


def test_throughput_of_before_the_gauges_does_not_hold_the_limit_after_them() -> None:
    """A cap that the throughput had before gauges were found is forgotten once they are lost again."""
    limit = EngineAwareLimit(CEILING)
    full_engine(limit, 60, 8)
    before = limit.current
    for at in range(60):
        limit.observe("a", EngineSample(at=at, running=limit.current, waiting=0, cache=0.0), limit.current)
    limit.lose("a")
    assert limit.current == CEILING > before


def test_pool_that_loses_all_gauges_keeps_the_limits_of_its_engines() -> None:
    """The sum and the shares are the same, whichever engine is lost first."""
    for order in ("ab", "ba"):
        limit = EngineAwareLimit(CEILING)
        limit.expect(2)
        for at in range(4):
            limit.observe("a", EngineSample(at=at, running=50, waiting=0, cache=0.0), CEILING)
            limit.observe("b", EngineSample(at=at, running=8, waiting=1, cache=0.5), CEILING)
        for address in order:
            limit.lose(address)
        assert (limit.of("a"), limit.of("b"), limit.current) == (54, 16, 70)


def test_refusals_of_before_bound_the_limit_without_gauges() -> None:
    """A limit that refusals have lowered does not jump when the gauges are lost."""
    limit = EngineAwareLimit(CEILING)
    for at in range(8):
        limit.observe("a", EngineSample(at=at, running=limit.current, waiting=0, cache=0.0), CEILING)
    limit.record_failure(AttemptFailed("http_429", "", status=429), 8.5, 9.0)
    before = limit.current
    limit.lose("a")
    assert (limit.current, limit.steered_by) == (before, "refusals")


def test_engine_whose_gauges_are_found_late_begins_like_the_others() -> None:
    """Its requests are in flight already, as many as those of the others on average."""
    limit = EngineAwareLimit(CEILING)
    limit.expect(2)
    for at in range(4):
        limit.observe("a", EngineSample(at=at, running=50, waiting=0, cache=0.0), CEILING)
    limit.observe("b", EngineSample(at=4, running=50, waiting=0, cache=0.0), CEILING)
    assert limit.of("b") == 54


def test_smallest_engine_decides_if_requests_are_spread_evenly() -> None:
    """Servers for 400 and for 40 requests get as many each as the smaller one runs, and no longer queue."""
    limit, places = EngineAwareLimit(4096), {"a": 400, "b": 40}
    limit.expect(2, evenly=True)
    for at in range(600):
        in_flight = limit.current
        for address, most in places.items():
            running, waiting = min(in_flight // 2, most), max(0, in_flight // 2 - most)
            limit.observe(address, EngineSample(at=at, running=running, waiting=waiting, cache=0.01), in_flight)
    assert 2 * 38 <= limit.current <= 2 * 42
    assert 38 <= (limit.of("a") or 0) <= 90  # it does not grow without evidence


def test_limit_of_gauges_grows_only_if_it_is_reached() -> None:
    """While refusals or few tasks keep fewer in flight than the gauges allow, the gauges' limit stays near that."""
    limit = EngineAwareLimit(4096)
    for second in range(240):
        in_flight = min(limit.current, 60)
        if in_flight > 50:
            limit.record_failure(AttemptFailed("http_429", "", status=429), second - 0.5, second)
        for _ in range(10):
            limit.record_success(second)
        limit.observe("a", EngineSample(at=second, running=in_flight, waiting=0, cache=in_flight / 400), in_flight)
    assert limit.of("a") is not None
    assert (limit.of("a") or 0) <= 100


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
