"""The token budget of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran, keys_of
from tests.servers import Served


def test_spent_budget_ends_the_run_and_a_resume_completes_it(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """Rollouts in flight finish, the exit code is 0, the cost is reported, and a resume has a new budget."""
    server = serve_model()
    arguments = ["+verifier=none", "+num_samples_in_parallel=2", "+price_per_million.output=1000000"]
    ran = collect_sums(server.url, *arguments, "+max_total_tokens=300", rows=40)
    assert ran.code == 0
    assert "the budget max_total_tokens=300 is spent" in ran.stderr
    assert "cost" in ran.stderr
    collected = len(keys_of(tmp_path / "rollouts.jsonl"))
    assert 1 < collected < 20
    ran = collect_sums(server.url, *arguments, "+resume_from_cache=true", rows=40)
    assert ran.code == 0
    assert len(keys_of(tmp_path / "rollouts.jsonl")) == 40
    assert server.stats()["asked"]["/v1/responses"] == 40
