"""Sessions of NeMo Gym's resources servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran, read_rows, sums
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]


def test_session_returns_the_cookies_of_the_last_reply(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """A rollout seeds a session, calls the model and its tools, and verifies, each time with the latest cookies."""
    server = serve_model(tool=True, resources=True)
    rows = sums(4)
    for row in rows:
        row["responses_create_params"]["tools"] = [
            {"type": "function", "name": "shout", "parameters": {"type": "object", "properties": {}}, "strict": False}
        ]
    ran = collect_sums(server.url, f"+resources_base_url={server.url}", rows=rows)
    assert ran.code == 0, ran.stderr
    assert ran.averages == {"reward": 1.0}
    for row in read_rows(tmp_path / "rollouts.jsonl"):
        assert row["calls"] == ["/seed_session", "/shout", "/verify"]
        kinds = [item["type"] for item in row["response"]["output"]]
        assert kinds == ["function_call", "function_call_output", "message"]
        assert [message["role"] for message in row["output"]] == ["assistant", "tool", "assistant"]
        assert row["response"]["usage"]["output_tokens"] > 20


def test_resources_server_without_sessions_is_reported(
    command: Callable[..., Ran], serve_model: ServeModel, tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The failure names the missing endpoint, and suggests the agent of that resources server."""
    server = serve_model()
    tasks(1)
    run = [f"+policy_base_url={server.url}/v1", f"+resources_base_url={server.url}", "+input_jsonl_fpath=tasks.jsonl"]
    command(*run, "+output_jsonl_fpath=r.jsonl")
    (failure,) = read_rows(tmp_path / "r_failures.jsonl")
    assert "has no /seed_session" in failure["message"]
    assert "+agent_name=" in failure["message"]
