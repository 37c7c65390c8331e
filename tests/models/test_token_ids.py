"""Token ids: how a model server is asked for them, and where its replies have them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.models import token_ids
from ng_rollouts.models.from_chat_completions import to_response
from tests.conftest import RESUME, Ran, assert_rejected_before_sending, read_rows
from tests.models.helpers import ScriptedHttp, client_of, completion_of, response_of, stream_of
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]

ASKED = {"logprobs": True, "return_token_ids": True, "return_prompt_token_ids": True, "return_meta_info": True}
IDS = {"prompt_token_ids": [1, 2, 3], "generation_token_ids": [7], "generation_log_probs": [-0.5]}
VERIFIER = "+verifier=exact_match"
TOKENS = [{"token": "a", "logprob": -0.5, "bytes": None}, {"token": "b", "logprob": -1, "bytes": None}]
TWO = {"generation_token_ids": [5, 6], "generation_log_probs": [-0.5, -1]}


def ids_of(item: Any) -> Any:
    """The fields of an item for training."""
    return {name: item[name] for name in token_ids.TOKEN_FIELDS if name in item}


def output_of(completion: Any, **choice: Any) -> Any:
    """The only item of a completion whose choice has these fields."""
    completion["choices"][0] |= choice
    (item,) = to_response(completion, {})["output"]
    return ids_of(item)


@pytest.fixture(autouse=True)
def _warns_anew() -> None:
    token_ids._warn_of_misaligned.cache_clear()


@pytest.mark.parametrize("server", ["vllm", "sglang", "old sglang"])
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_rows_have_the_ids_of_every_kind_of_server(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path, server: str, mode: str
) -> None:
    """One request suits vLLM and SGLang: items have ids and log probabilities of the same length, and no warning."""
    served = serve_model(ids=server)
    ran = collect_sums(served.url, VERIFIER, f"+token_ids={mode}", rows=2)
    assert ran.code == 0, ran.stderr
    assert "warning" not in ran.stderr
    for row in read_rows(tmp_path / "rollouts.jsonl"):
        (message,) = row["response"]["output"]
        assert ids_of(message) == IDS
        assert "logprobs" not in message["content"][0]
        assert row["response"].get("weight_version") == (None if server == "vllm" else "step-4")
    stats = served.stats()
    assert "/v1/responses" not in stats["asked"]
    assert all(request.items() >= ASKED.items() for request in stats["last"])


def test_nothing_is_asked_for_by_default(serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path) -> None:
    """Without `token_ids`, requests have none of the fields, and `auto` tries `/responses` first."""
    server = serve_model()
    assert collect_sums(server.url, VERIFIER, rows=1).code == 0
    (sent,) = server.stats()["last"]
    assert not sent.keys() & ASKED.keys()
    assert "input" in sent
    (row,) = read_rows(tmp_path / "rollouts.jsonl")
    assert ids_of(row["response"]["output"][0]) == {}


def test_each_turn_with_a_tool_call_has_its_ids(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """The items of all turns keep their ids, and no request sends them back."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str) -> str:\n    return text.upper()\n")
    server = serve_model(ids="sglang", tool=True)
    ran = collect_sums(server.url, VERIFIER, "+token_ids=required", "+tools=my_tools.py", rows=1)
    assert ran.code == 0, ran.stderr
    (row,) = read_rows(tmp_path / "rollouts.jsonl")
    call, result, message = row["response"]["output"]
    assert ids_of(call) == ids_of(message) == IDS
    assert ids_of(result) == {}
    assert row["response"]["weight_version"] == "step-4"
    assert len(server.stats()["last"]) == 2
    for request in server.stats()["last"]:
        assert not any(message.keys() & {*IDS, "logprobs"} for message in request["messages"])


def test_text_keeps_log_probabilities_that_the_row_asks_for(serve_model: ServeModel) -> None:
    """With `top_logprobs` of its own, a request has both: those of the text, and those for training."""
    http = ScriptedHttp(
        lambda _path, _body: {
            **completion_of({"content": "ab"}, logprobs=None),
            "choices": [
                {
                    "index": 0,
                    "message": {"content": "ab"},
                    "finish_reason": "stop",
                    "token_ids": [5, 6],
                    "logprobs": {"content": TOKENS},
                }
            ],
        }
    )
    response = asyncio.run(client_of(http, ids_mode="auto").respond({"input": "hi", "top_logprobs": 2}))
    (item,) = response["output"]
    assert ids_of(item) == TWO
    assert [token["token"] for token in item["content"][0]["logprobs"]] == ["a", "b"]


@pytest.mark.parametrize(("server", "requests"), [("refused", 2), ("ignored", 1)])
def test_server_without_ids_is_asked_for_them_once(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path, server: str, requests: int
) -> None:
    """With `auto`, a server that refuses the fields or ignores them loses no rollout; one warning says what it lacks.

    No later request has the fields, nor the log probabilities, which alone would only make the replies larger.
    """
    served = serve_model(ids=server)
    ran = collect_sums(served.url, VERIFIER, "+token_ids=auto", "+num_samples_in_parallel=1", rows=5)
    assert ran.code == 0, ran.stderr
    assert ran.averages["reward"] == 1.0
    assert ran.stderr.count("warning: the model server at") == 1
    assert "return_token_ids" in ran.stderr
    sent = served.stats()["last"]
    assert len(sent) == 4 + requests
    assert sent[0].items() >= ASKED.items()
    assert not any(request.keys() & ASKED.keys() for request in sent[1:])


@pytest.mark.parametrize("server", ["refused", "ignored"])
def test_required_ids_stop_the_run_at_the_first_reply(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path, server: str
) -> None:
    """With `required`, the first reply without ids ends the run. One line names the server, the field and the version."""
    served = serve_model(ids=server)
    ran = collect_sums(served.url, VERIFIER, "+token_ids=required", "+num_samples_in_parallel=1", rows=50)
    assert ran.code == 3
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("error:"))
    for words in (
        served.url,
        "generation_token_ids",
        "vLLM sends them since 0.10.2 (return_token_ids)",
        "SGLang since",
    ):
        assert words in line
    assert ("does not accept" in line) == (server == "refused")
    assert len(served.stats()["last"]) <= 2
    assert read_rows(tmp_path / "rollouts.jsonl") == []


def test_required_ids_that_a_later_reply_lacks_fail_its_rollout_only() -> None:
    """A reply without ids is a failure that no retry repairs."""
    http = ScriptedHttp(lambda _path, _body: completion_of({"content": "hi"}))
    with pytest.raises(AttemptFailed, match="sends no prompt_token_ids, generation_token_ids") as failure:
        asyncio.run(client_of(http, ids_mode="required").respond({"input": "hi"}))
    assert (failure.value.failure_class, failure.value.retryable) == ("no_token_ids", False)


def test_refused_fields_are_dropped_one_by_one() -> None:
    """A server that names one field at a time, and one name of the limit, keeps the fields that it accepts."""
    refusable = ["return_meta_info", "max_tokens", "return_prompt_token_ids"]

    def answer(_path: str, body: Any) -> Any:
        for name in refusable:
            if name in body:
                loc = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
                return 422, {"detail": [loc]}
        choice = {"index": 0, "message": {"content": "ab"}, "finish_reason": "stop", "token_ids": [5, 6]}
        return {"choices": [choice | {"logprobs": {"content": TOKENS}}], "prompt_token_ids": [1]}

    http = ScriptedHttp(answer)
    client = client_of(http, ids_mode="required")

    async def send() -> Any:
        first = await asyncio.gather(*(client.respond({"input": "hi", "max_output_tokens": 9}) for _ in range(3)))
        return [*first, await client.respond({"input": "hi", "max_output_tokens": 9})]

    for response in asyncio.run(send()):
        assert ids_of(response["output"][0]) == {"prompt_token_ids": [1], **TWO}
    assert len(http.sent) == 3 * 4 + 1
    assert http.sent[-1].keys() & {*ASKED, *refusable} == {"logprobs", "return_token_ids"}


def test_refused_field_of_the_row_is_not_sent_again_and_again() -> None:
    """A field that the row itself sends, and the server refuses, fails the attempt."""
    refusal = (400, {"error": {"message": "Unrecognized request argument supplied: return_token_ids"}})
    params = {"input": "hi", "metadata": {"extra_body": '{"return_token_ids": true}'}}
    for mode, requests in (("never", 1), ("auto", 3)):
        http = ScriptedHttp(lambda _path, _body: refusal)
        with pytest.raises(AttemptFailed, match="Unrecognized"):
            asyncio.run(client_of(http, ids_mode=mode).respond(params))
        assert len(http.sent) == requests


def test_server_with_responses_only_is_used_without_ids(
    serve_model: ServeModel, collect_sums: CollectSums, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `policy_api=auto`, a server that has no `/chat/completions` is asked through `/responses`, after a warning."""
    server = serve_model(apis=["responses"])
    ran = collect_sums(server.url, VERIFIER, "+token_ids=auto")
    assert ran.code == 0, ran.stderr
    assert ran.stderr.count("sends no prompt_token_ids") == 1


def test_ids_of_nemo_gym_model_servers_are_read() -> None:
    """NeMo Gym's model servers have the fields in items of `/responses`, and in the message of chat completions."""
    message = {"content": "ab", "prompt_token_ids": [1], **TWO}
    assert output_of(completion_of(message)) == {"prompt_token_ids": [1], **TWO}
    reply = response_of("ab")
    reply["output"][0] |= message
    http = ScriptedHttp(lambda path, _body: reply if path == "/responses" else (404, {"detail": "Not Found"}))
    response = asyncio.run(client_of(http, "auto", ids_mode="required").respond({"input": "hi"}))
    assert ids_of(response["output"][0]) == {"prompt_token_ids": [1], **TWO}


@pytest.mark.parametrize(
    ("choice", "completion"),
    [
        ({"token_ids": [5, 6], "logprobs": {"content": TOKENS}}, {"prompt_token_ids": [1]}),
        ({"token_ids": [5, 6], "logprobs": {"content": TOKENS}, "prompt_token_ids": [1]}, {}),
        ({"output_ids": [5, 6], "logprobs": {"content": TOKENS}, "prompt_token_ids": [1]}, {}),
        ({"logprobs": {"content": TOKENS}, "prompt_token_ids": [1]}, {"output_ids": [5, 6]}),
        ({"meta_info": {"output_token_logprobs": [[-0.5, 5, "a"], [-1, 6, None]], "prompt_token_ids": [1]}}, {}),
        (
            {"meta_info": {"output_token_logprobs": [[-0.5, 5], [-1, 6]], "output_ids": [5, 6]}},
            {"prompt_token_ids": [1]},
        ),
    ],
    ids=["vllm", "vllm choice", "output_ids of choice", "output_ids", "triples", "pairs"],
)
def test_ids_are_read_from_every_place(choice: Any, completion: Any) -> None:
    """Servers have ids and log probabilities in the choice, in the completion, or in `meta_info`."""
    assert output_of(completion_of({"content": "ab"}, **completion), **choice) == {"prompt_token_ids": [1], **TWO}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"token_ids": [5, 6, 7], "logprobs": {"content": TOKENS}}, {"generation_token_ids": [5, 6, 7]}),
        ({"token_ids": [5, 6], "logprobs": {"content": [{"token": "a"}] * 2}}, {"generation_token_ids": [5, 6]}),
        ({"meta_info": {"output_token_logprobs": [[None, 5, "a"]]}}, {"generation_token_ids": [5]}),
        ({"token_ids": ["5", "6"], "logprobs": {"content": TOKENS}}, {"generation_log_probs": [-0.5, -1]}),
        ({"token_ids": [True], "meta_info": []}, {}),
        ({"token_ids": [], "meta_info": {"output_token_logprobs": [5]}}, {}),
    ],
    ids=["other length", "no numbers", "null", "text ids", "other types", "empty"],
)
def test_log_probabilities_that_do_not_fit_the_ids_are_left_out(
    choice: Any, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lists of other lengths or types are left out, and never fail the rollout. One warning says so per run."""
    for _ in range(2):
        assert output_of(completion_of({"content": "ab"}), **choice) == expected
    misaligned = "generation_token_ids" in expected
    assert capsys.readouterr().err.count("log probabilities are left out") == misaligned


def test_log_probabilities_that_fit_win_over_those_that_do_not() -> None:
    """SGLang has two lists; the one that has a number for each id is kept."""
    meta = {"output_token_logprobs": [[-0.5, 5, "a"], [-1, 6, "b"]]}
    assert output_of(completion_of({"content": "ab"}), meta_info=meta, logprobs={"content": TOKENS[:1]}) == TWO


def test_ids_of_a_stream_are_put_together() -> None:
    """A server that streams all the same sends the ids of each chunk."""
    chunks: list[Any] = [
        {"choices": [{"index": 0, "delta": {"content": text}, "token_ids": [number], "logprobs": {"content": [token]}}]}
        for text, number, token in zip("ab", (5, 6), TOKENS, strict=True)
    ]
    chunks[0]["prompt_token_ids"] = [1]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "token_ids": None}]})
    http = ScriptedHttp(lambda _path, _body: stream_of(*chunks))
    response = asyncio.run(client_of(http, ids_mode="required").respond({"input": "hi"}))
    assert ids_of(response["output"][0]) == {"prompt_token_ids": [1], **TWO}


def test_dry_run_shows_the_fields(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """The first request of a dry run has the fields, unmasked."""
    server = serve_model()
    ran = collect_sums(server.url, VERIFIER, "+token_ids=auto", "+dry_run=true")
    assert ran.code == 0, ran.stderr
    assert "/v1/chat/completions" in ran.stdout
    for name in ASKED:
        assert f'"{name}": true' in ran.stdout
    assert "/v1/chat/completions" not in server.stats()["asked"]


def test_resume_with_other_token_ids_is_refused(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """Rows with ids and rows without do not belong to one output; outputs of earlier versions have `never`."""
    server = serve_model()
    assert collect_sums(server.url, VERIFIER, rows=2).code == 0
    assert "token_ids" not in (tmp_path / "rollouts_manifest.json").read_text()
    assert collect_sums(server.url, VERIFIER, RESUME, rows=3).code == 0
    ran = collect_sums(server.url, VERIFIER, RESUME, "+token_ids=auto", rows=4)
    assert ran.code == 2
    assert "token_ids: null then, " in ran.stderr
    assert collect_sums(server.url, VERIFIER, "+token_ids=auto", "+overwrite=true", rows=2).code == 0
    assert collect_sums(server.url, VERIFIER, "+token_ids=auto", RESUME, rows=3).code == 0
    assert all(ids_of(row["response"]["output"][0]) == IDS for row in read_rows(tmp_path / "rollouts.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+token_ids=auto", "+policy_api=responses"], "token_ids=auto needs fields that /responses does not have"),
        (["+token_ids=sometimes"], "token_ids must be one of never, auto, required"),
        (
            ["+agents.x.policy_model_name=m", "+agents.x.token_ids=1", "+agent_name=x"],
            "agents.x.token_ids must be one of never, auto, required, got '1'",
        ),
        (
            ["+agents.x.policy_api=responses", "+agents.x.token_ids=auto", "+agent_name=x"],
            "agents.x.token_ids=auto needs fields",
        ),
        (
            ["+token_ids=auto", "+responses_create_params.truncation=auto"],
            "/chat/completions does not support truncation",
        ),
    ],
    ids=["responses", "unknown", "unknown of an entry", "responses of an entry", "parameter"],
)
def test_contradictions_are_rejected_before_sending(
    serve_model: ServeModel, collect_sums: CollectSums, arguments: list[str], message: str
) -> None:
    """An API without the fields, and a value that does not exist, end the command before the first request."""
    server = serve_model()
    assert_rejected_before_sending(collect_sums(server.url, VERIFIER, *arguments), server, message)


def test_token_ids_need_a_model_server(command: Callable[..., Ran], tasks: Callable[..., Path]) -> None:
    """An agent server asks its model itself, so the parameter would have no effect."""
    tasks([{"responses_create_params": {"input": "hi"}}])
    ran = command(
        "+agent_url=http://127.0.0.1:9",
        "+token_ids=auto",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=o.jsonl",
    )
    assert ran.code == 2
    assert "token_ids needs a model server" in ran.stderr


def test_judge_is_not_asked_for_ids(serve_model: ServeModel, collect_sums: CollectSums) -> None:
    """Only replies of the policy are trained on."""
    policy, judge = serve_model(), serve_model(text="VERDICT: correct")
    judged = ["+verifier=judge", f"+verifier.base_url={judge.url}/v1"]
    collect_sums(policy.url, *judged, "+token_ids=auto", rows=1)
    assert policy.stats()["last"][0].items() >= ASKED.items()
    assert judge.stats()["last"]
    assert not any(request.keys() & ASKED.keys() for request in judge.stats()["last"])


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_refusal_that_names_no_field_is_tried_without_them(mode: str) -> None:
    """A refusal without a name is the fields' if the request is accepted without them, and stays the request's if not."""

    def answer(_path: str, body: Any) -> Any:
        if "bad" in str(body["messages"]) or "return_token_ids" in body:
            return 422, {"error": {"message": "Bad request"}}
        return completion_of({"content": "hi"})

    http = ScriptedHttp(answer)
    client = client_of(http, ids_mode=mode)
    with pytest.raises(AttemptFailed, match="Bad request"):
        asyncio.run(client.respond({"input": "bad"}))
    if mode == "required":
        with pytest.raises(AttemptFailed, match="does not accept logprobs, return_token_ids"):
            asyncio.run(client.respond({"input": "hi"}))
        return
    for _ in range(2):
        assert asyncio.run(client.respond({"input": "hi"}))["output"]
    assert [bool({*ASKED} & body.keys()) for body in http.sent[2:]] == [True, False, False]


def test_outcome_of_refusals_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that refuses one field after the other gets two warnings: at the first, and when it sends no ids."""

    def answer(_path: str, body: Any) -> Any:
        for name in reversed(ASKED):
            if name in body:
                return 400, {"error": {"message": f"Unrecognized request argument supplied: {name}"}}
        return completion_of({"content": "hi"})

    client = client_of(ScriptedHttp(answer), ids_mode="auto")
    for _ in range(2):
        asyncio.run(client.respond({"input": "hi"}))
    lines = [line for line in capsys.readouterr().err.splitlines() if "does not accept" in line]
    assert len(lines) == 2
    assert lines[-1].endswith("it is not asked for token ids")
