"""Resolution of agent names: which agent answers the rows of a name, and which mistakes are reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.factory import resolve_agents
from ng_rollouts.config.parameters import CollectConfig, HeadServer
from ng_rollouts.errors import ConfigError
from tests.conftest import Ran, assert_rejected_before_sending, read_rows, sums
from tests.servers import Served

Serve = Callable[..., Served]


def resolve(names: list[str], **parameters: Any) -> dict[str, Agent]:
    """The agents of these names, with one row each."""
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", **parameters)

    async def run() -> dict[str, Agent]:
        async with AsyncExitStack() as stack:
            return await resolve_agents(dict.fromkeys(names, 1), config, stack)

    return asyncio.run(run())


def test_agent_names_are_looked_up_in_order(serve: Serve) -> None:
    """A name is looked up in `agent_url`, then `agents`, then the packaged examples, then the head server."""
    agent = serve()
    head = serve(head={"listed": ["127.0.0.1", agent.port], "mine": ["127.0.0.1", 1]})
    agents = resolve(
        ["mine", "entry", "example_math_agent", "listed"],
        agent_name="mine",
        agent_url=agent.url,
        agents={"entry": {"url": agent.url}},
        head_server=HeadServer(port=head.port),
    )
    assert sorted(agents) == ["entry", "example_math_agent", "listed", "mine"]


def test_agent_url_without_agent_name_answers_all_rows(serve: Serve) -> None:
    """Without `agent_name`, the server at `agent_url` answers the rows of every agent name."""
    assert sorted(resolve(["x", "y"], agent_url=[serve().url])) == ["x", "y"]


def test_unknown_agent_name_is_reported_with_all_known_names(serve: Serve) -> None:
    """An unknown agent name is a configuration error that lists the known names and suggests the nearest one."""
    head = serve(head={"math_agent": ["127.0.0.1", 1]})
    with pytest.raises(ConfigError) as error:
        resolve(["maths_agent"], agents={"other": "http://a"}, head_server=HeadServer(port=head.port))
    message = str(error.value)
    assert "did you mean math_agent?" in message
    assert all(name in message for name in ("other", "example_math_agent", "example_tool_agent"))


def test_rows_of_one_run_can_use_several_configured_agents(
    serve_model: Serve, command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Each row is answered by the entry that its `agent_ref` names, with the model and the parameters of that entry."""
    server = serve_model(models=["small", "large"])
    (tmp_path / "my_agent.py").write_text(
        "async def answer(row, client):\n"
        "    response = await client.respond(row['responses_create_params'])\n"
        "    return {'response': response, 'reward': 0.5}\n"
    )
    rows = [{**row, "agent_ref": {"name": name}} for row, name in zip(sums(6), ["s", "l", "f"] * 2, strict=True)]
    tasks(rows)
    ran = command(
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
        *(
            f"+agents.{name}.{key}={value}"
            for name, model in (("s", "small"), ("l", "large"))
            for key, value in (
                ("policy_base_url", f"{server.url}/v1"),
                ("policy_model_name", model),
                ("verifier", "exact_match"),
                ("responses_create_params.temperature", "0.5"),
            )
        ),
        "+agents.f._target_=my_agent.answer",
        f"+agents.f.policy_base_url={server.url}/v1",
        "+agents.f.policy_model_name=small",
    )
    assert ran.code == 0, ran.stderr
    rewards = [row["reward"] for row in read_rows(tmp_path / "rollouts.jsonl")]
    assert rewards == [1.0, 1.0, 0.5] * 2
    sent = server.stats()["last"]
    assert sorted((request["model"], str(request.get("temperature"))) for request in sent) == [
        ("large", "0.5"),
        ("large", "0.5"),
        ("small", "0.5"),
        ("small", "0.5"),
        ("small", "None"),
        ("small", "None"),
    ]


def test_misspelled_option_of_an_entry_is_reported(serve_model: Serve, collect_sums: Callable[..., Ran]) -> None:
    """An unknown option of an entry under `agents` is a configuration error that suggests the nearest option."""
    server = serve_model()
    ran = collect_sums(server.url, "+agents.x.policy_base_ulr=1", "+agent_name=x")
    assert_rejected_before_sending(ran, server, "did you mean policy_base_url")
