"""Load balancing: which server a request goes to, cooldowns and `Retry-After`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.attempt_endpoints import avoiding_first
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer
from ng_rollouts.http.rate_limiter import RateLimiter
from ng_rollouts.types import Rollout, RolloutKey
from tests.conftest import Ran
from tests.servers import Served


def test_rollouts_of_a_task_stay_with_one_server(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]
) -> None:
    """Rollouts of a task share the prefix cache of one server, and the tasks are shared among the servers."""
    servers = [serve_model(latency=0.01) for _ in range(2)]
    urls = f"[{servers[0].url}/v1,{servers[1].url}/v1]"
    ran = collect_sums(
        servers[0].url,
        f"+policy_base_url={urls}",
        "+verifier=none",
        "+num_repeats=8",
        "+num_samples_in_parallel=32",
        rows=40,
    )
    assert ran.code == 0, ran.stderr
    shares = [server.stats()["asked"]["/v1/responses"] for server in servers]
    assert sum(shares) == 320
    assert min(shares) > 80
    assert sum(server.stats()["prompts"] for server in servers) <= 40 * 1.25
    assert ran.stderr.count("answered") == 2


def test_second_attempt_keeps_its_endpoint_and_leaves_the_first_one_its_own() -> None:
    """All turns of an attempt go to one server, also those of a second attempt that avoids the first one's."""
    load_balancer = LoadBalancer(["http://a", "http://b", "http://c"])
    asked: dict[int, list[str]] = {0: [], 1: []}

    async def attempt(rollout: Rollout, number: int) -> None:
        async def send(url: str) -> None:
            asked[number].append(url)
            await asyncio.sleep(0)

        for _ in range(4):
            await load_balancer.send(rollout.key.task_index, send)

    async def run() -> None:
        call, rollout = avoiding_first(attempt), Rollout(28, RolloutKey(7, 0), "a", "", {})
        first = asyncio.ensure_future(call(rollout, 0))
        await asyncio.sleep(0)
        await asyncio.gather(first, asyncio.ensure_future(call(rollout, 1)))

    asyncio.run(run())
    assert asked == {0: ["http://a"] * 4, 1: ["http://b"] * 4}


def test_failed_second_attempt_leaves_the_task_its_endpoint() -> None:
    """The next rollouts of the task go to the server of the first attempt, which has its prompt in its cache."""
    load_balancer = LoadBalancer(["http://a", "http://b"])
    asked: list[str] = []
    second_asked = asyncio.Event()

    async def attempt(rollout: Rollout, number: int) -> None:
        async def send(url: str) -> None:
            asked.append(url)
            if number:
                second_asked.set()
                raise AttemptFailed("http_500", "broken", status=500, retryable=True)
            await second_asked.wait()

        await load_balancer.send(rollout.key.task_index, send)

    async def run() -> None:
        call, rollout = avoiding_first(attempt), Rollout(28, RolloutKey(7, 0), "a", "", {})
        first = asyncio.ensure_future(call(rollout, 0))
        await asyncio.sleep(0)
        await asyncio.gather(first, asyncio.ensure_future(call(rollout, 1)), return_exceptions=True)
        load_balancer.endpoints[0].requests_sent = 10  # a task without an endpoint goes to the other one
        for index in range(1, 4):
            await asyncio.ensure_future(call(Rollout(28 + index, RolloutKey(7, index), "a", "", {}), 0))

    asyncio.run(run())
    assert asked == ["http://a", "http://b", "http://a", "http://a", "http://a"]


def test_unreachable_server_is_probed_by_one_request_after_its_cooldown() -> None:
    """During the cooldown of a server the others get its requests; then one request probes it until it answers."""
    load_balancer = LoadBalancer(["http://a", "http://b"])
    dead = {"http://a"}
    log: list[str] = []

    async def send(url: str) -> str:
        log.append(url)
        await asyncio.sleep(0.001)
        if url in dead:
            raise AttemptFailed("connection_refused", "connection refused", retryable=True)
        return url

    async def run() -> None:
        assert [await load_balancer.send(task, send) for task in range(10)] == ["http://b"] * 10
        assert log.count("http://a") == 1
        assert load_balancer.cooling_down() == ["http://a"]
        load_balancer.endpoints[0]._cooldown_until = 1e-9
        log.clear()
        dead.clear()
        await asyncio.gather(*(load_balancer.send(task, send) for task in range(100, 110)))
        assert log[:10].count("http://a") == 1
        assert load_balancer.cooling_down() == []
        await asyncio.gather(*(load_balancer.send(task, send) for task in range(200, 210)))
        assert log[10:].count("http://a") == 5

    asyncio.run(run())


def test_retry_after_delays_all_requests_to_the_server() -> None:
    """A `Retry-After` in one reply delays the other requests to that server, too."""
    load_balancer = LoadBalancer(["http://a"])
    loop_times: list[float] = []

    async def refuse(url: str) -> None:
        raise AttemptFailed("http_429", "slow down", status=429, retryable=True, retry_after_s=0.2)

    async def accept(url: str) -> None:
        loop_times.append(asyncio.get_running_loop().time())

    async def run() -> float:
        with pytest.raises(AttemptFailed):
            await load_balancer.send(0, refuse)
        assert load_balancer.cooling_down() == ["http://a"]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(load_balancer.send(task, accept) for task in range(3)))
        return min(loop_times) - began

    assert asyncio.run(run()) >= 0.15


def test_requests_after_a_retry_after_keep_the_rate_limit() -> None:
    """Waiting requests get their turn after the `Retry-After`, at an even rate, and are not sent all at once."""
    load_balancer = LoadBalancer(["http://a"], RateLimiter(600))
    times: list[float] = []

    async def refuse_once(url: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise AttemptFailed("http_429", "slow down", status=429, retryable=True, retry_after_s=0.5)

    async def run() -> None:
        await asyncio.gather(*(load_balancer.send(task, refuse_once) for task in range(6)), return_exceptions=True)

    asyncio.run(run())
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[0] >= 0.45
    assert min(gaps[1:]) >= 0.08


def test_reservation_is_cancelled_with_its_request() -> None:
    """A request that is cancelled or raises an exception gives back its tokens, so later requests are not blocked."""
    load_balancer = LoadBalancer(["http://a"], RateLimiter(None, 6_000_000))

    async def hang(url: str) -> None:
        await asyncio.sleep(3600)

    async def fail(url: str) -> None:
        raise ValueError("unexpected")

    async def answer(url: str) -> str:
        return url

    async def run() -> str:
        for task in range(4):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(load_balancer.send(task, hang), 0.05)
            with pytest.raises(ValueError, match="unexpected"):
                await load_balancer.send(task, fail)
        return await asyncio.wait_for(load_balancer.send(9, answer), 5)

    assert asyncio.run(run()) == "http://a"


def test_wait_for_retry_after_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request waits longer than `MAX_RETRY_AFTER_S`, even if other replies prolong the `Retry-After` repeatedly."""
    monkeypatch.setattr("ng_rollouts.http.load_balancer.MAX_RETRY_AFTER_S", 0.3)
    load_balancer = LoadBalancer(["http://a"])
    loop_times: list[float] = []

    async def refuse(url: str) -> None:
        loop_times.append(asyncio.get_running_loop().time())
        raise AttemptFailed("http_429", "slow down", status=429, retryable=True, retry_after_s=60)

    async def run() -> None:
        with pytest.raises(AttemptFailed):
            await load_balancer.send(0, refuse)
        await asyncio.gather(*(load_balancer.send(task, refuse) for task in range(20)), return_exceptions=True)

    asyncio.run(run())
    assert len(loop_times) == 21
    assert loop_times[-1] - loop_times[0] < 3


def test_wait_for_retry_after_is_not_a_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests sleep through a `Retry-After` even while another endpoint is probed after its cooldown."""
    load_balancer = LoadBalancer(["http://a", "http://b"])
    first, second = load_balancer.endpoints
    monkeypatch.setattr("ng_rollouts.http.load_balancer.FIRST_COOLDOWN_S", 0.01)
    second._cooldown_s = 0.01
    second.record_failure(AttemptFailed("connection_lost", ""))
    second.in_flight = 5
    first.record_failure(AttemptFailed("http_429", "", status=429, retry_after_s=0.2))
    sleeps: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        sleeps.append(seconds)
        await sleep(seconds)

    async def answer(url: str) -> str:
        return url

    monkeypatch.setattr("ng_rollouts.http.load_balancer.asyncio.sleep", counted)
    assert asyncio.run(load_balancer.send(0, answer)) == "http://a"
    assert len(sleeps) < 20


def test_answered_requests_are_those_that_succeeded() -> None:
    """A failed health check or a cancelled request is not an answered request, and none is counted away."""
    load_balancer = LoadBalancer(["http://a"])
    [endpoint] = load_balancer.endpoints

    async def send(url: str) -> str:
        return url

    async def hang(_: str) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> None:
        endpoint.record_failure(AttemptFailed("timeout", "the health check failed"))
        assert (endpoint.answered, endpoint.mean_seconds) == (0, 0.0)
        await load_balancer.send(0, send)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await load_balancer.send(0, hang)
        assert (endpoint.answered, endpoint.failed, endpoint.in_flight) == (1, 1, 0)

    asyncio.run(run())


def test_wait_for_retry_after_may_end_between_two_looks_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `Retry-After` that passes while the wait is computed is no error."""
    balancer = LoadBalancer(["http://one"])
    left = itertools.chain([1.0], itertools.repeat(0.0))
    monkeypatch.setattr(Endpoint, "retry_after_left", property(lambda _: next(left)))

    async def run() -> None:
        await balancer._wait_for_retry_after(0, set(), time.monotonic() + 0.01)

    asyncio.run(run())
