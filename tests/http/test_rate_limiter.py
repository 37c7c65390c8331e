"""Rate limits on requests and tokens per minute."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.http.rate_limiter import RateLimiter
from tests.conftest import Ran
from tests.servers import Served


@given(
    rate=st.floats(1, 6000), tokens=st.floats(100, 1e6), sizes=st.lists(st.integers(1, 5000), min_size=2, max_size=60)
)
def test_requests_are_evenly_spaced(rate: float, tokens: float, sizes: list[int]) -> None:
    """The gap after a request is at least its share of a minute, by requests and by the tokens it consumed."""
    now = 0.0
    rate_limiter = RateLimiter(rate, tokens, clock=lambda: now)
    sent_at = []
    for size in sizes:
        now += max(0.0, rate_limiter.seconds_until_next())
        sent_at.append(now)
        reservation = rate_limiter.reserve(size)
        rate_limiter.settle(reservation, size)
    gaps = [after - before for before, after in itertools.pairwise(sent_at)]
    assert all(gap >= 60 / rate - 1e-6 for gap in gaps)
    for gap, size in zip(gaps, sizes, strict=False):
        assert gap >= size * 60 / tokens - 1e-6


def test_max_requests_per_minute_limits_a_run(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]
) -> None:
    """With `max_requests_per_minute=1200`, 20 requests take at least 19 gaps of 50 ms, less 20 % for jitter."""
    server = serve_model()
    assert collect_sums(server.url, "+verifier=none", "+max_requests_per_minute=1200", rows=20).code == 0
    times = server.stats()["times"]
    assert times[-1] - times[0] >= 19 * 0.05 * 0.8


def test_reported_tokens_correct_the_delay_of_waiting_requests() -> None:
    """The tokens that a reply reports replace the estimate, also for requests that are waiting already."""
    now = 0.0
    rate_limiter = RateLimiter(None, 60_000, clock=lambda: now)
    first = rate_limiter.reserve(0, output_tokens=30_000)
    assert rate_limiter.seconds_until_next() == pytest.approx(30)
    rate_limiter.settle(first, 1000)
    assert rate_limiter.seconds_until_next() == pytest.approx(1)
    now += 1
    second = rate_limiter.reserve(0, output_tokens=30_000)
    assert rate_limiter.seconds_until_next() == pytest.approx(1)
    rate_limiter.cancel(second)
    assert rate_limiter.seconds_until_next() == pytest.approx(0)


def test_new_limit_of_requests_keeps_the_delay_of_tokens() -> None:
    """A request that used many tokens delays the next one, whatever becomes of the limit of requests."""
    limiter = RateLimiter(tokens_per_minute=60_000, clock=lambda: 0.0)
    limiter.settle(limiter.reserve(100), 100_000)
    before = limiter.seconds_until_next()
    limiter.set_requests_per_minute(600)
    assert limiter.seconds_until_next() == before > 90
