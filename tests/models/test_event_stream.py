"""Replies that are event streams, although `stream: false` was sent."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.models.chat_deltas import completion_of
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


def chunk(delta: Any, finish_reason: str | None = None, **fields: Any) -> Any:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **fields}


def output_of(*deltas: Any) -> Any:
    """The output items of a stream of these deltas."""
    return respond(stream_of(*map(chunk, deltas), chunk({}, "stop")), "chat_completions")["output"]


@pytest.mark.parametrize("first", [b": OPENROUTER PROCESSING\n\n", b"id: 1\n", b"retry: 9\n\n", b"\n", b"\xef\xbb\xbf"])
def test_stream_is_recognised_by_its_first_line(first: bytes) -> None:
    """A stream may begin with a comment, any field, a blank line or a byte-order mark."""
    response = response_of("42")
    assert respond(first + stream_of({"type": "response.completed", "response": response}), "responses") == response


def test_items_are_those_of_the_events_if_the_last_one_has_none() -> None:
    """Some servers send the items one by one only."""
    response = response_of("42")
    items = [{"type": "reasoning", "id": "r", "summary": []}, *response["output"]]
    done = [{"type": "response.output_item.done", "output_index": n, "item": item} for n, item in enumerate(items)]
    last = {"type": "response.completed", "response": {**response, "output": []}}
    assert respond(stream_of(*reversed(done), last), "responses")["output"] == items


@pytest.mark.parametrize(
    "body",
    [
        stream_of({"type": "error", "message": "overloaded", "code": "x"}),
        b"event: error\n" + stream_of({"message": "overloaded"}),
        stream_of(chunk({"content": ""}, "error", error={"message": "overloaded"})),
    ],
    ids=["type", "event line", "beside choices"],
)
def test_message_of_an_error_event_is_reported(body: bytes) -> None:
    """The server's own words say what failed."""
    with pytest.raises(AttemptFailed, match="overloaded"):
        respond(body, "chat_completions")


def test_parts_and_texts_are_joined_in_order() -> None:
    """Deltas of one message may be texts, parts and pieces of a thinking part."""
    (message,) = output_of({"content": "a "}, {"content": [{"type": "text", "text": "b"}]}, {"content": " c"})
    assert message["content"][0]["text"] == "a b c"
    thinking = [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": each}]}]} for each in "Hm"]
    thought, message = output_of(*thinking, {"content": "4"}, {"content": "2"})
    assert (thought["summary"][0]["text"], message["content"][0]["text"]) == ("Hm", "42")
    details = [
        {"type": "reasoning.text", "index": 0, **each} for each in ({"text": "H"}, {"text": "m"}, {"signature": "s"})
    ]
    thought, message = output_of(*({"reasoning_details": [each]} for each in details), {"content": "4"})
    assert thought["summary"][0]["text"] == "Hm"
    assert thought["message_fields"]["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "Hm", "signature": "s"}
    ]


def part_of_call(index: int | None, call_id: str | None, arguments: Any, name: str | None = "f") -> Any:
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        ([part_of_call(0, "a", '{"x":'), part_of_call(0, "a", "1}")], [("a", '{"x":1}')]),
        ([part_of_call(0, "a", ""), part_of_call(0, None, '{"x":1}', None)], [("a", '{"x":1}')]),
        ([part_of_call(0, "a", "{}"), part_of_call(0, "b", "{}")], [("a", "{}"), ("b", "{}")]),
        ([part_of_call(None, "a", "{}"), part_of_call(None, "b", "{}")], [("a", "{}"), ("b", "{}")]),
        ([part_of_call(None, "a", '{"x":'), part_of_call(None, None, "1}", None)], [("a", '{"x":1}')]),
        ([part_of_call(1, "a", {"x": 1})], [("a", '{"x":1}')]),
    ],
    ids=["name and id repeated", "in pieces", "same index", "null index", "pieces without index", "object"],
)
def test_calls_are_put_together(parts: Any, calls: Any) -> None:
    """A delta continues the call with its index or id, and another id is another call."""
    items = output_of(*({"tool_calls": [part]} for part in parts))
    assert [(item["call_id"], item["arguments"]) for item in items] == calls
    assert {item["name"] for item in items} == {"f"}


def test_custom_and_legacy_calls_are_put_together() -> None:
    """The input of a custom call and the arguments of a legacy call come in pieces, too."""
    pieces: list[Any] = [
        {"id": "a", "type": "custom", "custom": {"name": "f", "input": "l"}},
        {"custom": {"input": "s"}},
    ]
    (item,) = output_of(*({"tool_calls": [{"index": 0, **each}]} for each in pieces))
    assert (item["name"], item["arguments"]) == ("f", '{"input":"ls"}')
    (item,) = output_of({"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}})
    assert (item["name"], item["arguments"]) == ("f", "{}")


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
            "truncated",
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


def long_stream() -> bytes:
    """A text and the arguments of a call, in 100,000 deltas each."""
    delta = b'data: {"choices":[{"index":0,"delta":{"content":"word ","tool_calls":[{"index":0,"function":'
    delta += b'{"arguments":"word "}}]}}]}\n\n'
    return delta * 100_000 + stream_of({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


@pytest.mark.bench
def test_time_for_a_long_stream_is_linear() -> None:
    """100,000 deltas are put together in seconds of CPU: what is there is not copied for each of them."""
    body = long_stream()
    began = time.process_time()
    respond(body, "chat_completions")
    assert time.process_time() - began < 4


def test_long_stream_is_put_together_whole() -> None:
    """No delta of a long stream is lost."""
    response = respond(long_stream(), "chat_completions")
    assert [len(item.get("arguments") or item["content"][0]["text"]) for item in response["output"]] == [500_000] * 2


@pytest.mark.parametrize("kind", ["parts", "parts without index", "calls", "calls without index", "one chunk"])
def test_many_parts_and_calls_take_linear_time(kind: str) -> None:
    """Twenty thousand parts or calls of a message are put together without blocking the event loop."""
    numbers = range(20_000)
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    deltas: dict[str, list[Any]] = {
        "parts": [{"content": [{"index": n, "type": "text", "text": "x"}]} for n in numbers],
        "parts without index": [{"content": [{"type": "text", "text": "x", "signature": "s"}]} for n in numbers],
        "calls": [{"tool_calls": [{**call, "index": n, "id": f"c{n}"}]} for n in numbers],
        "calls without index": [{"tool_calls": [{**call, "id": f"c{n}"}]} for n in numbers],
        "one chunk": [{"content": [{"index": n, "type": "text", "text": "x"} for n in numbers]}],
    }
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas[kind]]
    completion = completion_of([*chunks, {"choices": [{"delta": {}, "finish_reason": "stop"}]}])
    message = completion["choices"][0]["message"]
    assert len(message.get("content") or message["tool_calls"]) == len(numbers)
