"""Parallelism that follows the gauges of engines, as a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran
from tests.servers import Served


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
    ran = collect_sums(server.url, "+verifier=none", "+engine_metrics_url=gpu")
    assert ran.code == 2
    assert "engine_metrics_url" in ran.stderr
