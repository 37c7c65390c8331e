"""Dry runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran
from tests.servers import Served

CollectSums = Callable[..., Ran]


def test_dry_run_shows_the_first_request_without_sending_it(
    serve_model: Callable[..., Served], collect_sums: CollectSums, tmp_path: Path
) -> None:
    """A dry run shows the request exactly as it would be sent, with secrets masked, and counts what a resume would do."""
    server = serve_model(key="sk-of-the-server")
    arguments = [
        "+verifier=exact_match",
        "+policy_api_key=sk-of-the-server",
        "+responses_create_params.temperature=0.3",
    ]
    ran = collect_sums(server.url, *arguments, "+dry_run=true", "+num_repeats=3")
    assert ran.code == 0, ran.stderr
    assert "plan: 5 rows, repeated to 15 rollouts, 15 to do" in ran.stdout
    assert "authorization: Bearer ***" in ran.stdout
    assert "sk-of-the-server" not in ran.stdout + ran.stderr
    shown = json.loads(ran.stdout[ran.stdout.index("\n{") :])
    assert not (tmp_path / "rollouts.jsonl").exists()
    assert server.stats()["asked"].keys() == {"/v1/models", "/stats"}
    assert collect_sums(server.url, *arguments, "+limit=1").code == 0
    assert server.stats()["last"] == [shown]
    before = (tmp_path / "rollouts.jsonl").read_bytes()
    ran = collect_sums(server.url, *arguments, "+dry_run=true", "+resume_from_cache=true")
    assert "5 rows, 1 of them collected and 0 failed, 4 to do" in ran.stdout
    assert (tmp_path / "rollouts.jsonl").read_bytes() == before


def test_dry_run_with_an_unreachable_server_is_an_error(collect_sums: CollectSums) -> None:
    """A dry run whose server cannot be reached exits with 2."""
    ran = collect_sums("http://127.0.0.1:9", "+verifier=none", "+dry_run=true", "+wait_for_agent_s=0")
    assert ran.code == 2
    assert "cannot be reached" in ran.stderr
