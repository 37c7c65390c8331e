"""What answers a rollout: the wire, the seam, discovery, the packaged examples."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import respx

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.example.problems import Step, count_correct_steps, final_answer, solve
from ng_rollouts.agents.factory import resolve_agents
from ng_rollouts.agents.head_server import listed_agents
from ng_rollouts.agents.remote_agent import RemoteAgent
from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.config.parameters import CollectConfig, HeadServer
from ng_rollouts.errors import AttemptFailed, ConfigError, Unreachable
from ng_rollouts.http.client import TimeLimits, open_http
from ng_rollouts.redaction import without_credentials
from ng_rollouts.seeds import seed_in_extra_body, seed_of
from ng_rollouts.types import AgentRequest

from .conftest import Served

ROW = {"responses_create_params": {"input": "hi"}, "_ng_task_index": 0, "_ng_rollout_index": 0}
Serve = Callable[..., Served]


def ask(url: str, row: Any = ROW, engine: str = "httpx", **limits: Any) -> Any:
    """One reply of the agent server at a URL."""

    async def asked() -> Any:
        async with open_http(TimeLimits(**limits), engine) as http:
            return await RemoteAgent([url], http).run(AgentRequest(0, row))

    return asyncio.run(asked())


def found(names: list[str], **parameters: Any) -> dict[str, Agent]:
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", **parameters)

    async def find() -> dict[str, Agent]:
        async with AsyncExitStack() as stack:
            return await resolve_agents(dict.fromkeys(names, 1), config, stack)

    return asyncio.run(find())


@pytest.mark.parametrize("engine", ["pyreqwest", "httpx"])
@pytest.mark.parametrize(
    ("fault", "failure_class", "retryable"),
    [
        ("500", "http_500", True),
        ("503", "http_503", True),
        ("404", "http_404", False),
        ("422", "http_422", False),
        ("retry_after_7", "http_429", True),
        ("reset", "connection_lost", True),
        ("half", "truncated", True),
        ("malformed", "not_json", True),
        ("empty", "not_json", True),
        ("nan", "not_finite", False),
        ("not_object", "not_object", False),
        ("hang", "timeout", True),
    ],
)
def test_faults_have_names(serve: Serve, engine: str, fault: str, failure_class: str, *, retryable: bool) -> None:
    """Whatever goes wrong with an attempt is one AttemptFailed, by its class, and says whether to try again."""
    with pytest.raises(AttemptFailed) as failure:
        ask(serve(faults={fault: 1.0}).url, engine=engine, total_s=0.5)
    assert (failure.value.failure_class, failure.value.retryable) == (failure_class, retryable)
    assert failure.value.retry_after_s == (7 if fault.startswith("retry") else None)


@pytest.mark.parametrize("engine", ["pyreqwest", "httpx"])
@pytest.mark.parametrize(
    ("url", "failure_class"),
    [
        ("http://127.0.0.1:9", "connection_refused"),
        ("http://no-such-host.invalid", "dns"),
        ("http://127.0.0.1:abc", "bad_request"),
    ],
)
def test_a_server_that_is_not_there_has_a_name(engine: str, url: str, failure_class: str) -> None:
    """Refused, unknown, or no address at all."""
    with pytest.raises(AttemptFailed) as failure:
        ask(url, engine=engine)
    assert failure.value.failure_class == failure_class


@pytest.mark.parametrize("engine", ["pyreqwest", "httpx"])
def test_a_server_that_falls_silent_is_given_up(serve: Serve, engine: str) -> None:
    """After `idle_s` without bytes; one that keeps sending slowly is not."""
    with pytest.raises(AttemptFailed) as failure:
        ask(serve(faults={"hang": 1.0}).url, engine=engine, idle_s=0.3)
    assert failure.value.failure_class == "timeout"
    assert ask(serve(faults={"slow": 1.0}).url, engine=engine, idle_s=0.3)["reward"] == 1.0


@pytest.mark.parametrize("engine", ["pyreqwest", "httpx"])
def test_connections_are_used_again(serve: Serve, engine: str) -> None:
    """One after the other needs one connection."""
    server = serve()

    async def ask_ten_times() -> None:
        async with open_http(TimeLimits(), engine) as http:
            agent = RemoteAgent([server.url], http)
            for _ in range(10):
                await agent.run(AgentRequest(0, ROW))

    asyncio.run(ask_ten_times())
    assert server.stats()["connections"] == 2


@pytest.mark.parametrize("engine", ["pyreqwest", "httpx"])
def test_credentials_of_a_url_are_sent(serve: Serve, engine: str) -> None:
    """As Basic authorization."""
    server = serve()
    ask(server.url.replace("http://", "http://me:pass@"), engine=engine)
    assert server.stats()["authorization"] == "Basic bWU6cGFzcw=="


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [
        (httpx.ConnectTimeout("t"), "connect_timeout"),
        (httpx.ReadError(""), "connection_lost"),
        (httpx.WriteError(""), "connection_lost"),
        (httpx.RemoteProtocolError("cut"), "truncated"),
        (httpx.ReadTimeout("t"), "timeout"),
        (httpx.ConnectError("no such host"), "connect_failed"),
        (httpx.UnsupportedProtocol("x"), "bad_request"),
    ],
)
def test_errors_of_the_client_have_names(error: httpx.HTTPError, failure_class: str) -> None:
    """Faults that are hard to stage."""
    with respx.mock:
        respx.post("http://a.test/run").mock(side_effect=error)
        with pytest.raises(AttemptFailed) as failure:
            ask("http://a.test")
    assert failure.value.failure_class == failure_class


@pytest.mark.parametrize("url", ["http://a.test", "http://a.test/", "http://a.test/run"])
def test_the_run_address_may_be_given_any_way(url: str) -> None:
    """With a slash, without, or with `/run`."""
    with respx.mock:
        route = respx.post("http://a.test/run").respond(json={"reward": 1})
        assert ask(url) == {"reward": 1}
    assert route.call_count == 1


def test_a_seed_goes_where_the_agent_takes_it(serve: Serve) -> None:
    """As `seed`; after a 422 for it, from then on in `metadata.extra_body`, and no row is lost."""
    refusing = serve(refuse_seed=True, delay=[0.01, 0.02])
    row = {
        **ROW,
        "responses_create_params": {"input": "hi", "seed": 4, "metadata": {"extra_body": '{"top_k": 2}', "x": "y"}},
    }

    async def ask_often() -> list[Any]:
        async with open_http(TimeLimits()) as http:
            agent = RemoteAgent([refusing.url], http)
            first = await asyncio.gather(*(agent.run(AgentRequest(0, row)) for _ in range(5)))
            return [*first, await agent.run(AgentRequest(0, row))]

    replies = asyncio.run(ask_often())
    assert refusing.stats()["total"] == 5 + 5 + 1
    for reply in replies:
        params = reply["responses_create_params"]
        assert "seed" not in params
        assert json.loads(params["metadata"]["extra_body"]) == {"top_k": 2, "seed": 4}
        assert params["metadata"]["x"] == "y"
    assert ask(serve().url, row)["responses_create_params"]["seed"] == 4


def test_a_422_about_something_else_is_a_failure() -> None:
    """Only a refusal that names the seed changes where it goes."""
    row = {**ROW, "responses_create_params": {"input": "hi", "seed": 4}}
    with respx.mock:
        route = respx.post("http://a.test/run").respond(
            422, json={"detail": [{"loc": ["body", "input"], "msg": "bad"}]}
        )
        with pytest.raises(AttemptFailed):
            ask("http://a.test", row)
    assert route.call_count == 1


def test_unreadable_extra_body_is_replaced() -> None:
    """The seed travels even when what was there is no JSON object."""
    row = {"responses_create_params": {"seed": 1, "metadata": {"extra_body": "oops"}}}
    moved = seed_in_extra_body(row)
    assert moved == {"responses_create_params": {"metadata": {"extra_body": '{"seed":1}'}}}
    assert seed_of(moved["responses_create_params"]) == 1


def test_several_addresses_share_the_load(serve: Serve) -> None:
    """The least busy one is asked."""
    servers = [serve(delay=[0.05, 0.05]) for _ in range(3)]

    async def ask_all() -> None:
        async with open_http(TimeLimits()) as http:
            agent = RemoteAgent([server.url for server in servers], http)
            await asyncio.gather(*(agent.run(AgentRequest(task, ROW)) for task in range(9)))

    asyncio.run(ask_all())
    assert [server.stats()["total"] for server in servers] == [3, 3, 3]


def test_agents_are_found_in_order(serve: Serve) -> None:
    """agent_url for its agent, then the config's entries, the examples, the head server."""
    agent = serve()
    head = serve(head={"listed": ["127.0.0.1", agent.port], "mine": ["127.0.0.1", 1]})
    agents = found(
        ["mine", "entry", "example_math_agent", "listed"],
        agent_name="mine",
        agent_url=agent.url,
        agents={"entry": {"url": agent.url}},
        head_server=HeadServer(port=head.port),
    )
    assert sorted(agents) == ["entry", "example_math_agent", "listed", "mine"]


def test_one_address_serves_every_name(serve: Serve) -> None:
    """Without agent_name, agent_url answers rows whatever agent they name."""
    assert sorted(found(["x", "y"], agent_url=[serve().url])) == ["x", "y"]


def test_a_name_nobody_knows_is_told_with_those_known(serve: Serve) -> None:
    """Exit 2, with all known names and the nearest."""
    head = serve(head={"math_agent": ["127.0.0.1", 1]})
    with pytest.raises(ConfigError) as error:
        found(["maths_agent"], agents={"other": "http://a"}, head_server=HeadServer(port=head.port))
    told = str(error.value)
    assert "did you mean math_agent?" in told
    assert all(name in told for name in ("other", "example_math_agent", "example_tool_agent"))


def test_a_head_server_that_is_not_there_is_told_with_the_cure() -> None:
    """Exit 3, with its address."""
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9 cannot be reached .* give \+agent_url=URL"):
        found(["x"], head_server=HeadServer(port=9))


@pytest.mark.parametrize("body", [b"not json", b"[1]", b'"a: [b"', b"3"])
def test_what_is_no_head_server_is_told(body: bytes) -> None:
    """Something else may listen there."""
    with respx.mock:
        respx.get("http://127.0.0.1:7/global_config_dict_yaml").respond(content=body)
        with pytest.raises((Unreachable, ConfigError)):
            found(["x"], head_server=HeadServer(port=7))


def test_entries_of_a_head_server_are_read_as_nemo_gym_writes_them() -> None:
    """Interpolations are resolved, 0.0.0.0 is where the head server is, entries without an address are left out."""
    entry = {"entrypoint": "app.py", "host": "${base_host}", "port": 5}
    config = {
        "base_host": "127.0.0.2",
        "one": {"responses_api_agents": {"simple_agent": entry}},
        "two": {"responses_api_agents": {"simple_agent": {"host": "0.0.0.0", "port": 6}}},
        "three": {"responses_api_agents": {"simple_agent": {"host": "${nowhere}", "port": 7}}},
        "four": {"responses_api_models": {"m": {"host": "h", "port": 8}}},
        "five": "text",
    }
    assert listed_agents(config, HeadServer(host="head")) == {"one": "http://127.0.0.2:5", "two": "http://head:6"}


@pytest.mark.parametrize(
    "value",
    ["localhost:8000", "http://", 3, ["http://a", None], [], "http://a:1,http://b:2", "http://a:99999", "http://a b"],
)
def test_addresses_are_urls(value: Any) -> None:
    """What is no URL is told before anything is sent."""
    with pytest.raises(ConfigError):
        parse_urls(value, "agent_url")


def test_credentials_in_a_url_are_not_shown() -> None:
    """Neither user nor password nor query."""
    assert without_credentials("http://me:secret@host:1/run?key=secret") == "http://host:1/run"


def test_word_problems_are_solved() -> None:
    """From the story or from an expression; without either there is no problem."""
    story = "Ana has 6 pens. Ana gives away 2, buys 5 and then loses 1 pens. How many?"
    assert [step.result for step in solve(story)] == [4, 9, 8]
    assert solve("What is 2 + 3 x 4?") == [Step(2, "+", 3), Step(5, "*", 4)]
    assert solve("Who are you?") == []
    assert count_correct_steps("6 - 2 = 4\n4 + 5 = 8") == (1, 2)
    assert (final_answer("5 and -3."), final_answer("none")) == (-3, None)


async def _rollouts(name: str, count: int, params: Any) -> list[Any]:
    config = CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o")
    prompt = [{"role": "user", "content": "Ana has 6 pens. Ana buys 2, buys 5 and then loses 1 pens. How many?"}]
    async with AsyncExitStack() as stack:
        agent = (await resolve_agents({name: 1}, config, stack))[name]
        rows = [
            {"_ng_task_index": 0, "_ng_rollout_index": index, "responses_create_params": {"input": prompt, **params}}
            for index in range(count)
        ]
        return [await agent.run(AgentRequest(0, row)) for row in rows]


def simulated(count: int = 1, name: str = "example_math_agent", **params: Any) -> list[Any]:
    return asyncio.run(_rollouts(name, count, params))


def text(reply: Any) -> str:
    return str(reply["response"]["output"][-1]["content"][0]["text"])


def test_the_example_agent_varies_with_temperature_as_the_tables_say() -> None:
    """Low temperature: rewards high and peaked, answers alike; high: rewards spread, answers distinct."""
    cold, warm, hot = ([*simulated(200, temperature=t)] for t in (0.2, 0.5, 0.9))
    means = [statistics.mean(reply["reward"] for reply in replies) for replies in (cold, warm, hot)]
    spreads = [statistics.stdev(reply["reward"] for reply in replies) for replies in (cold, warm, hot)]
    distinct = [len({text(reply) for reply in replies}) / 200 for replies in (cold, warm, hot)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.85
    assert spreads == sorted(spreads)
    assert 0.2 < distinct[0] < 0.5 < distinct[1] < 0.8 < distinct[2] < 0.96


def test_the_example_agent_heeds_the_seed() -> None:
    """Temperature 0 and a fixed seed give one answer; a seed in extra_body counts; others differ."""
    assert len({text(reply) for reply in simulated(20, temperature=0)}) == 1
    assert all(reply["reward"] == 1 for reply in simulated(20, temperature=0))
    assert len({text(reply) for reply in simulated(20, temperature=1, seed=3)}) == 1
    [direct], [routed] = (
        simulated(temperature=1, seed=3),
        simulated(temperature=1, metadata={"extra_body": '{"seed": 3}'}),
    )
    assert text(direct) == text(routed)
    assert len({text(reply) for reply in simulated(20, temperature=1)}) > 10


def test_the_tool_agent_answers_with_a_call_its_result_and_a_message() -> None:
    """Multi-item outputs are seen."""
    [reply] = simulated(name="example_tool_agent")
    assert [item["type"] for item in reply["response"]["output"]] == [
        "function_call",
        "function_call_output",
        "message",
    ]


@pytest.mark.parametrize("name", ["example_math_agent", "example_tool_agent"])
def test_the_example_agents_answer_any_prompt(name: str) -> None:
    """A prompt without a problem gets an honest answer and no reward."""
    [reply] = simulated(name=name, input="Who are you?")
    assert reply["reward"] == 0
    assert "could not find" in text(reply)
