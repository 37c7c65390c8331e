"""The packaged examples as ASGI apps, with the `POST /run` of NeMo Gym's agent servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ng_rollouts.agents.example.policy import Solution, sample_solution
from ng_rollouts.agents.example.problems import Step, count_correct_steps, final_answer, solve
from ng_rollouts.chat import chat_input, last_user_text
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.seeds import seed_of
from ng_rollouts.types import Json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_DEFAULT_TEMPERATURE = 0.7
_NO_PROBLEM = "I could not find an arithmetic problem in this prompt."


def example_app(name: str, latency_s: float = 0.0) -> App:
    """Make the app of a packaged example.

    Args:
        name: `example_math_agent` or `example_tool_agent`.
        latency_s: mean seconds before a reply, exponentially distributed.
    """
    policy = {"example_math_agent": _reason_and_answer, "example_tool_agent": _call_a_tool_and_answer}[name]

    async def respond(method: str, path: str, body: bytes) -> tuple[int, Any]:
        if (method, path) == ("GET", "/"):
            return 200, {"name": name}
        if path != "/run":
            return 404, {"detail": "Not Found"}
        if method != "POST":
            return 405, {"detail": "Method Not Allowed"}
        if latency_s:
            await asyncio.sleep(random.expovariate(1 / latency_s))
        try:
            row = loads(body)
            params = row["responses_create_params"]
            messages = chat_input(params)
        except (ValueError, KeyError, TypeError, AttributeError):
            return 422, {"detail": "the body must be a row with responses_create_params"}
        return 200, _run(row, params, messages, policy)

    return json_app(respond)


def json_app(respond: Callable[[str, str, bytes], Awaitable[tuple[int, Any]]]) -> App:
    """Make an ASGI app that replies with JSON.

    Args:
        respond: a function (method, path, body) -> (status, value).
    """

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, value = await respond(scope["method"], scope["path"], body)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": dumps(value)})

    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    """Confirm startup and shutdown, as the lifespan protocol of ASGI requires."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


Policy = Callable[[list[Step], Solution], list[Json]]
"""Writes a solution as the output items of a Response object."""


def _run(row: Json, params: Json, messages: list[Json], policy: Policy) -> Json:
    prompt = last_user_text(messages)
    steps = solve(prompt)
    if steps:
        solution = sample_solution(
            steps,
            temperature=_number(params, "temperature", _DEFAULT_TEMPERATURE),
            top_p=_number(params, "top_p", 1.0),
            rng=random.Random(_seed(row, params, prompt)),
        )
        items = policy(steps, solution)
    else:
        items = [_message_item(_NO_PROBLEM)]
    response = _response(params, prompt, items)
    return {
        "responses_create_params": params,
        "response": response,
        **_verify(row, steps, items),
    }


def _reason_and_answer(_: list[Step], solution: Solution) -> list[Json]:
    summary = [{"type": "summary_text", "text": solution.steps_text}]
    return [{"id": "rs_1", "type": "reasoning", "summary": summary}, _message_item(solution.text)]


def _call_a_tool_and_answer(_: list[Step], solution: Solution) -> list[Json]:
    arguments = dumps({"steps": [f"{step.left} {step.sign} {step.right}" for step, _ in solution.steps]}).decode()
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "calculator", "arguments": arguments}
    result = {"type": "function_call_output", "call_id": "call_1", "output": solution.steps_text}
    return [{**call, "status": "completed"}, result, _message_item(solution.text)]


_CALCULATOR = {
    "type": "function",
    "name": "calculator",
    "description": "Calculate the steps in order.",
    "parameters": {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": {"type": "string"}}},
        "required": ["steps"],
    },
}
"""The definition of the example's tool, which its response repeats as model servers do."""


def _message_item(text: str) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}


def _verify(row: Json, steps: list[Step], items: list[Json]) -> Json:
    """Score an answer: 0.4 for the correct result, and 0.6 times the share of correct steps."""
    text = items[-1]["content"][0]["text"]
    answer = final_answer(text)
    expected = row.get("expected_answer", steps[-1].result if steps else None)
    correct = answer is not None and str(answer) == str(expected)
    correct_steps, steps_written = count_correct_steps(_steps_text(items))
    reward = round(0.4 * correct + 0.6 * (correct_steps / steps_written if steps_written else 0.0), 3)
    return {
        "reward": reward,
        "accuracy": correct,
        "extracted_answer": None if answer is None else str(answer),
        "expected_answer": None if expected is None else str(expected),
    }


def _steps_text(items: list[Json]) -> str:
    """The written steps: a reasoning summary, or the output of the tool call; empty if there are none."""
    first = items[0]
    if first["type"] == "reasoning":
        return str(first["summary"][0]["text"])
    return str(items[1]["output"]) if len(items) > 1 else ""


def _response(params: Json, prompt: str, items: list[Json]) -> Json:
    # without a tokenizer, words count as input tokens, and every 8 bytes of JSON as an output token
    input_tokens, output_tokens = len(prompt.split()), sum(len(dumps(item)) for item in items) // 8
    total_tokens = input_tokens + output_tokens
    return {
        "id": "resp_example",
        "object": "response",
        "created_at": 0,
        "model": "simulated",
        "status": "completed",
        "output": items,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": params.get("tools") or ([_CALCULATOR] if items[0]["type"] == "function_call" else []),
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens, "total_tokens": total_tokens},
    }


def _seed(row: Json, params: Json, prompt: str) -> str:
    """The seed of the random generator: the request's seed, or else the rollout's indices, with the request."""
    seed = seed_of(params)
    if seed is None:
        seed = f"{row.get('_ng_task_index')}/{row.get('_ng_rollout_index')}"
    return f"{seed}|{params.get('temperature')}|{params.get('top_p')}|{prompt}"


def _number(params: Json, name: str, default: float) -> float:
    value = params.get(name)
    return float(value) if isinstance(value, (int, float)) else default
