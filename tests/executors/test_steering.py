"""Parallelism that follows the gauges of engines: of pools, and as a command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ng_rollouts.executors.engine_addresses import match
from ng_rollouts.executors.steering import Source, Steerer, sources_of
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.http.rate_limiter import RateLimiter
from ng_rollouts.scheduling.engine_limit import EngineAwareLimit
from ng_rollouts.types import EngineSample
from tests.conftest import Ran
from tests.servers import Served

A, B = "http://a:8000/metrics", "http://b:8000/metrics"
POOL = ["http://a:8000/v1", "http://b:8000/v1"]


class Engines:
    """Engines that run a number of requests, or whose gauges fail. One that is not among them has no gauges."""

    def __init__(self, **engines: int | Exception) -> None:
        self.running = {f"http://{host}:8000/metrics": each for host, each in engines.items()}
        self._seconds = 0

    async def gauges_at(self, url: str) -> EngineSample | None:
        """The gauges at an address, one second after those of before."""
        self._seconds += 1
        running = self.running.get(url)
        if isinstance(running, Exception):
            raise running
        sample = EngineSample(at=self._seconds, running=running or 0, waiting=0, cache=0.01, engine="vllm")
        return sample if running else None


class Pool:
    """A limit that engines steer, and that is always used."""

    def __init__(self, engines: Engines, wanted: object = None, *, sent: int = 1) -> None:
        self.balancer = LoadBalancer(POOL)
        self.balancer.endpoints[0].requests_sent = sent
        self.limit = EngineAwareLimit(1_000_000)
        self.sources = sources_of(wanted, [self.balancer])
        self.steerer = Steerer(self.limit, self.sources, engines.gauges_at, lambda: self.limit.current)

    def read(self, times: int) -> None:
        """Read all addresses some times."""
        asyncio.run(self._read(times))

    async def _read(self, times: int) -> None:
        for _ in range(times):
            await asyncio.gather(*map(self.steerer.read, self.sources.all))

    def follow(self, times: int) -> None:
        """Follow all addresses for some readings, of which the very first one is of all together."""
        asyncio.run(self._follow(times))

    async def _follow(self, times: int) -> None:
        if all(not source.missed and source.is_followed is None for source in self.sources.all):
            await self.steerer.read_all()
        for source in self.sources.all:
            await self._follow_one(source, times)

    async def _follow_one(self, source: Source, times: int) -> None:
        pauses = iter(range(times))

        async def sleep(_: float) -> None:
            if next(pauses, None) is None:
                raise asyncio.CancelledError

        with pytest.MonkeyPatch.context() as patch, suppress(asyncio.CancelledError):
            patch.setattr("ng_rollouts.executors.steering.asyncio.sleep", sleep)
            await self.steerer.follow(source)

    @property
    def capacities(self) -> list[float]:
        return [endpoint.capacity for endpoint in self.balancer.endpoints]


def test_endpoint_of_a_pool_without_gauges_gets_as_much_as_the_others() -> None:
    """An endpoint without gauges has the mean capacity of the others, and the limit counts it."""
    pool = Pool(Engines(a=60))
    pool.read(8)
    first, second = pool.capacities
    assert first == second > 50
    assert pool.limit.current == 2 * first


def test_engine_of_a_pool_resumes_from_its_last_limit() -> None:
    """An engine that is lost counts like the others, and later has its own limit again."""
    engines = Engines(a=60, b=60)
    pool = Pool(engines)
    pool.read(6)
    before = pool.limit.of(B)
    del engines.running[B]
    pool.read(20)
    assert pool.capacities[0] == pool.capacities[1] > (before or 0)
    assert pool.limit.current == int(sum(pool.capacities))
    engines.running[B] = 60
    pool.read(1)
    assert pool.limit.of(B) == pool.capacities[1] == before


def test_error_at_an_address_of_a_pool_concerns_no_other() -> None:
    """An unexpected error while an address is read counts as no answer of this address."""
    pool = Pool(Engines(a=60, b=ValueError("odd")))
    pool.read(8)
    assert pool.limit.steered_by == "vllm_gauges"
    assert [source.missed for source in pool.sources.all] == [0, 8]


@pytest.mark.parametrize(
    ("wanted", "sent"), [(["http://c:8000/metrics", A], 1), ([A, "http://c:8000/metrics"], 1), (None, 0)]
)
def test_smallest_engine_of_a_pool_decides_if_it_is_not_balanced_here(wanted: object, sent: int) -> None:
    """If an address is of no endpoint, or another process sends, each engine gets what the smallest limit allows."""
    pool = Pool(Engines(a=60, b=8, c=8), wanted, sent=sent)
    pool.read(8)
    limits = [pool.limit.of(source.url) or 0 for source in pool.sources.all]
    assert pool.limit.current == 2 * min(limits)
    assert pool.capacities == [1.0, 1.0]


def test_named_addresses_of_a_pool_are_matched_in_any_order() -> None:
    """Addresses of the endpoints' hosts steer as those that are found."""
    pool = Pool(Engines(a=60, b=60), [B, A])
    pool.read(8)
    assert pool.capacities == [pool.limit.of(A), pool.limit.of(B)]
    assert pool.limit.current == int(sum(pool.capacities)) > 100


@pytest.mark.parametrize(
    ("addresses", "matches"),
    [
        (["http://b:9000/metrics", "http://a:9000/metrics"], {POOL[0]: "http://a:9000/metrics", POOL[1]: "http://b:9000/metrics"}),
        (["http://b:8000/m", "http://b:9000/m"], {POOL[1]: "http://b:8000/m"}),
        (["http://b:9001/m", "http://b:9000/m"], {}),
        (["http://a:8000/1", "http://a:8000/2"], {}),
        (["http://c:8000/m"], {}),
        ([], {}),
    ],
)  # fmt: skip
def test_addresses_are_matched_by_host_and_by_port_if_needed(addresses: list[str], matches: dict[str, str]) -> None:
    """An address belongs to the endpoint at its host and port, or else to the only one at its host."""
    assert match(POOL, addresses) == matches


def test_requests_that_wait_for_the_rate_limit_do_not_use_the_engine() -> None:
    """The load balancer counts requests that it has not sent, until they are sent or cancelled."""

    sent = asyncio.Event()

    async def send(_: str) -> None:
        sent.set()
        await asyncio.Event().wait()

    async def run() -> None:
        balancer = LoadBalancer(POOL, RateLimiter(requests_per_minute=1))
        requests = [asyncio.create_task(balancer.send(task, send)) for task in range(3)]
        await sent.wait()
        assert sources_of(None, [balancer]).waiting == 2
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert balancer.waiting == 0

    asyncio.run(run())


def test_silent_address_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without an answer is asked five times, then from time to time, and steers as soon as it answers."""
    pauses: list[float] = []
    engines = Engines()
    pool = Pool(engines)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            engines.running[A] = 60
        if len(pauses) == 10:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(pool.steerer.follow(pool.sources.all[0]))
    assert pauses == [1.0] * 5 + [30.0] * 3 + [1.0] * 2
    assert pool.limit.steered_by == "vllm_gauges"


def test_lost_gauges_are_logged_once_and_again_when_they_are_back(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says that the gauges of an address are lost and what steers instead, and one that they are back."""
    engines = Engines(a=60, b=60)
    pool = Pool(engines)
    pool.follow(2)
    del engines.running[B]
    pool.follow(12)
    del engines.running[A]
    pool.follow(12)
    engines.running[B] = 60
    pool.follow(3)
    assert capsys.readouterr().err.splitlines() == [
        f"parallelism follows the gauges at {A}, {B}",
        f"warning: the gauges at {B} are lost: this engine counts like the mean of the others",
        f"warning: the gauges at {A} are lost: parallelism follows the throughput",
        f"parallelism follows the gauges at {B} again",
    ]


@pytest.mark.parametrize(
    ("engines", "wanted", "lines"),
    [
        ({}, [A, B], [f"warning: no gauges at {url}: parallelism follows the throughput" for url in (A, B)]),
        (
            {"b": 60},
            [A, B],
            [
                f"parallelism follows the gauges at {B}",
                f"warning: no gauges at {A}: this engine counts like the mean of the others",
            ],
        ),
        ({}, None, []),
    ],
)
def test_named_address_without_gauges_is_a_warning(
    capsys: pytest.CaptureFixture[str], engines: dict[str, int], wanted: object, lines: list[str]
) -> None:
    """One line names each address that was given and has no gauges. Endpoints need not have any."""
    Pool(Engines(**engines), wanted).follow(20)
    assert capsys.readouterr().err.splitlines() == lines


def test_gauges_that_are_found_late_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """An engine that starts after the run is followed as soon as it answers."""
    engines = Engines()
    pool = Pool(engines)
    pool.follow(8)
    engines.running[A] = 60
    pool.follow(2)
    assert capsys.readouterr().err.splitlines() == [f"parallelism follows the gauges at {A}"]


@pytest.mark.parametrize(
    ("gauges", "option", "steered_by", "asks"),
    [
        ({"gauges": {"cache": 0.01}}, "", "vllm_gauges", True),
        ({}, "", "throughput", True),
        ({"gauges": {"cache": 0.01}}, "+engine_metrics_url=never", "throughput", False),
        ({}, "+engine_metrics_url=http://127.0.0.1:9/metrics", "throughput", False),
    ],
)
def test_run_is_steered_by_the_gauges_of_its_server(
    serve_model: Callable[..., Served],
    collect_sums: Callable[..., Ran],
    tmp_path: Path,
    gauges: dict[str, object],
    option: str,
    *,
    steered_by: str,
    asks: bool,
) -> None:
    """The server is asked once whether it has gauges. The summary says what steered; every rollout is collected."""
    server = serve_model(latency=0.2, **gauges)
    options = [option] if option else []
    ran = collect_sums(server.url, "+verifier=none", "+adaptive_parallelism=true", "+num_repeats=10", *options)
    assert ran.code == 0, ran.stderr
    summary = json.loads((tmp_path / "rollouts_summary.json").read_text())
    assert summary["steered_by"] == steered_by
    assert summary["collected"] == 50
    assert f"steered by {steered_by}" in ran.stderr
    assert ("/metrics" in server.stats()["asked"]) == asks


def test_wrong_address_of_metrics_is_an_error(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """A value that is not a URL is reported before anything is sent."""
    server = serve_model()
    ran = collect_sums(server.url, "+verifier=none", "+adaptive_parallelism=true", "+engine_metrics_url=gpu")
    assert ran.code == 2
    assert "engine_metrics_url" in ran.stderr


@pytest.mark.parametrize("value", ["http://127.0.0.1:9/metrics", "never"])
def test_address_of_metrics_without_adaptive_parallelism_is_an_error(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], value: str
) -> None:
    """Nothing would read the gauges: one line says so, before anything is sent."""
    server = serve_model()
    ran = collect_sums(server.url, "+verifier=none", f"+engine_metrics_url={value}")
    assert ran.code == 2
    assert "error: engine_metrics_url has no effect without adaptive_parallelism=true" in ran.stderr
