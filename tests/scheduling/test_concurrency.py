"""Concurrency limits: fixed, adaptive, and the slots that follow them."""

from __future__ import annotations

import asyncio
import heapq

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.scheduling.concurrency import AdaptiveLimit, ConcurrencyLimit, FixedLimit, Slots


def simulate(limit: ConcurrencyLimit, *, capacity: int, latency_s: float, rollouts: int) -> tuple[float, int, int]:
    """Simulate a server that rejects requests above its capacity, with a simulated clock.

    Returns:
        Seconds until all rollouts are done, the number of rejections, and the number in the second half.
    """
    in_flight: list[float] = []  # the times at which requests end
    now, succeeded, rejected, late_rejections, remaining = 0.0, 0, 0, 0, rollouts
    while succeeded < rollouts:
        while len(in_flight) < limit.current and remaining:
            if len(in_flight) >= capacity:
                rejected += 1
                late_rejections += succeeded > rollouts / 2
                limit.record_failure(AttemptFailed("http_429", "", status=429), now, now + 1e-9)
                now += 1e-6
                continue
            heapq.heappush(in_flight, now + latency_s * (0.5 + (succeeded * 7919 % 100) / 100))
            remaining -= 1
        now = max(now, heapq.heappop(in_flight))
        succeeded += 1
        limit.record_success(now)
    return now, rejected, late_rejections


@pytest.mark.parametrize("capacity", [3, 20, 250])
def test_adaptive_limit_finds_the_capacity_of_a_server(capacity: int) -> None:
    """Throughput is at least 90 % of that of the best fixed limit, with at most 4 % rejections, later at most 2 %."""
    rollouts = 400 * capacity
    best_s, _, _ = simulate(FixedLimit(capacity), capacity=capacity, latency_s=0.5, rollouts=rollouts)
    seconds, rejected, late = simulate(AdaptiveLimit(10_000), capacity=capacity, latency_s=0.5, rollouts=rollouts)
    assert seconds <= best_s / 0.9
    assert late <= 0.02 * rollouts / 2
    assert rejected <= 0.04 * rollouts


def test_adaptive_limit_falls_once_per_episode_of_overload() -> None:
    """All rejections of one episode cause one decrease; other server errors only pause growth."""
    limit = AdaptiveLimit(1000)
    now = 0.0
    for _ in range(500):
        now += 0.01
        limit.record_success(now)
    before = limit.current
    rejection = AttemptFailed("http_429", "", status=429)
    for _ in range(50):
        limit.record_failure(rejection, now - 1, now)
    decreased = limit.current
    assert 0.5 * before <= decreased < 0.7 * before
    limit.record_failure(AttemptFailed("http_500", "", status=500), now, now)
    limit.record_success(now)
    assert limit.current == decreased
    limit.record_failure(rejection, now + 1, now + 1)
    assert limit.current < 0.7 * decreased


def test_slots_are_assigned_in_order_and_follow_the_limit() -> None:
    """Waiting tasks get slots in order, even if the limit changes or another waiting task is cancelled."""

    async def run() -> None:
        limit = FixedLimit(1)
        slots = Slots(limit)
        order: list[int] = []

        async def take(number: int) -> None:
            await slots.acquire()
            order.append(number)

        await slots.acquire()
        waiting = [asyncio.create_task(take(number)) for number in range(4)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        limit.current = 3
        slots.release()
        await asyncio.sleep(0)
        assert order == [0, 2, 3]
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(run())
