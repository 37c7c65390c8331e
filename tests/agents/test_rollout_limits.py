"""Limits of a rollout: tokens, cost and turns, checked between its turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ng_rollouts.agents.model_agent import ModelAgent
from ng_rollouts.agents.rollout_limits import RolloutLimits
from ng_rollouts.config.parameters import Prices
from ng_rollouts.types import AgentRequest
from ng_rollouts.verifiers.builtin import Unscored
from tests.agents.test_model_agent import calling
from tests.conftest import Ran, assert_rejected_before_sending, read_rows, sums
from tests.models.helpers import ScriptedHttp, client_of
from tests.servers import Served


class Tools:
    """A tool that any call may name."""

    definitions: ClassVar[Any] = [{"type": "function", "name": "shout", "parameters": {"type": "object"}}]

    async def call(self, name: str, _: object) -> str:
        return name


def run(limits: RolloutLimits, usages: list[tuple[int, int]], finish_reason: str = "stop", **params: Any) -> Any:
    """The response of a rollout whose model always calls a tool, and the requests: each turn has the next usage."""

    def answer(_: str, __: Any) -> Any:
        read, written = usages[len(http.sent) - 1]
        reply = calling(f"c{len(http.sent)}")
        reply["usage"] = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        if len(http.sent) == len(usages):
            reply["choices"][0]["finish_reason"] = finish_reason
        return reply

    http = ScriptedHttp(answer)
    tools: Any = Tools()
    agent = ModelAgent(
        server=client_of(http), verifier=Unscored(), http=http, params=params, tools=tools, max_steps=9, limits=limits
    )
    row = asyncio.run(agent.run(AgentRequest(0, {"responses_create_params": {"input": "hi"}})))
    return row["response"], http.sent


def test_no_turn_begins_whose_prompt_alone_exceeds_the_tokens() -> None:
    """The prompt of the next turn has at least the tokens of the last one; the response says which limit it was."""
    response, sent = run(RolloutLimits(max_tokens=100), [(10, 5), (20, 15), (40, 5)])
    # 50 tokens so far, and at least 35 for the next prompt; then 95.
    assert len(sent) == 3
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_rollout_tokens"})
    assert response["usage"]["total_tokens"] == 95


@pytest.mark.parametrize(
    ("prices", "cost", "turns"),
    [(Prices(input=1e6), 40.0, 2), (Prices(output=1e6), 30.0, 3), (Prices(input=5e5, output=2e6), 45.0, 2)],
)
def test_cost_limits_a_rollout_as_tokens_do(prices: Prices, cost: float, turns: int) -> None:
    """Only what has a price counts."""
    response, sent = run(RolloutLimits(max_cost=cost, prices=prices), [(10, 10), (15, 10), (10, 10), (1, 1)])
    assert (len(sent), response["incomplete_details"]) == (turns, {"reason": "max_rollout_cost"})


def test_remaining_tokens_lower_the_output_tokens_of_the_next_turn() -> None:
    """A response that is cut off for it names the limit; without `max_output_tokens`, requests are not changed."""
    usages = [(10, 10), (20, 50)]
    response, sent = run(RolloutLimits(max_tokens=90), usages, "length", max_output_tokens=60)
    assert [body["max_tokens"] for body in sent] == [60, 50]
    assert response["incomplete_details"] == {"reason": "max_rollout_tokens"}
    response, sent = run(RolloutLimits(max_tokens=900), usages, "length", max_output_tokens=60)
    assert [body["max_tokens"] for body in sent] == [60, 60]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    _, sent = run(RolloutLimits(max_tokens=90), usages, "length")
    assert not any("max_tokens" in body for body in sent)


def test_limited_rollouts_are_scored_and_count_as_truncated(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """The answer so far gets its score; a rollout that ends within the limits is complete."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str):\n    return text\n")
    server = serve_model(tool=True)
    tools = ["+tools=my_tools.py", "+verifier=exact_match", "+overwrite=true"]
    costs = ["+max_rollout_cost=1", "+price_per_million.output=1000000"]
    for arguments, reason in ((["+max_rollout_tokens=60"], "max_rollout_tokens"), (costs, "max_rollout_cost")):
        ran = collect_sums(server.url, *tools, *arguments)
        assert (ran.code, ran.averages) == (0, {"reward": 0.0, "accuracy": 0.0}), ran.stderr
        rows = read_rows(tmp_path / "rollouts.jsonl")
        assert [row["response"]["incomplete_details"] for row in rows] == [{"reason": reason}] * 5
        assert json.loads((tmp_path / "rollouts_summary.json").read_bytes())["share_truncated"] == 1
    ran = collect_sums(server.url, *tools, "+max_rollout_tokens=6000")
    assert ran.averages == {"reward": 1.0, "accuracy": 1.0}


def test_turns_are_steps(serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path) -> None:
    """`max_rollout_turns` is another name of `max_steps`: a resume may use either. The reason is the one that was given."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str):\n    return text\n")
    server = serve_model(tool=True)
    run_of_tools = ["+verifier=none", "+tools=my_tools.py"]
    assert collect_sums(server.url, *run_of_tools, "+max_rollout_turns=1", rows=1).code == 0
    assert server.stats()["asked"]["/v1/responses"] == 1
    again = collect_sums(server.url, *run_of_tools, "+max_steps=1", "+resume_from_cache=true", rows=2)
    assert again.code == 0, again.stderr
    reasons = [row["response"]["incomplete_details"]["reason"] for row in read_rows(tmp_path / "rollouts.jsonl")]
    assert reasons == ["max_rollout_turns", "max_steps"]


def test_steps_of_an_agent_are_its_own_limit(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], tmp_path: Path
) -> None:
    """`max_steps` of an entry takes precedence over `max_rollout_turns`, and is then the reason."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str):\n    return text\n")
    agent = ["+agent_name=mine", "+agents.mine.max_steps=1", "+tools=my_tools.py", "+verifier=none"]
    assert collect_sums(serve_model(tool=True).url, *agent, "+max_rollout_turns=2", rows=1).code == 0
    [row] = read_rows(tmp_path / "rollouts.jsonl")
    assert row["response"]["incomplete_details"] == {"reason": "max_steps"}


@pytest.mark.parametrize("limit", ["max_rollout_tokens=5", "max_rollout_turns=1"])
def test_limits_of_agent_servers_are_refused(
    serve: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], limit: str
) -> None:
    """An agent server makes its model calls itself, also one that an entry of `agents` names."""
    server = serve()
    tasks(3)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]
    ran = command(f"+agents.a.url={server.url}", "+agent_name=a", *files, f"+{limit}")
    assert_rejected_before_sending(ran, server, "needs a model server")


def test_agents_without_limits_are_named(
    serve: Callable[..., Served],
    serve_model: Callable[..., Served],
    command: Callable[..., Ran],
    tasks: Callable[..., Path],
) -> None:
    """Of several agents, a warning names those that the limit does not apply to."""
    rows = [{**row, "agent_ref": {"name": name}} for row, name in zip(sums(2), ("remote", "model"), strict=True)]
    tasks(rows)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl", "+verifier=none"]
    agents = [f"+agents.remote.url={serve().url}", f"+agents.model.policy_base_url={serve_model().url}/v1"]
    ran = command(*agents, *files, "+max_rollout_tokens=5000")
    assert ran.code == 0, ran.stderr
    assert "warning: max_rollout_tokens does not apply to remote" in ran.stderr


def test_cost_without_prices_is_an_error(serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]) -> None:
    """Nothing would ever cost anything."""
    server = serve_model()
    assert_rejected_before_sending(collect_sums(server.url, "+max_rollout_cost=1"), server, "needs prices")
