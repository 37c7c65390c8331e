"""Sessions of NeMo Gym's resources servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.agents.resources_server import ResourcesSession
from tests.conftest import Ran, read_rows, sums
from tests.models.helpers import ScriptedHttp
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


@pytest.mark.parametrize(
    "name", ["verify", "seed_session", "../../admin", "..", "x?y=1", "x#y", "shout/", "other", "%2e%2e"]
)
def test_model_reaches_no_path_but_those_of_its_tools(name: str) -> None:
    """A call of a name that the row does not offer sends no request, and the model receives an error."""
    http = ScriptedHttp(lambda _path, _body: {"ok": True})
    session = ResourcesSession("http://127.0.0.1:1", http, {"shout", "verify", "..", "seed_session"})
    assert json.loads(asyncio.run(session.call(name, b"{}"))) == {"error": f"the tool {name!r} does not exist"}
    assert http.sent == []


def test_name_of_a_tool_is_one_part_of_the_path() -> None:
    """Characters of an offered name that mean something in a URL are percent-encoded."""
    paths: list[str] = []

    def answer(path: str, _: Any) -> Any:
        paths.append(path)
        return {}

    http = ScriptedHttp(answer)
    asyncio.run(ResourcesSession("http://127.0.0.1:1", http, {"a/b?c#d ä"}).call("a/b?c#d ä", b"{}"))
    assert paths[0].endswith("/a%2Fb%3Fc%23d%20%C3%A4")
