"""Agents behind `POST /run`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import respx

from ng_rollouts.agents.remote_agent import RemoteAgent
from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import TimeLimits, open_http
from ng_rollouts.types import AgentRequest
from tests.servers import Served

ROW = {"responses_create_params": {"input": "hi"}, "_ng_task_index": 0, "_ng_rollout_index": 0}
Serve = Callable[..., Served]


def run_once(url: str, row: Any = ROW) -> Any:
    """Send one row to the agent server at a URL, over httpx; its reply."""

    async def run() -> Any:
        async with open_http(TimeLimits(), "httpx") as http:
            return await RemoteAgent([url], http).run(AgentRequest(0, row))

    return asyncio.run(run())


@pytest.mark.parametrize("url", ["http://a.test", "http://a.test/", "http://a.test/run"])
def test_agent_url_may_include_the_run_path(url: str) -> None:
    """The URL of an agent may end in a slash, in `/run`, or in neither."""
    with respx.mock:
        route = respx.post("http://a.test/run").respond(json={"reward": 1})
        assert run_once(url) == {"reward": 1}
    assert route.call_count == 1


def test_seed_moves_to_extra_body_after_a_422(serve: Serve) -> None:
    """A server that rejects `seed` gets each rejected row again, and all later rows, with it in `extra_body`."""
    refusing = serve(refuse_seed=True, delay=[0.01, 0.02])
    row = {
        **ROW,
        "responses_create_params": {"input": "hi", "seed": 4, "metadata": {"extra_body": '{"top_k": 2}', "x": "y"}},
    }

    async def run_often() -> list[Any]:
        async with open_http(TimeLimits()) as http:
            agent = RemoteAgent([refusing.url], http)
            first = await asyncio.gather(*(agent.run(AgentRequest(0, row)) for _ in range(5)))
            return [*first, await agent.run(AgentRequest(0, row))]

    replies = asyncio.run(run_often())
    assert refusing.stats()["total"] == 5 + 5 + 1
    for reply in replies:
        params = reply["responses_create_params"]
        assert "seed" not in params
        assert json.loads(params["metadata"]["extra_body"]) == {"top_k": 2, "seed": 4}
        assert params["metadata"]["x"] == "y"
    assert run_once(serve().url, row)["responses_create_params"]["seed"] == 4


def test_422_about_another_field_fails_the_attempt() -> None:
    """A 422 that does not name the seed fails the attempt at once, and the seed is not moved."""
    row = {**ROW, "responses_create_params": {"input": "hi", "seed": 4}}
    with respx.mock:
        route = respx.post("http://a.test/run").respond(
            422, json={"detail": [{"loc": ["body", "input"], "msg": "bad"}]}
        )
        with pytest.raises(AttemptFailed):
            run_once("http://a.test", row)
    assert route.call_count == 1


def test_several_urls_share_the_load(serve: Serve) -> None:
    """Each request goes to the least busy server."""
    servers = [serve(delay=[0.05, 0.05]) for _ in range(3)]

    async def run_all() -> None:
        async with open_http(TimeLimits()) as http:
            agent = RemoteAgent([server.url for server in servers], http)
            await asyncio.gather(*(agent.run(AgentRequest(task, ROW)) for task in range(9)))

    asyncio.run(run_all())
    assert [server.stats()["total"] for server in servers] == [3, 3, 3]
