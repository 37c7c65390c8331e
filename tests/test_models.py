"""Straight to a model server: the two APIs, the agent in the process, tools, pools, pace, budget, rehearsals."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import TimeLimits, open_http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.http.rate_limiter import RateLimiter
from ng_rollouts.models.client import ModelClient, base_url
from ng_rollouts.models.from_chat_completions import to_response
from ng_rollouts.models.to_chat_completions import to_chat_request
from ng_rollouts.scheduling.concurrency import AdaptiveLimit, FixedLimit, Slots

from .conftest import SHARED_DATA, Ran, Served, keys_of, read_rows

ServeModel = Callable[..., Served]
Command = Callable[..., Ran]
Tasks = Callable[..., Path]


def sums(count: int) -> list[Any]:
    return [
        {"responses_create_params": {"input": f"What is {n} + {2 * n}?"}, "expected_answer": str(3 * n)}
        for n in range(count)
    ]


def asked(url: str, params: Any, **options: Any) -> Any:
    """The Response object for one request."""

    async def ask() -> Any:
        async with open_http(TimeLimits()) as http:
            given = {"api": "auto", "model": "test-model", "api_key": None, **options}
            return await ModelClient(LoadBalancer([url]), http, **given).respond(params)

    return asyncio.run(ask())


@pytest.fixture
def collected(command: Command, tasks: Tasks) -> Callable[..., Ran]:
    """Collect rollouts of sums over a model server."""

    def collect(url: str, *arguments: str, rows: Any = 5) -> Ran:
        tasks(rows if isinstance(rows, list) else sums(rows))
        files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]
        return command(f"+policy_base_url={url}/v1", *files, *arguments)

    return collect


# The two APIs


@pytest.mark.parametrize("apis", [["responses"], ["chat"], ["responses", "chat"]])
@pytest.mark.parametrize("options", [{}, {"think": True}, {"tool": True}, {"cut": True}])
def test_what_comes_back_is_a_response(serve_model: ServeModel, apis: list[str], options: Any) -> None:
    """As the official client's own types have it, whichever API the server speaks."""
    tool = {"type": "function", "name": "shout", "parameters": {"type": "object", "properties": {}}, "strict": False}
    reply = asked(serve_model(apis=apis, **options).url + "/v1", {"input": "What is 1 + 2?", "tools": [tool]})
    response = Response.model_validate(reply)
    kinds = [item.type for item in response.output]
    assert kinds == ["reasoning"] * ("think" in options) + (["function_call"] if "tool" in options else ["message"])
    assert response.usage is not None
    assert response.usage.total_tokens > 0
    if "cut" in options:
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
    if "tool" not in options:
        assert response.output_text == "So it is \\boxed{3}."


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_the_official_client_can_talk_to_the_test_server(serve_model: ServeModel, api: str) -> None:
    """So what is tried on it holds for others."""
    server = serve_model(apis=[api], key="sk-right")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-right", max_retries=0)
    if api == "responses":
        assert client.responses.create(model="test-model", input="What is 1 + 2?").output_text.endswith("\\boxed{3}.")
    else:
        messages: Any = [{"role": "user", "content": "What is 1 + 2?"}]
        completion = client.chat.completions.create(model="test-model", messages=messages)
        assert str(completion.choices[0].message.content).endswith("\\boxed{3}.")
    assert [model.id for model in client.models.list()] == ["test-model"]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0).models.list()


def test_a_chat_request_says_all_that_the_responses_request_says() -> None:
    """Messages, images, tools and their results, reasoning, formats, limits."""
    params = {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "rules", "type": "message"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is it?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                ],
            },
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "look it up"}]},
            {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"q": 1}'},
            {"type": "function_call", "call_id": "c2", "name": "find", "arguments": '{"q": 2}'},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": "two"},
            {"role": "assistant", "type": "message", "content": [{"type": "output_text", "text": "done"}]},
            {"role": "assistant", "type": "message", "content": [{"type": "refusal", "refusal": "no"}]},
        ],
        "max_output_tokens": 9,
        "seed": 4,
        "temperature": 0.5,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": None},
        "tools": [{"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": True}],
        "tool_choice": {"type": "function", "name": "find"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        "truncation": "disabled",
        "previous_response_id": None,
    }
    call = {"type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}
    assert to_chat_request(params) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "rules"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "look it up",
                "tool_calls": [
                    {"id": "c1", **call},
                    {"id": "c2", "type": "function", "function": {"name": "find", "arguments": '{"q": 2}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "assistant", "content": "done"},
            {"role": "assistant", "content": None, "refusal": "no"},
        ],
        "max_tokens": 9,
        "seed": 4,
        "temperature": 0.5,
        "logprobs": True,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"background": True}, "background"),
        ({"top_k": 3}, "top_k"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"include": ["file_search_call.results"]}, "file_search_call"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input_video"),
    ],
)
def test_what_chat_completions_lacks_is_named(params: Any, named: str) -> None:
    """Nothing is dropped in silence."""
    with pytest.raises(AttemptFailed, match=named) as failure:
        to_chat_request({"input": "hi", **params})
    assert failure.value.failure_class == "unsupported_parameter"


TEXTS = st.text(min_size=1, max_size=20)
CALLS = st.builds(
    lambda number, name, text: {
        "id": f"fc_{number}",
        "type": "function_call",
        "call_id": f"call_{number}",
        "name": name,
        "arguments": json.dumps({"x": text}),
        "status": "completed",
    },
    st.just(0),
    TEXTS,
    TEXTS,
)


@given(
    reasoning=st.none() | TEXTS, text=st.none() | TEXTS, refusal=st.none() | TEXTS, calls=st.lists(CALLS, max_size=3)
)
def test_an_answer_goes_there_and_back(reasoning: Any, text: Any, refusal: Any, calls: list[Any]) -> None:
    """Items of a turn, as chat messages, as items again: the same."""
    calls = [{**call, "id": f"fc_{number}", "call_id": f"c{number}"} for number, call in enumerate(calls)]
    content: list[Any] = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    content += [{"type": "refusal", "refusal": refusal}] if refusal else []
    items: list[Any] = []
    if reasoning:
        summary = [{"type": "summary_text", "text": reasoning}]
        items.append({"id": "rs_0", "type": "reasoning", "summary": summary, "status": "completed"})
    if content:
        message = {"id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": content}
        items.append(message)
    items += calls
    if not items:
        return
    (message,) = to_chat_request({"input": items})["messages"]
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ChatCompletion.model_validate(completion)
    assert to_response(completion, {})["output"] == items


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rows are not here")
def test_real_rows_can_be_asked_either_way() -> None:
    """Every example row of NeMo Gym's environments has a chat request."""
    asked_of = 0
    for file in sorted(SHARED_DATA.glob("*/example.jsonl")):
        for row in map(json.loads, file.read_text().splitlines()):
            params = row["responses_create_params"]
            if params.get("input"):
                assert len(to_chat_request(params)["messages"]) >= 1
                asked_of += 1
    assert asked_of > 20


def test_extra_body_is_laid_over_the_request(serve_model: ServeModel) -> None:
    """Token ids and log probabilities come back where NeMo Gym's training reads them."""
    server = serve_model(apis=["chat"])
    extra = '{"return_token_ids": true, "top_k": 5, "logprobs": true}'
    params = {"input": "What is 1 + 2?", "metadata": {"extra_body": extra, "kept": "yes"}}
    message = asked(f"{server.url}/v1", params)["output"][-1]
    assert message["prompt_token_ids"] == [1, 2, 3]
    assert message["generation_token_ids"] == [7]
    assert message["generation_log_probs"] == [-0.5]
    assert message["content"][0]["logprobs"][0]["logprob"] == -0.5
    sent = server.stats()["last"][-1]
    assert sent["top_k"] == 5
    assert sent["metadata"] == {"kept": "yes"}


def test_a_missing_model_is_told_and_not_taken_for_a_missing_api(serve_model: ServeModel) -> None:
    """A 404 from both APIs is told in the server's words."""
    with pytest.raises(AttemptFailed, match="does not exist") as failure:
        asked(serve_model().url + "/v1", {"input": "hi", "model": "other"})
    assert failure.value.failure_class == "http_404"


@pytest.mark.parametrize(
    ("typed", "base"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("http://h:1/v1/chat/completions", "http://h:1/v1"),
        ("http://h:1/v1/responses", "http://h:1/v1"),
        ("http://h:1/openai/v2", "http://h:1/openai/v2"),
    ],
)
def test_the_base_address_may_be_given_any_way(typed: str, base: str) -> None:
    """Up to `/v1`, with what follows it, or without it."""
    assert base_url(typed) == base


# The agent in the process


@pytest.mark.parametrize("api", ["auto", "responses", "chat_completions"])
def test_rows_come_out_as_from_an_agent_server(
    serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path, api: str
) -> None:
    """NeMo Gym's shape, with the training view, in order."""
    ran = collected(serve_model(think=True).url, f"+policy_api={api}", "+verifier=exact_match", "+num_repeats=2")
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


def test_without_a_verifier_the_averages_say_so(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """A reward that nobody gave is null, not zero."""
    ran = collected(serve_model().url)
    assert ran.code == 0
    assert ran.averages == {"reward": None}
    assert "no verifier" in ran.stderr


def test_a_rollouts_own_seed_goes_where_it_is_taken(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """To chat completions, which has a place for it, even where both APIs are there."""
    server = serve_model()
    assert collected(server.url, "+verifier=none", "+num_repeats=3", "+num_repeats_add_seed=true").code == 0
    stats = server.stats()
    assert "/v1/responses" not in stats["asked"]
    assert sorted({request["seed"] for request in stats["last"]}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["+verifier=mathh"], "mathh"),
        (["+verifier=exact_match", "+verifier.answer_feild=x"], "did you mean answer_field"),
        (["+verifier=exact_match", "+verifier.answer_field=gold"], "lines 1-5: the verifier needs the field 'gold'"),
        (["+verifier=regex"], "verifier.pattern"),
        (["+verifier=regex", "+verifier.pattern=("], "not a valid regular expression"),
        (["+verifier=python", "+verifier.function=no_such_module.f"], "cannot be imported"),
        (["+verifier.answer_field=gold"], "no kind"),
        (["+policy_api=chat"], "policy_api must be one of"),
        (["+policy_api=responses", "+responses_create_params.seed=1"], "does not support seed"),
        (["+policy_api=chat_completions", "+responses_create_params.truncation=auto"], "does not support truncation"),
        (["+responses_create_params.topp=1"], "topp"),
        (["+policy_api=responses", "+num_repeats_add_seed=true"], "num_repeats_add_seed"),
        (["+tools=nowhere.py"], "nowhere.py cannot be imported"),
        (["+max_steps=0"], "max_steps"),
        (["+max_requests_per_minute=0"], "max_requests_per_minute"),
        (["+agent_url=http://127.0.0.1:1"], "give one of them"),
        (["+agents.x.policy_base_ulr=1", "+agent_name=x"], "did you mean policy_base_url"),
    ],
)
def test_what_is_wrong_is_met_before_anything_is_sent(
    serve_model: ServeModel, collected: Callable[..., Ran], arguments: list[str], complaint: str
) -> None:
    """Exit 2, one line, no rollout asked for."""
    server = serve_model()
    ran = collected(server.url, *arguments)
    assert ran.code == 2, ran.stderr
    assert complaint in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not {"/v1/responses", "/v1/chat/completions"} & server.stats()["asked"].keys()


def test_a_wrong_key_is_told_at_once(serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path) -> None:
    """Before anything is sent, and nowhere is the key shown."""
    server = serve_model(key="sk-right-and-long")
    ran = collected(server.url, "+verifier=none", "+policy_api_key=wrong-key-and-long")
    assert ran.code == 3
    assert "check policy_api_key" in ran.stderr
    ran = collected(server.url, "+verifier=none", "+policy_api_key=sk-right-and-long")
    assert ran.code == 0
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert "right-and-long" not in ran.stdout + ran.stderr + written


def test_a_lone_model_needs_no_name(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """Of several, one has to be chosen."""
    assert collected(serve_model(models=["only"]).url, "+verifier=none").code == 0
    several = serve_model(models=["one", "two"])
    ran = collected(several.url, "+verifier=none")
    assert ran.code == 2
    assert "one, two" in ran.stderr
    assert collected(several.url, "+verifier=none", "+policy_model_name=two").code == 0
    assert several.stats()["last"][-1]["model"] == "two"


def test_tools_of_a_resources_server_are_called(
    serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path
) -> None:
    """seed_session, model, tool, model, verify, with each reply's cookies on the next call."""
    server = serve_model(tool=True, resources=True)
    rows = sums(4)
    for row in rows:
        row["responses_create_params"]["tools"] = [
            {"type": "function", "name": "shout", "parameters": {"type": "object", "properties": {}}, "strict": False}
        ]
    ran = collected(server.url, f"+resources_base_url={server.url}", rows=rows)
    assert ran.code == 0, ran.stderr
    assert ran.averages == {"reward": 1.0}
    for row in read_rows(tmp_path / "rollouts.jsonl"):
        assert row["calls"] == ["/seed_session", "/shout", "/verify"]
        kinds = [item["type"] for item in row["response"]["output"]]
        assert kinds == ["function_call", "function_call_output", "message"]
        assert [message["role"] for message in row["output"]] == ["assistant", "tool", "assistant"]
        assert row["response"]["usage"]["output_tokens"] > 20


@pytest.mark.parametrize("tool", [True, "garbled"])
def test_functions_of_a_module_are_tools(
    serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path, tool: Any
) -> None:
    """Described by their signatures; what cannot be read, or raises, is told to the model."""
    (tmp_path / "my_tools.py").write_text(
        'async def shout(text: str, times: int = 1) -> str:\n    """Say it loud."""\n    return text.upper() * times\n'
    )
    server = serve_model(tool=tool)
    ran = collected(server.url, "+verifier=exact_match", "+tools=my_tools.py")
    assert ran.code == 0, ran.stderr
    assert ran.averages["reward"] == 1.0
    row = read_rows(tmp_path / "rollouts.jsonl")[2]
    said = row["response"]["output"][1]["output"]
    assert said == "WHAT IS 2 + 4?" if tool is True else "error" in json.loads(said)
    described = server.stats()["last"][-1]["tools"][0]
    assert described["parameters"]["properties"] == {"text": {"type": "string"}, "times": {"type": "integer"}}
    assert described["parameters"]["required"] == ["text"]


def test_steps_are_bounded(serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path) -> None:
    """A model that calls tools for ever is asked `max_steps` times."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str):\n    return text\n")
    server = serve_model(tool=True)
    assert collected(server.url, "+verifier=none", "+tools=my_tools.py", "+max_steps=1", rows=1).code == 0
    assert server.stats()["asked"]["/v1/responses"] == 1


def test_env_yaml_fills_what_is_not_typed(
    serve_model: ServeModel, command: Command, tasks: Tasks, tmp_path: Path
) -> None:
    """The command line wins; a key that others may read is a warning."""
    server = serve_model(models=["from-file", "typed"], key="sk-in-the-file")
    tasks(sums(2))
    env = tmp_path / "env.yaml"
    env.write_text(
        f"policy_base_url: {server.url}/v1\npolicy_api_key: sk-in-the-file\npolicy_model_name: from-file\nother: 1\n"
    )
    env.chmod(0o644)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl", "+overwrite=true"]
    ran = command(*files, "+verifier=exact_match")
    assert ran.code == 0, ran.stderr
    assert "chmod 600 env.yaml" in ran.stderr
    env.chmod(0o600)
    ran = command(*files, "+verifier=exact_match", "+policy_model_name=typed")
    assert ran.code == 0
    assert "warning: env.yaml" not in ran.stderr
    assert [request["model"] for request in server.stats()["last"]] == ["from-file"] * 2 + ["typed"] * 2


def test_agents_of_the_config_mix(serve_model: ServeModel, command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """Rows choose by `agent_ref`, loops by `agent_name`; parameters of the entry lie under the row's."""
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


def test_a_resume_wants_the_same_model_and_verifier(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """Addresses and keys may change."""
    first, second = serve_model(models=["a", "b"]), serve_model(models=["a", "b"])
    assert collected(first.url, "+verifier=exact_match", "+policy_model_name=a").code == 0
    again = ["+resume_from_cache=true", "+num_repeats=2", "+verifier=exact_match"]
    assert collected(second.url, *again, "+policy_model_name=a", "+policy_api_key=k").code == 0
    ran = collected(second.url, *again, "+policy_model_name=b")
    assert ran.code == 2
    assert 'policy_model_name: "a" then, "b" now' in ran.stderr


# A good client


def test_repeats_of_a_task_stay_with_a_server(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """Where their prompt is cached; both servers share the work, and the summary tells how."""
    servers = [serve_model(latency=0.01) for _ in range(2)]
    urls = f"[{servers[0].url}/v1,{servers[1].url}/v1]"
    ran = collected(
        servers[0].url,
        f"+policy_base_url={urls}",
        "+verifier=none",
        "+num_repeats=8",
        "+num_samples_in_parallel=32",
        rows=40,
    )
    assert ran.code == 0, ran.stderr
    shares = [server.stats()["asked"]["/v1/responses"] for server in servers]
    assert sum(shares) == 320
    assert min(shares) > 80
    assert sum(server.stats()["prompts"] for server in servers) <= 40 * 1.25
    assert ran.stderr.count("answered") == 2


def test_a_server_that_dies_is_left_alone_and_comes_back() -> None:
    """Its requests go to the others; after its rest one request tries it, and only one."""
    load_balancer = LoadBalancer(["http://a", "http://b"])
    dead = {"http://a"}
    log: list[str] = []

    async def send(url: str) -> str:
        log.append(url)
        await asyncio.sleep(0.001)
        if url in dead:
            raise AttemptFailed("connection_refused", "nobody there", retryable=True)
        return url

    async def run() -> None:
        assert [await load_balancer.send(task, send) for task in range(10)] == ["http://b"] * 10
        assert log.count("http://a") == 1
        assert load_balancer.cooling_down() == ["http://a"]
        load_balancer.endpoints[0]._cooldown_until = 1e-9
        log.clear()
        dead.clear()
        await asyncio.gather(*(load_balancer.send(task, send) for task in range(100, 110)))
        assert log[:10].count("http://a") == 1
        assert load_balancer.cooling_down() == []
        await asyncio.gather(*(load_balancer.send(task, send) for task in range(200, 210)))
        assert log[10:].count("http://a") == 5

    asyncio.run(run())


def test_retry_after_rests_the_whole_server() -> None:
    """Others wait, too, for as long as it asked."""
    load_balancer = LoadBalancer(["http://a"])
    loop_times: list[float] = []

    async def refuse(url: str) -> None:
        raise AttemptFailed("http_429", "slow down", status=429, retryable=True, retry_after_s=0.2)

    async def accept(url: str) -> None:
        loop_times.append(asyncio.get_running_loop().time())

    async def run() -> float:
        with pytest.raises(AttemptFailed):
            await load_balancer.send(0, refuse)
        assert load_balancer.cooling_down() == ["http://a"]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(load_balancer.send(task, accept) for task in range(3)))
        return min(loop_times) - began

    assert asyncio.run(run()) >= 0.15


@given(
    rate=st.floats(1, 6000), tokens=st.floats(100, 1e6), sizes=st.lists(st.integers(1, 5000), min_size=2, max_size=60)
)
def test_the_pace_is_kept_evenly(rate: float, tokens: float, sizes: list[int]) -> None:
    """No minute has more requests or more tokens than it may, once it is known what requests take."""
    now = 0.0
    rate_limiter = RateLimiter(rate, tokens, clock=lambda: now)
    turns = []
    for size in sizes:
        now += max(0.0, rate_limiter.seconds_until_next())
        turns.append(now)
        reservation = rate_limiter.reserve(size)
        rate_limiter.settle(reservation, size)
    gaps = [after - before for before, after in itertools.pairwise(turns)]
    assert all(gap >= 60 / rate - 1e-6 for gap in gaps)
    for gap, size in zip(gaps, sizes, strict=False):
        assert gap >= size * 60 / tokens - 1e-6


def test_requests_per_minute_are_kept_by_the_command(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """And no two requests are closer than they should be."""
    server = serve_model()
    assert collected(server.url, "+verifier=none", "+max_requests_per_minute=1200", rows=20).code == 0
    times = server.stats()["times"]
    assert times[-1] - times[0] >= 19 * 0.05 * 0.8


def simulated(limit: Any, *, admits: int, latency: float, rollouts: int) -> tuple[float, int, int]:
    """Seconds, refusals, and refusals in the second half, of a server that admits so many, on a clock of its own."""
    in_flight: list[tuple[float, float]] = []
    now, record_success, refused, late_refused, remaining = 0.0, 0, 0, 0, rollouts
    while record_success < rollouts:
        while len(in_flight) < limit.current and remaining:
            if len(in_flight) >= admits:
                refused += 1
                late_refused += record_success > rollouts / 2
                failure = AttemptFailed("http_429", "", status=429)
                limit.record_failure(failure, now, now + 1e-9)
                now += 1e-6
                continue
            in_flight.append((now + latency * (0.5 + (record_success * 7919 % 100) / 100), now))
            remaining -= 1
        in_flight.sort()
        done, _ = in_flight.pop(0)
        now = max(now, done)
        record_success += 1
        limit.record_success(now)
    return now, refused, late_refused


@pytest.mark.parametrize("admits", [3, 20, 250])
def test_adaptive_parallelism_finds_what_a_server_takes(admits: int) -> None:
    """At least 90 % of the best fixed number's throughput, without being told it, and hardly a refusal."""
    rollouts = 400 * admits
    best, _, _ = simulated(FixedLimit(admits), admits=admits, latency=0.5, rollouts=rollouts)
    took, refused, late = simulated(AdaptiveLimit(10_000), admits=admits, latency=0.5, rollouts=rollouts)
    assert took <= best / 0.9
    assert late <= 0.02 * rollouts / 2
    assert refused <= 0.04 * rollouts


def test_adaptive_parallelism_follows_a_server_that_takes_less() -> None:
    """A refusal without growth cuts deeply, once an episode; other errors only pause growth."""
    limit = AdaptiveLimit(1000)
    now = 0.0
    for _ in range(500):
        now += 0.01
        limit.record_success(now)
    before = limit.current
    refusal = AttemptFailed("http_429", "", status=429)
    for _ in range(50):
        limit.record_failure(refusal, now - 1, now)
    once = limit.current
    assert 0.5 * before <= once < 0.7 * before
    limit.record_failure(AttemptFailed("http_500", "", status=500), now, now)
    limit.record_success(now)
    assert limit.current == once
    limit.record_failure(refusal, now + 1, now + 1)
    assert limit.current < 0.7 * once


def test_slots_are_given_in_order_and_follow_the_limit() -> None:
    """Nobody is forgotten, whatever the limit does, and whoever leaves."""

    async def run() -> None:
        limit = FixedLimit(1)
        slots = Slots(limit)
        order: list[int] = []

        async def take(number: int) -> None:
            await slots.acquire()
            order.append(number)

        await slots.acquire()
        waiting = [asyncio.create_task(take(number)) for number in range(4)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        limit.current = 3
        slots.release()
        await asyncio.sleep(0)
        assert order == [0, 2, 3]
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(run())


def test_a_refusing_server_costs_no_rollout(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """Adaptive runs keep asking: a refusal says nothing of the rollout."""
    server = serve_model(admits=2, latency=0.02)
    ran = collected(
        server.url,
        "+verifier=exact_match",
        "+adaptive_parallelism=true",
        "+num_samples_in_parallel=50",
        "+num_repeats=20",
    )
    assert ran.code == 0, ran.stderr
    assert "parallel=" in ran.stderr
    assert ran.averages["reward"] == 1.0


def test_a_budget_ends_a_run_that_a_resume_goes_on_with(
    serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path
) -> None:
    """What is in flight is finished, the exit code is 0, and prices make it a cost."""
    server = serve_model()
    arguments = ["+verifier=none", "+num_samples_in_parallel=2", "+price_per_million.output=1000000"]
    ran = collected(server.url, *arguments, "+max_total_tokens=300", rows=40)
    assert ran.code == 0
    assert "the budget max_total_tokens=300 is spent" in ran.stderr
    assert "cost" in ran.stderr
    done = len(keys_of(tmp_path / "rollouts.jsonl"))
    assert 1 < done < 20
    ran = collected(server.url, *arguments, "+resume_from_cache=true", rows=40)
    assert ran.code == 0
    assert len(keys_of(tmp_path / "rollouts.jsonl")) == 40
    assert server.stats()["asked"]["/v1/responses"] == 40


# Rehearsals


def test_a_dry_run_sends_nothing_and_shows_the_first_request(
    serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path
) -> None:
    """Exactly as it would be sent, secrets masked; what a resume would owe is counted."""
    server = serve_model(key="sk-of-the-server")
    arguments = [
        "+verifier=exact_match",
        "+policy_api_key=sk-of-the-server",
        "+responses_create_params.temperature=0.3",
    ]
    ran = collected(server.url, *arguments, "+dry_run=true", "+num_repeats=3")
    assert ran.code == 0, ran.stderr
    assert "plan: 5 rows, repeated to 15 rollouts, 15 to do" in ran.stdout
    assert "authorization: Bearer ***" in ran.stdout
    assert "sk-of-the-server" not in ran.stdout + ran.stderr
    shown = json.loads(ran.stdout[ran.stdout.index("\n{") :])
    assert not (tmp_path / "rollouts.jsonl").exists()
    assert server.stats()["asked"].keys() == {"/v1/models", "/stats"}
    assert collected(server.url, *arguments, "+limit=1").code == 0
    assert server.stats()["last"] == [shown]
    before = (tmp_path / "rollouts.jsonl").read_bytes()
    ran = collected(server.url, *arguments, "+dry_run=true", "+resume_from_cache=true")
    assert "5 rows, 1 of them collected and 0 failed, 4 to do" in ran.stdout
    assert (tmp_path / "rollouts.jsonl").read_bytes() == before


def test_a_dry_run_over_a_dead_server_is_an_error(collected: Callable[..., Ran]) -> None:
    """Exit 2: something is to be put right."""
    ran = collected("http://127.0.0.1:9", "+verifier=none", "+dry_run=true", "+wait_for_agent_s=0")
    assert ran.code == 2
    assert "cannot be reached" in ran.stderr


def test_a_canary_goes_first(serve_model: ServeModel, collected: Callable[..., Ran], tmp_path: Path) -> None:
    """If it fails, nothing else is sent."""
    healthy, broken = serve_model(), serve_model(fail={"400": 1.0})
    ran = collected(broken.url, "+verifier=none", "+canary=1")
    assert ran.code == 3
    assert "a canary rollout failed" in ran.stderr
    assert broken.stats()["asked"]["/v1/responses"] == 1
    ran = collected(healthy.url, "+verifier=none", "+canary=1", "+resume_from_cache=true")
    assert ran.code == 0, ran.stderr
    assert len(keys_of(tmp_path / "rollouts.jsonl")) == 5


ODD_COMPLETIONS = [
    {"created": "2024-01-01T00:00:00Z"},
    {"usage": {"prompt_tokens": "n/a", "completion_tokens": None, "completion_tokens_details": [1]}},
    {"usage": []},
]


@pytest.mark.parametrize("odd", ODD_COMPLETIONS)
def test_odd_replies_are_read_as_far_as_they_go(odd: Any) -> None:
    """What is nobody's answer does not decide about the answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    reply = to_response({"id": "x", "model": "m", "choices": [choice], **odd}, {})
    Response.model_validate(reply)
    assert reply["output"][0]["content"][0]["text"] == "hi"


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]}, '{"a":1}'),
        ({"tool_calls": [{"function": {"name": "f", "arguments": None}}]}, "{}"),
        ({"function_call": {"name": "f", "arguments": '{"a": 2}'}}, '{"a": 2}'),
    ],
)
def test_calls_are_calls_however_they_are_told(message: Any, arguments: str) -> None:
    """Arguments as an object, none at all, the form of before."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": "stop"}
    (item,) = to_response({"choices": [choice]}, {})["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "f", arguments)


@pytest.mark.parametrize(
    ("completion", "failure_class", "words"),
    [
        ({}, "odd_reply", "choices"),
        ({"choices": []}, "odd_reply", "IndexError"),
        ({"choices": [{"message": {"content": 5}}]}, "odd_reply", "TypeError"),
        (
            {"choices": [{"finish_reason": "error", "error": {"message": "overloaded"}, "message": {}}]},
            "model_error",
            "overloaded",
        ),
    ],
)
def test_what_is_no_answer_is_a_failure(completion: Any, failure_class: str, words: str) -> None:
    """Tried again, and told in the server's words; never a reward of 0."""
    with pytest.raises(AttemptFailed, match=words) as failure:
        to_response(completion, {})
    assert (failure.value.failure_class, failure.value.retryable) == (failure_class, True)


def test_token_ids_are_read_where_vllm_puts_them_into_tokens() -> None:
    """By `return_tokens_as_token_ids`; log probabilities come without ids, too."""
    tokens = [{"token": f"token_id:{number}", "logprob": -number / 2, "top_logprobs": []} for number in (5, 6)]
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "logprobs": {"content": tokens}}
    (item,) = to_response({"choices": [choice]}, {})["output"]
    assert item["generation_token_ids"] == [5, 6]
    assert item["generation_log_probs"] == [-2.5, -3.0]


def test_a_refusal_at_first_does_not_settle_which_api_there_is(
    serve_model: ServeModel, collected: Callable[..., Ran]
) -> None:
    """Only an answer, or its absence, does; calls at the beginning do not wait for each other."""
    server = serve_model(apis=["chat"], latency=0.2, admits=8)
    assert collected(server.url, "+verifier=exact_match", "+num_samples_in_parallel=8", rows=16).code == 0
    assert server.stats()["most_in_flight"] == 8
    assert server.stats()["asked"]["/v1/responses"] <= 8


def test_the_pace_mends_itself_while_requests_wait() -> None:
    """What replies tell they took moves the turns of those who wait already."""
    now = 0.0
    rate_limiter = RateLimiter(None, 60_000, clock=lambda: now)
    first = rate_limiter.reserve(0, output_tokens=30_000)
    assert rate_limiter.seconds_until_next() == pytest.approx(30)
    rate_limiter.settle(first, 1000)
    assert rate_limiter.seconds_until_next() == pytest.approx(1)
    now += 1
    second = rate_limiter.reserve(0, output_tokens=30_000)
    assert rate_limiter.seconds_until_next() == pytest.approx(1)
    rate_limiter.cancel(second)
    assert rate_limiter.seconds_until_next() == pytest.approx(0)


def test_a_rest_does_not_end_in_a_burst() -> None:
    """Turns are handed out after it, not during it."""
    load_balancer = LoadBalancer(["http://a"], RateLimiter(600))
    times: list[float] = []

    async def refuse_once(url: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise AttemptFailed("http_429", "slow down", status=429, retryable=True, retry_after_s=0.5)

    async def run() -> None:
        await asyncio.gather(*(load_balancer.send(task, refuse_once) for task in range(6)), return_exceptions=True)

    asyncio.run(run())
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[0] >= 0.45
    assert min(gaps[1:]) >= 0.08


def test_requests_that_end_otherwise_do_not_keep_others_waiting() -> None:
    """Cancelled, or in an error of ours: their turns are given back, so that a token rate still lets others out."""
    load_balancer = LoadBalancer(["http://a"], RateLimiter(None, 6_000_000))

    async def hang(url: str) -> None:
        await asyncio.sleep(3600)

    async def fail(url: str) -> None:
        raise ValueError("unforeseen")

    async def answer(url: str) -> str:
        return url

    async def run() -> str:
        for task in range(4):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(load_balancer.send(task, hang), 0.05)
            with pytest.raises(ValueError, match="unforeseen"):
                await load_balancer.send(task, fail)
        return await asyncio.wait_for(load_balancer.send(9, answer), 5)

    assert asyncio.run(run()) == "http://a"


def test_a_server_that_always_asks_for_rest_is_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request waits longer than one rest may take, however often others prolong it."""
    monkeypatch.setattr("ng_rollouts.http.load_balancer.MAX_RETRY_AFTER_S", 0.3)
    load_balancer = LoadBalancer(["http://a"])
    loop_times: list[float] = []

    async def refuse(url: str) -> None:
        loop_times.append(asyncio.get_running_loop().time())
        raise AttemptFailed("http_429", "slow down", status=429, retryable=True, retry_after_s=60)

    async def run() -> None:
        with pytest.raises(AttemptFailed):
            await load_balancer.send(0, refuse)
        await asyncio.gather(*(load_balancer.send(task, refuse) for task in range(20)), return_exceptions=True)

    asyncio.run(run())
    assert len(loop_times) == 21
    assert loop_times[-1] - loop_times[0] < 3


def test_load_balancer_sleeps_while_one_endpoint_is_probed_and_another_asks_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Waiting for a `Retry-After` does not turn into a busy loop while another endpoint's cooldown is over."""
    load_balancer = LoadBalancer(["http://a", "http://b"])
    first, second = load_balancer.endpoints
    monkeypatch.setattr("ng_rollouts.http.load_balancer.FIRST_COOLDOWN_S", 0.01)
    second._cooldown_s = 0.01
    second.record_failure(AttemptFailed("connection_lost", ""))
    second.in_flight = 5
    first.record_failure(AttemptFailed("http_429", "", status=429, retry_after_s=0.2))
    sleeps: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        sleeps.append(seconds)
        await sleep(seconds)

    async def answer(url: str) -> str:
        return url

    monkeypatch.setattr("ng_rollouts.http.load_balancer.asyncio.sleep", counted)
    assert asyncio.run(load_balancer.send(0, answer)) == "http://a"
    assert len(sleeps) < 20


def test_one_server_of_a_pool_is_enough(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """The other is told, and left alone."""
    server = serve_model()
    ran = collected(server.url, f"+policy_base_url=[http://127.0.0.1:9/v1,{server.url}/v1]", "+verifier=exact_match")
    assert ran.code == 0, ran.stderr
    assert "http://127.0.0.1:9/v1 does not answer" in ran.stderr
    assert ran.averages["reward"] == 1.0


def test_a_name_that_the_server_does_not_list_is_told(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """As a warning, for some servers take more names than they list."""
    ran = collected(serve_model().url, "+verifier=none", "+policy_model_name=tset-model", "+dry_run=true")
    assert ran.code == 0
    assert "does not list the model 'tset-model': it lists test-model" in ran.stderr


def test_the_command_that_goes_on_can_be_typed(serve_model: ServeModel, collected: Callable[..., Ran]) -> None:
    """Numbers are no secrets, whatever they are called."""
    ran = collected(serve_model().url, "+verifier=none", "+max_total_tokens=50", "+num_samples_in_parallel=1")
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("to resume:")]
    assert "+max_total_tokens=50" in line
    assert "***" not in line


def test_a_resources_server_of_another_kind_is_told(
    command: Command, serve_model: ServeModel, tasks: Tasks, tmp_path: Path
) -> None:
    """One without sessions: what it lacks, and who can be asked instead."""
    server = serve_model()
    tasks(1)
    run = [f"+policy_base_url={server.url}/v1", f"+resources_base_url={server.url}", "+input_jsonl_fpath=tasks.jsonl"]
    command(*run, "+output_jsonl_fpath=r.jsonl")
    (failure,) = read_rows(tmp_path / "r_failures.jsonl")
    assert "has no /seed_session" in failure["message"]
    assert "+agent_name=" in failure["message"]
