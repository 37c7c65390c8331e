"""Agents that call a model server and tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from openai.types.responses import Response

from ng_rollouts.agents.model_agent import ModelAgent
from ng_rollouts.types import AgentRequest
from ng_rollouts.verifiers.builtin import Unscored
from tests.conftest import Ran, read_rows
from tests.models.helpers import ScriptedHttp, client_of, completion_of
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]


@pytest.mark.parametrize("api", ["auto", "responses", "chat_completions"])
def test_rows_have_the_fields_of_an_agent_servers_rows(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path, api: str
) -> None:
    """With either API, rows have NeMo Gym's fields and the training view, in the order of tasks and rollouts."""
    ran = collect_sums(serve_model(think=True).url, f"+policy_api={api}", "+verifier=exact_match", "+num_repeats=2")
    assert ran.code == 0, ran.stderr
    assert ran.averages == {"reward": 1.0, "accuracy": 1.0}
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in rows] == [
        (t, r) for t in range(5) for r in (0, 1)
    ]
    for row in rows:
        Response.model_validate(row["response"])
        assert row["extracted_answer"] == row["expected_answer"] == str(3 * row["_ng_task_index"])
        assert row["output"][-1]["content"] == f"So it is \\boxed{{{3 * row['_ng_task_index']}}}."
        assert row["output"][-1]["reasoning_content"] == "Hm."
        assert row["response"]["usage"]["total_tokens"] > 0


def test_missing_verifier_gives_a_null_reward(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """Without a verifier, the mean reward is null and not 0, and a warning says so."""
    ran = collect_sums(serve_model().url)
    assert ran.code == 0
    assert ran.averages == {"reward": None}
    assert "no verifier" in ran.stderr


def test_max_steps_limits_model_requests(serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path) -> None:
    """A model that always calls a tool gets at most `max_steps` requests per rollout."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str):\n    return text\n")
    server = serve_model(tool=True)
    assert collect_sums(server.url, "+verifier=none", "+tools=my_tools.py", "+max_steps=1", rows=1).code == 0
    assert server.stats()["asked"]["/v1/responses"] == 1


def test_calls_with_missing_or_repeated_ids_get_unique_ones() -> None:
    """A server may send no call ids, or the same ones in each turn: request and row then have unique ids."""
    turns: Iterator[list[str | None]] = iter([[None, "c", "c"], ["c"], []])

    def answer(_path: str, _body: object) -> Any:
        calls = [
            {"id": call_id, "type": "function", "function": {"name": "shout", "arguments": "{}"}}
            for call_id in next(turns)
        ]
        return completion_of({"content": "hi", "tool_calls": calls}, "tool_calls" if calls else "stop")

    class Tools:
        definitions: ClassVar = [{"type": "function", "name": "shout", "parameters": {"type": "object"}}]

        async def call(self, _name: str, _arguments: object) -> str:
            return "loud"

    http = ScriptedHttp(answer)
    agent = ModelAgent(
        server=client_of(http), verifier=Unscored(), http=http, tools=cast("Any", Tools()), params={}, max_steps=9
    )
    row = asyncio.run(agent.run(AgentRequest(0, {"responses_create_params": {"input": "hi"}})))
    items = row["response"]["output"]
    made = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert len(set(made)) == len(made) == 4
    assert [item["call_id"] for item in items if item["type"] == "function_call_output"] == made
    sent = [call["id"] for message in http.sent[-1]["messages"] for call in message.get("tool_calls", [])]
    assert sent == made
