"""The order in which rollouts are sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran, keys_of
from tests.servers import Served


def test_failed_canary_stops_the_run(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """If a canary rollout fails, no other rollout is sent; if it succeeds, the rest is collected."""
    healthy, broken = serve_model(), serve_model(fail={"400": 1.0})
    ran = collect_sums(broken.url, "+verifier=none", "+canary=1")
    assert ran.code == 3
    assert "a canary rollout failed" in ran.stderr
    assert broken.stats()["asked"]["/v1/responses"] == 1
    ran = collect_sums(healthy.url, "+verifier=none", "+canary=1", "+resume_from_cache=true")
    assert ran.code == 0, ran.stderr
    assert len(keys_of(tmp_path / "rollouts.jsonl")) == 5
