"""The token budget of a run."""

from __future__ import annotations

import json
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


def test_judges_and_failed_attempts_have_their_own_tokens_and_costs(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """Each is a line and a field; `cost` has all of them, with the judges' own prices where these are given."""
    model, judge = serve_model(), serve_model(models=["judge"], text="VERDICT: CORRECT")
    lost = serve_model(models=["judge"], text="I cannot say.")
    prices = ["+price_per_million.output=1000000", "+judge_price_per_million.output=2000000"]
    arguments = ["+verifier=judge", "+verifier.attempts=1", "+max_attempts=1", *prices]
    ran = collect_sums(model.url, *arguments, f"+verifier.base_url={lost.url}/v1", rows=4)
    assert ran.code == 1
    summary = json.loads((tmp_path / "rollouts_summary.json").read_bytes())
    failed, judged = summary["tokens_of_failed_attempts"], summary["tokens_of_judges"]
    assert summary["tokens"] == {"input": 0, "output": 0}
    assert f"tokens of failed attempts: {failed['input']} in, {failed['output']} out, cost" in ran.stderr
    assert summary["cost"] == summary["cost_of_judges"] + summary["cost_of_failed_attempts"]
    assert (summary["cost_of_judges"], summary["cost_of_failed_attempts"]) == (2 * judged["output"], failed["output"])
    # The answers are scored later: their tokens are those of an earlier command, and only the judge costs.
    ran = collect_sums(model.url, *arguments, f"+verifier.base_url={judge.url}/v1", "+resume_from_cache=true", rows=4)
    assert ran.code == 0, ran.stderr
    summary = json.loads((tmp_path / "rollouts_summary.json").read_bytes())
    assert summary["tokens"] == summary["tokens_before"] == failed
    assert summary["tokens_of_failed_attempts"] == {"input": 0, "output": 0}
    assert summary["cost"] == failed["output"] + 2 * summary["tokens_of_judges"]["output"]
    assert "tokens of judges: " in ran.stderr


def test_tokens_of_judges_use_up_the_budget(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """They count, although no row has them."""
    judge = serve_model(models=["judge"], text="x" * 4000 + "\nVERDICT: CORRECT")
    arguments = ["+verifier=judge", f"+verifier.base_url={judge.url}/v1", "+num_samples_in_parallel=1"]
    ran = collect_sums(serve_model().url, *arguments, "+max_total_tokens=1500", rows=9)
    assert ran.code == 0, ran.stderr
    assert 1 <= len(keys_of(tmp_path / "rollouts.jsonl")) <= 2
    assert "the budget max_total_tokens=1500 is spent" in ran.stderr
