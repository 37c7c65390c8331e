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
from ng_rollouts.models.client import ModelClient, base_url
from tests.conftest import Ran, assert_rejected_before_sending
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
