"""The client for model servers: both APIs, API detection, the model's name, the API key and the base URL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import TimeLimits, open_http
from ng_rollouts.http.load_balancer import LoadBalancer
from ng_rollouts.models.client import ModelClient
from ng_rollouts.models.request import base_url, url_of
from tests.conftest import Ran, assert_rejected_before_sending
from tests.models.helpers import ScriptedHttp, client_of, completion_of, response_of
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]


def respond(server: Served, params: Any, **options: Any) -> Any:
    """Send one request to a model server; the Response object."""

    async def send() -> Any:
        async with open_http(TimeLimits()) as http:
            defaults = {"api": "auto", "model": "test-model", "api_key": None}
            client = ModelClient(LoadBalancer([f"{server.url}/v1"]), http, **{**defaults, **options})
            return await client.respond(params)

    return asyncio.run(send())


@pytest.mark.parametrize("apis", [["responses"], ["chat"], ["responses", "chat"]], ids="+".join)
@pytest.mark.parametrize("options", [{}, {"think": True}, {"tool": True}, {"cut": True}], ids=str)
def test_reply_is_a_valid_response_object(serve_model: ServeModel, apis: list[str], options: Any) -> None:
    """Whichever API the server has, the client returns a Response object that OpenAI's own types accept."""
    tool = {"type": "function", "name": "shout", "parameters": {"type": "object", "properties": {}}, "strict": False}
    reply = respond(serve_model(apis=apis, **options), {"input": "What is 1 + 2?", "tools": [tool]})
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
def test_openai_client_accepts_the_test_server(serve_model: ServeModel, api: str) -> None:
    """The test server speaks both APIs as OpenAI's own client expects them."""
    server = serve_model(apis=[api], key="sk-right")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-right", max_retries=0) as client:
        if api == "responses":
            response = client.responses.create(model="test-model", input="What is 1 + 2?")
            assert response.output_text.endswith("\\boxed{3}.")
        else:
            messages: Any = [{"role": "user", "content": "What is 1 + 2?"}]
            completion = client.chat.completions.create(model="test-model", messages=messages)
            assert str(completion.choices[0].message.content).endswith("\\boxed{3}.")
        assert [model.id for model in client.models.list()] == ["test-model"]
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_extra_body_is_merged_into_the_request(serve_model: ServeModel) -> None:
    """The fields of `metadata.extra_body` are sent, and token ids and log probabilities are added to the last item."""
    server = serve_model(apis=["chat"])
    extra = '{"return_token_ids": true, "top_k": 5, "logprobs": true}'
    params = {"input": "What is 1 + 2?", "metadata": {"extra_body": extra, "kept": "yes"}}
    message = respond(server, params)["output"][-1]
    assert message["prompt_token_ids"] == [1, 2, 3]
    assert message["generation_token_ids"] == [7]
    assert message["generation_log_probs"] == [-0.5]
    assert message["content"][0]["logprobs"][0]["logprob"] == -0.5
    sent = server.stats()["last"][-1]
    assert sent["top_k"] == 5
    assert sent["metadata"] == {"kept": "yes"}


def test_unknown_model_is_reported_with_the_servers_message(serve_model: ServeModel) -> None:
    """A 404 from both APIs is about the model, so the failure quotes the server."""
    with pytest.raises(AttemptFailed, match="does not exist") as failure:
        respond(serve_model(), {"input": "hi", "model": "other"})
    assert failure.value.failure_class == "http_404"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("http://h:1/v1/chat/completions", "http://h:1/v1"),
        ("http://h:1/v1/responses", "http://h:1/v1"),
        ("http://h:1/openai/v2", "http://h:1/openai/v2"),
    ],
)
def test_base_url_is_normalised(url: str, base: str) -> None:
    """A base URL may omit `/v1`, end in a slash, or include the path of an API."""
    assert base_url(url) == base


def test_rollout_seeds_are_sent_through_chat_completions(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """With `num_repeats_add_seed`, requests go to Chat Completions, because only that API has a seed."""
    server = serve_model()
    assert collect_sums(server.url, "+verifier=none", "+num_repeats=3", "+num_repeats_add_seed=true").code == 0
    stats = server.stats()
    assert "/v1/responses" not in stats["asked"]
    assert sorted({request["seed"] for request in stats["last"]}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+policy_api=responses", "+responses_create_params.seed=1"], "does not support seed"),
        (["+policy_api=chat_completions", "+responses_create_params.truncation=auto"], "does not support truncation"),
    ],
    ids=["seed", "truncation"],
)
def test_parameter_that_the_api_does_not_support_is_rejected(
    serve_model: ServeModel, collect_sums: CollectSums, arguments: list[str], message: str
) -> None:
    """A sampling parameter that the chosen API does not support stops the run before any request."""
    server = serve_model()
    assert_rejected_before_sending(collect_sums(server.url, *arguments), server, message)


def test_rejected_api_key_stops_the_run(serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path) -> None:
    """A wrong API key ends the run before any rollout, and a correct key occurs in no output and in no file."""
    server = serve_model(key="sk-right-and-long")
    ran = collect_sums(server.url, "+verifier=none", "+policy_api_key=wrong-key-and-long")
    assert ran.code == 3
    assert "check policy_api_key" in ran.stderr
    ran = collect_sums(server.url, "+verifier=none", "+policy_api_key=sk-right-and-long")
    assert ran.code == 0
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert "right-and-long" not in ran.stdout + ran.stderr + written


def test_model_name_is_needed_only_to_choose_among_several(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """The only model of a server needs no name; a server with several models needs `policy_model_name`."""
    assert collect_sums(serve_model(models=["only"]).url, "+verifier=none").code == 0
    several = serve_model(models=["one", "two"])
    ran = collect_sums(several.url, "+verifier=none")
    assert ran.code == 2
    assert "one, two" in ran.stderr
    assert collect_sums(several.url, "+verifier=none", "+policy_model_name=two").code == 0
    assert several.stats()["last"][-1]["model"] == "two"


def test_unlisted_model_name_is_a_warning(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """A model that the server does not list gives a warning, because some servers accept more names than they list."""
    ran = collect_sums(serve_model().url, "+verifier=none", "+policy_model_name=tset-model", "+dry_run=true")
    assert ran.code == 0
    assert "does not list the model 'tset-model': it lists test-model" in ran.stderr


def test_one_reachable_server_of_several_is_enough(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """An unreachable server gives a warning, and the other one answers all requests."""
    server = serve_model()
    ran = collect_sums(server.url, f"+policy_base_url=[http://127.0.0.1:9/v1,{server.url}/v1]", "+verifier=exact_match")
    assert ran.code == 0, ran.stderr
    assert "http://127.0.0.1:9/v1 does not answer" in ran.stderr
    assert ran.averages["reward"] == 1.0


def test_overload_does_not_decide_which_api_is_used(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """A 429 leaves the API undecided, and the first concurrent requests do not wait for each other."""
    server = serve_model(apis=["chat"], latency=0.2, admits=8)
    assert collect_sums(server.url, "+verifier=exact_match", "+num_samples_in_parallel=8", rows=16).code == 0
    assert server.stats()["most_in_flight"] == 8
    assert server.stats()["asked"]["/v1/responses"] <= 8


NAME_REFUSED = [
    (400, {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}),
    (400, {"error": {"message": "It is not supported.", "param": "max_tokens", "code": "unsupported_parameter"}}),
    (400, {"detail": "Unrecognized request argument supplied: max_tokens"}),
    (400, {"message": "max_tokens is deprecated, please use max_completion_tokens"}),
    (
        422,
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}
            ]
        },
    ),
]
VALUE_REFUSED = [
    (400, {"error": {"message": "max_tokens must be at most 4096"}}),
    (
        400,
        {
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is "
            "4096 tokens and your request has 10 input tokens (5000 > 4096 - 10)."
        },
    ),
    (
        422,
        {
            "detail": [
                {"type": "less_than_equal", "loc": ["body", "max_tokens"], "msg": "Input should be less than 4097"}
            ]
        },
    ),
]


@pytest.mark.parametrize("refusal", NAME_REFUSED, ids=str)
def test_name_of_the_token_limit_is_found_by_the_first_refusal(refusal: Any) -> None:
    """A server that refuses `max_tokens` gets `max_completion_tokens`, from all concurrent and later requests."""
    http = ScriptedHttp(lambda _path, body: refusal if "max_tokens" in body else completion_of({"content": "hi"}))
    client = client_of(http)

    async def send() -> None:
        request = {"input": "hi", "max_output_tokens": 7}
        await asyncio.gather(*(client.respond(request) for _ in range(3)))
        await client.respond(request)

    asyncio.run(send())
    assert [body["max_completion_tokens"] for body in http.sent if "max_tokens" not in body] == [7] * 4
    assert "max_tokens" not in http.sent[-1]
    assert len(http.sent) == 3 + 4


@pytest.mark.parametrize("refusal", VALUE_REFUSED, ids=str)
def test_refusal_of_the_value_is_not_sent_again(refusal: Any) -> None:
    """A 400 about the value of the limit is the attempt's failure, also if it has both names."""
    http = ScriptedHttp(lambda _path, _body: refusal)
    with pytest.raises(AttemptFailed, match="409"):
        asyncio.run(client_of(http).respond({"input": "hi", "max_output_tokens": 5000}))
    assert len(http.sent) == 1


@pytest.mark.parametrize("details", [None, {}, {"reason": None}])
def test_incomplete_response_always_has_a_reason(details: Any) -> None:
    """By `incomplete_details`, a response that was cut off is recognised everywhere."""
    http = ScriptedHttp(lambda _path, _body: response_of("hi", status="incomplete", incomplete_details=details))
    response = asyncio.run(client_of(http, "responses").respond({"input": "hi"}))
    assert response["incomplete_details"] == {"reason": "unknown"}


@pytest.mark.parametrize(
    ("output", "item"),
    [
        ([{"type": "function_call", "name": "f", "arguments": {"a": 1}}], {"arguments": '{"a":1}'}),
        ([{"type": "function_call", "name": "f", "arguments": None}], {"arguments": "{}"}),
        ([{"type": None, "role": "assistant", "content": "hi"}], {"type": "message"}),
        ([{"type": "reasoning", "content": "hm"}], {"content": [{"type": "reasoning_text", "text": "hm"}]}),
        ([], {"content": [{"type": "output_text", "text": "all"}]}),
    ],
    ids=str,
)
def test_items_of_a_response_are_brought_into_the_form_of_the_api(output: Any, item: Any) -> None:
    """Some servers send objects for texts, texts for lists, no type, or `output_text` alone."""
    reply = {"status": "completed", "output": output, "output_text": "all", "usage": {"output_tokens": 1}}
    http = ScriptedHttp(lambda _path, _body: reply)
    (only,) = asyncio.run(client_of(http, "responses").respond({"input": "hi"}))["output"]
    assert {name: only[name] for name in item} == item


def test_tool_choice_may_have_the_form_of_either_api() -> None:
    """A choice in the form of Chat Completions is sent to it as it is."""
    http = ScriptedHttp(lambda _path, _body: completion_of({"content": "hi"}))
    tool = {"type": "function", "function": {"name": "f"}}
    for choice in (tool, {"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}):
        asyncio.run(client_of(http).respond({"input": "hi", "tools": [tool], "tool_choice": choice}))
        assert http.sent[-1]["tool_choice"] == tool


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_response_with_as_many_tokens_as_allowed_is_incomplete(api: str) -> None:
    """Some servers call a response that reached the limit completed; it counts as truncated all the same."""

    def answer(path: str, _body: Any) -> Any:
        if path == "/responses":
            return response_of("hi", usage={"input_tokens": 1, "output_tokens": 7, "total_tokens": 8})
        return completion_of({"content": "hi"}, usage={"prompt_tokens": 1, "completion_tokens": 7})

    def details(limit: int) -> Any:
        params = {"input": "hi", "max_output_tokens": limit}
        return asyncio.run(client_of(ScriptedHttp(answer), api).respond(params)).get("incomplete_details")

    assert details(7) == {"reason": "max_output_tokens"}
    assert details(8) is None


def test_missing_log_probabilities_are_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for log probabilities that do not come, the client warns once per run."""
    client = client_of(ScriptedHttp(lambda _path, _body: completion_of({"content": "hi"})))

    async def send(**params: Any) -> None:
        await client.respond({"input": "hi", **params})

    asyncio.run(send())
    assert capsys.readouterr().err == ""
    for _ in range(2):
        asyncio.run(send(top_logprobs=2))
    assert capsys.readouterr().err.count("no log probabilities") == 1


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_replies_are_requested_whole(api: str) -> None:
    """`stream: false` is sent, because some servers stream otherwise."""
    http = ScriptedHttp(
        lambda path, _body: response_of("hi") if path == "/responses" else completion_of({"content": "hi"})
    )
    asyncio.run(client_of(http, api).respond({"input": "hi"}))
    assert http.sent[0]["stream"] is False


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_completed_response_without_output_and_tokens_is_a_failure(api: str) -> None:
    """A server that replies with nothing has failed: an empty answer would be scored as wrong."""
    empty = {"object": "response", "status": "completed", "output": [], "usage": {"output_tokens": 0}}
    http = ScriptedHttp(lambda path, _body: empty if path == "/responses" else completion_of({"content": ""}))
    with pytest.raises(AttemptFailed, match="empty response"):
        asyncio.run(client_of(http, api).respond({"input": "hi"}))


def test_tools_in_the_form_of_chat_completions_are_converted_for_responses() -> None:
    """A row may have its tools in the form of either API."""
    http = ScriptedHttp(lambda _path, _body: response_of("hi"))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    choice = {"type": "function", "function": {"name": "f"}}
    asyncio.run(client_of(http, "responses").respond({"input": "hi", "tools": [tool], "tool_choice": choice}))
    assert http.sent[0]["tools"] == [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    assert http.sent[0]["tool_choice"] == {"type": "function", "name": "f"}


@pytest.mark.parametrize("path", ["/responses", "/chat/completions"])
def test_query_of_a_base_url_stays_behind_the_path(path: str) -> None:
    """Azure's base URL has a query, such as `api-version`."""
    base = base_url(f"http://h:1/openai/v1{path}?api-version=2025-04-01")
    assert url_of(base, path) == f"http://h:1/openai/v1{path}?api-version=2025-04-01"


def test_server_that_is_not_up_is_waited_for(collect_sums: CollectSums) -> None:
    """While no address replies, one line says what is waited for; in the end the address and the fix are named."""
    ran = collect_sums("http://127.0.0.1:9", "+verifier=none", "+wait_for_agent_s=0.6")
    assert ran.code == 3
    assert ran.stderr.count("waiting up to 0.6 s for the model server at http://127.0.0.1:9/v1 (") == 1
    assert "error: the model server at http://127.0.0.1:9/v1 cannot be reached" in ran.stderr
