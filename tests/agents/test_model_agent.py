"""Agents that call a model server and tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from openai.types.responses import Response

from ng_rollouts.agents.model_agent import ModelAgent
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.models.attempt import count_tokens_of_task
from ng_rollouts.models.request import token_counts
from ng_rollouts.scheduling.retry import RetryPolicy
from ng_rollouts.types import AgentRequest, RolloutKey, Tokens
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.builtin import Unscored
from tests.conftest import Ran, read_rows
from tests.models.helpers import ScriptedHttp, client_of, completion_of, response_of
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


def run_with_tool(
    answer: Callable[[str, Any], Any], max_steps: int = 9, api: str = "chat_completions", prompt: Any = "hi"
) -> tuple[Any, ScriptedHttp]:
    """The row of a rollout whose model is played by a function, with a tool `shout`; and the requests."""

    class Tools:
        definitions: ClassVar = [{"type": "function", "name": "shout", "parameters": {"type": "object"}}]

        async def call(self, name: str, arguments: object) -> str:
            return f"{name} {arguments}"

    http = ScriptedHttp(answer)
    tools = cast("Any", Tools())
    agent = ModelAgent(
        server=client_of(http, api), verifier=Unscored(), http=http, tools=tools, params={}, max_steps=max_steps
    )
    return asyncio.run(agent.run(AgentRequest(0, {"responses_create_params": {"input": prompt}}))), http


def calling(*call_ids: str | None) -> Any:
    """A completion that calls `shout` once for each id."""
    calls = [{"id": each, "type": "function", "function": {"name": "shout", "arguments": "{}"}} for each in call_ids]
    return completion_of({"content": "hi", "tool_calls": calls}, "tool_calls" if calls else "stop")


def test_tokens_of_an_empty_answer_that_is_asked_for_again_are_unusable() -> None:
    """The row has the tokens of the answers that it is made of, and the attempt those of all."""
    replies = [
        {**calling("c"), "usage": {"prompt_tokens": 10, "completion_tokens": 5}},
        {**completion_of({"content": None}), "usage": {"prompt_tokens": 2000, "completion_tokens": 0}},
        {**completion_of({"content": "done"}), "usage": {"prompt_tokens": 30, "completion_tokens": 3}},
    ]
    tokens = count_tokens_of_task()
    row, _ = run_with_tool(lambda _path, _body: replies.pop(0))
    assert token_counts(row["response"]["usage"]) == (40, 8)
    assert (tokens.answers, tokens.unusable) == (Tokens(2040, 8), Tokens(2000, 0))


def test_conversation_of_the_other_attempt_is_shown_when_one_ends() -> None:
    """Two attempts at a rollout have a conversation each, of which the older one is shown."""
    replies: list[asyncio.Future[Any]] = []

    class Server:
        async def respond(self, _turn: object, _task: int) -> Any:
            replies.append(asyncio.get_running_loop().create_future())
            return await replies[-1]

    async def run() -> list[Any]:
        server: Any = Server()
        agent = ModelAgent(server=server, verifier=Unscored(), http=ScriptedHttp(lambda *_: None), params={})
        row = {"_ng_task_index": 0, "_ng_rollout_index": 0, "responses_create_params": {"input": "hi"}}
        attempts = [asyncio.create_task(agent.run(AgentRequest(0, row))) for _ in range(2)]
        await asyncio.sleep(0)
        shown = [agent.turns_of(RolloutKey(0, 0))]
        for attempt, reply in zip(attempts, replies, strict=True):
            reply.set_result({"output": [], "usage": {}})
            await attempt
            shown.append(agent.turns_of(RolloutKey(0, 0)))
        return shown

    prompt = [{"role": "user", "content": "hi"}]
    assert asyncio.run(run()) == [prompt, prompt, None]


def test_calls_with_missing_or_repeated_ids_get_unique_ones() -> None:
    """A server may send no call ids, or the same ones in each turn: request and row then have unique ids."""
    turns: Iterator[list[str | None]] = iter([[None, "c", "c"], ["c"], []])
    row, http = run_with_tool(lambda _path, _body: calling(*next(turns)))
    items = row["response"]["output"]
    made = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert len(set(made)) == len(made) == 4
    assert [item["call_id"] for item in items if item["type"] == "function_call_output"] == made
    sent = [call["id"] for message in http.sent[-1]["messages"] for call in message.get("tool_calls", [])]
    assert sent == made


def test_new_ids_of_calls_differ_from_those_in_the_prompt() -> None:
    """The prompt may have calls in the form of either API."""
    function = {"name": "shout", "arguments": "{}"}
    prompt = [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": "loud"},
        {"type": "function_call", "call_id": "call_1", **function},
        {"type": "function_call_output", "call_id": "call_1", "output": "loud"},
    ]
    turns = iter([calling(None), calling()])
    _, http = run_with_tool(lambda _path, _body: next(turns), prompt=prompt)
    sent = [call["id"] for message in http.sent[-1]["messages"] for call in message.get("tool_calls", [])]
    assert sent == ["call_0", "call_1", "call_2"]


def test_invalid_arguments_are_an_error_for_the_model_and_not_for_the_server() -> None:
    """The model sees the error, the server gets valid JSON, and the row keeps what the model wrote."""
    call = {"id": "c", "type": "function", "function": {"name": "shout", "arguments": '{"a": '}}
    turns = iter([completion_of({"content": None, "tool_calls": [call]}, "tool_calls"), calling()])
    row, http = run_with_tool(lambda _path, _body: next(turns))
    made, result, _ = row["response"]["output"]
    assert made["arguments"] == '{"a": '
    assert "cannot be read" in result["output"]
    assert http.sent[-1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_custom_tool_call_of_the_responses_api_runs_the_tool() -> None:
    """Its free text is the argument `input`, as over chat completions."""
    call = {"type": "custom_tool_call", "id": "ct", "call_id": "c", "name": "shout", "input": "ls"}
    turns = iter([response_of("", output=[call]), response_of("done")])
    row, http = run_with_tool(lambda _path, _body: next(turns), api="responses")
    result = {"type": "custom_tool_call_output", "call_id": "c", "output": "shout {'input': 'ls'}"}
    assert row["response"]["output"][:2] == [call, result]
    assert http.sent[-1]["input"][1:] == [call, result]


def test_tool_call_that_was_cut_off_is_not_run() -> None:
    """An incomplete response ends the conversation, also if the server gives no reason."""
    call = {"type": "function_call", "call_id": "c", "name": "shout", "arguments": '{"a'}
    row, http = run_with_tool(lambda _path, _body: response_of("", status="incomplete", output=[call]), api="responses")
    assert (len(http.sent), row["response"]["output"]) == (1, [call])


def test_conversation_that_outgrows_the_context_is_incomplete() -> None:
    """A refusal for length after the first step ends the conversation; it keeps what it has."""
    turns = iter([calling("c"), (400, {"error": {"message": "This model's maximum context length is 4096 tokens."}})])
    row, _ = run_with_tool(lambda _path, _body: next(turns))
    assert row["response"]["incomplete_details"] == {"reason": "context_length"}
    assert [item["type"] for item in row["response"]["output"]] == ["message", "function_call", "function_call_output"]


def test_conversation_that_still_calls_tools_at_max_steps_is_incomplete() -> None:
    """The answer is not there yet, so the response is not complete."""
    row, http = run_with_tool(lambda _path, _body: calling("c"), max_steps=2)
    assert (row["response"]["status"], row["response"]["incomplete_details"]) == ("incomplete", {"reason": "max_steps"})
    assert len(http.sent) == 2


@pytest.mark.parametrize("template", [False, True], ids=["own input", "template"])
def test_export_for_rl_can_be_collected_again(
    serve_model: ServeModel, command: Callable[..., Ran], tmp_path: Path, *, template: bool
) -> None:
    """An rl export has all fields of its tasks, so the same command asks and scores the same, also by a template.

    This includes fields whose name is also a column of the export.
    """
    own = {"pass_rate": 0.25, "num_rollouts": 3, "images": ["x"], "reward": 0.9, "output": "gold"}
    if template:
        (tmp_path / "p.yaml").write_text("user: 'What is {prompt}? {id} {pass_rate} {images}'")
        tasks = [{"id": n, "prompt": f"{n} + {n}", "expected_answer": str(2 * n), **own} for n in range(3)]
    else:
        params = [{"input": f"What is {n} + {n}?", "temperature": 0.5} for n in range(3)]
        tasks = [{"responses_create_params": each, "expected_answer": str(2 * n)} for n, each in enumerate(params)]
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    collect = [f"+policy_base_url={serve_model().url}/v1", "+verifier=exact_match", "+num_repeats=2"]
    collect += ["+prompt_config=p.yaml"] if template else []
    for source, target in (("first", "a"), ("rl", "b")):
        ran = command(*collect, f"+input_jsonl_fpath={source}.jsonl", f"+output_jsonl_fpath={target}.jsonl")
        assert ran.code == 0, ran.stderr
        assert ran.averages == {"reward": 1.0, "accuracy": 1.0}
        export = (f"+input_jsonl_fpath={target}.jsonl", "+output_jsonl_fpath=rl.jsonl", "+overwrite=true")
        assert command("+recipe=rl", *export, script="ng_export_rollouts").code == 0
    names = ("input", "_ng_task_fields", "responses_create_params")
    first, again = (
        [[row.get(name) for name in names] for row in read_rows(tmp_path / f"{each}.jsonl")] for each in "ab"
    )
    assert first == again


class Grader(Verifier):
    """Fails so many times with a failure that may be retried, then gives a reward of 1; `graded` has the answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.graded: list[Any] = []

    async def verify(self, row: Any, response: Any) -> Any:
        self.graded.append(response)
        if len(self.graded) <= self.failures:
            raise AttemptFailed(FailureClass.CONNECTION_LOST, "gone")
        return {"reward": 1.0}


def graded_by(grader: Grader, http: ScriptedHttp, **options: Any) -> ModelAgent:
    """An agent that makes two attempts at scoring."""
    retries = RetryPolicy(max_attempts=2, jitter=lambda: 0.0)
    return ModelAgent(
        server=client_of(http, "responses"), verifier=grader, http=http, params={}, retries=retries, **options
    )


def test_scoring_is_retried_without_the_model() -> None:
    """A verifier that fails once scores the same answer the second time; the model gets one request."""
    http, grader = ScriptedHttp(lambda _path, _body: response_of("18")), Grader(failures=1)
    row = asyncio.run(graded_by(grader, http).run(AgentRequest(0, {"responses_create_params": {"input": "hi"}})))
    assert (row["reward"], len(grader.graded), len(http.sent)) == (1.0, 2, 1)


def test_last_failure_of_scoring_has_the_answer_and_is_not_retried() -> None:
    """The failure keeps what was sent and the response, so that no attempt asks the model again."""
    http, grader = ScriptedHttp(lambda _path, _body: response_of("18")), Grader(failures=2)
    with pytest.raises(AttemptFailed) as raised:
        asyncio.run(graded_by(grader, http).run(AgentRequest(0, {"responses_create_params": {"input": "hi"}})))
    failure = raised.value
    assert (failure.failure_class, failure.retryable) == (FailureClass.CONNECTION_LOST, False)
    assert failure.kept == {"responses_create_params": {"input": "hi"}, "response": grader.graded[0]}


def test_cancelled_scoring_is_a_failure_with_the_answer() -> None:
    """The end of a run leaves the answer in the failures file, although its scoring has not ended."""

    class Endless(Grader):
        async def verify(self, row: Any, response: Any) -> Any:
            self.graded.append(response)
            scoring.set()
            await asyncio.Event().wait()

    scoring = asyncio.Event()

    async def cancel_while_scoring() -> AttemptFailed:
        agent = graded_by(Endless(failures=0), ScriptedHttp(lambda _path, _body: response_of("18")))
        attempt = asyncio.create_task(agent.run(AgentRequest(0, {"responses_create_params": {"input": "hi"}})))
        await scoring.wait()
        attempt.cancel()
        with pytest.raises(AttemptFailed) as raised:
            await attempt
        return raised.value

    failure = asyncio.run(cancel_while_scoring())
    assert failure.kept["response"]["output"]


def test_kept_answer_is_only_scored() -> None:
    """A request with an answer reaches neither the model nor a tool session that the verifier does not need."""
    answer = response_of("18")
    http, grader = ScriptedHttp(lambda _path, _body: pytest.fail("a request was sent")), Grader(failures=0)
    request = AgentRequest(0, {"responses_create_params": {"input": "hi"}}, answer)
    row = asyncio.run(graded_by(grader, http, resources_url="http://test/v1").run(request))
    assert (row["reward"], row["response"]) == (1.0, answer)


def test_kept_answer_of_a_resources_server_is_scored_in_a_new_session() -> None:
    """Without tool calls, a session has only the task. After them, its state is lost, and the model has to be asked."""
    paths: list[str] = []

    def answer(path: str, body: Any) -> Any:
        paths.append(path)
        return {**body, "reward": 0.5} if path == "/verify" else {}

    http = ScriptedHttp(answer)
    agent = ModelAgent(
        server=client_of(http), verifier=Unscored(), http=http, params={}, resources_url="http://test/v1"
    )
    request = AgentRequest(0, {"responses_create_params": {"input": "hi"}}, response_of("18"))
    assert agent.scores_again(response_of("18"))
    assert asyncio.run(agent.run(request))["reward"] == 0.5
    assert paths == ["/seed_session", "/verify"]
    call = {"type": "function_call", "call_id": "c", "name": "shout", "arguments": "{}"}
    assert not agent.scores_again({"output": [call, *response_of("18")["output"]]})
