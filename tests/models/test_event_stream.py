"""Replies that are event streams, although `stream: false` was sent."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed
from tests.models.helpers import ScriptedHttp, client_of, response_of, stream_of

PARTS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5)


def respond(body: Any, api: str) -> Any:
    return asyncio.run(client_of(ScriptedHttp(lambda _path, _body: body), api).respond({"input": "hi"}))


def test_stream_of_the_responses_api_gives_the_response_of_its_last_event() -> None:
    """The event that ends a response carries all of it; the events before, such as deltas, are not needed."""
    created = {"type": "response.created", "response": {"status": "in_progress", "output": []}}
    delta = {"type": "response.output_text.delta", "delta": "4"}
    response = response_of("42")
    events = stream_of(created, delta, {"type": "response.completed", "response": response})
    assert respond(events, "responses") == response
    assert respond(events.replace(b"\n", b"\r\n"), "responses") == response
    assert respond(b"\xef\xbb\xbf" + events, "responses") == response


@given(texts=PARTS, reasoning=PARTS, arguments=PARTS)
def test_deltas_of_a_chat_completion_are_put_together(
    texts: list[str], reasoning: list[str], arguments: list[str]
) -> None:
    """Text, reasoning and tool arguments are the joined parts, in order, however the server cuts them."""
    deltas: list[Any] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": part} for part in reasoning]
    deltas += [{"content": part} for part in texts]
    deltas += [{"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in arguments]
    chunks: list[Any] = [{"id": "x", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}, {"choices": [], "usage": usage}]
    response = respond(stream_of(*chunks) + b"data: [DONE]\n\n", "chat_completions")
    thought, message, call = response["output"]
    assert thought["summary"][0]["text"] == "".join(reasoning)
    assert message["content"][0]["text"] == "".join(texts)
    assert (call["call_id"], call["name"], call["arguments"]) == ("c1", "f", "".join(arguments))
    assert response["usage"]["total_tokens"] == 3


@pytest.mark.parametrize(
    ("body", "api", "failure_class"),
    [
        (stream_of({"type": "response.created", "response": {}}), "responses", "not_json"),
        (stream_of({"choices": [{"index": 0, "delta": {"content": "4"}}]}), "chat_completions", "truncated"),
        (stream_of({"error": {"message": "overloaded"}}), "chat_completions", "model_error"),
        (b"data: {oops\n\n", "responses", "not_json"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "responses", "not_json"),
        (
            stream_of({"choices": [{"delta": {"tool_calls": [{"index": 10**9, "function": {"name": "f"}}]}}]}),
            "chat_completions",
            "not_json",
        ),
        ((503, b"data: busy\n\n"), "responses", "http_503"),
    ],
    ids=["no last event", "cut off", "error", "not JSON", "deep nesting", "huge index", "status"],
)
def test_stream_without_its_end_is_a_failed_attempt(body: Any, api: str, failure_class: str) -> None:
    """A stream that was cut off, or that reports an error, is never half an answer."""
    with pytest.raises(AttemptFailed) as failure:
        respond(body, api)
    assert failure.value.failure_class == failure_class


def test_time_for_a_long_stream_is_linear() -> None:
    """A text of 100,000 deltas is put together in seconds: what is there is not copied for each of them."""
    delta = b'data: {"choices":[{"index":0,"delta":{"content":"word ","tool_calls":[{"index":0,"function":'
    delta += b'{"arguments":"word "}}]}}]}\n\n'
    body = delta * 100_000 + stream_of({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    began = time.monotonic()
    response = respond(body, "chat_completions")
    assert time.monotonic() - began < 4
    assert [len(item.get("arguments") or item["content"][0]["text"]) for item in response["output"]] == [500_000] * 2
