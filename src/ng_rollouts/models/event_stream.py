"""Read a reply that is an event stream, although `stream: false` was sent.

Some servers stream `/responses` in any case. The reply has been read whole by then; this module builds from its events
the object that the server would have sent without streaming.
Source: WHATWG HTML, "Server-sent events"; OpenAI's API references of streaming in both APIs.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from io import StringIO
from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.client import Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.jsonl import loads
from ng_rollouts.types import Json

_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that carry the whole response."""

_MAX_CALLS = 10_000
"""Upper bound of the index of a tool call. Calls before it may be missing, and take memory as well."""


def reply_object(reply: Reply) -> Json:
    """The JSON object of a reply, which may be an event stream.

    Raises:
        AttemptFailed: the status is not 2xx, or the body is neither a JSON object nor a whole event stream.
    """
    # some proxies label a stream as JSON
    is_stream = reply.body[:9].removeprefix(BOM_UTF8).startswith((b"data:", b"event:"))
    if not is_stream or not 200 <= reply.status < 300:
        return json_object(reply)
    try:
        return _object_of(list(_events(reply.body)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        message = f"the reply is an event stream that cannot be read: {type(error).__name__}: {error}"
        raise AttemptFailed(FailureClass.NOT_JSON, message, status=reply.status) from error


def _events(body: bytes) -> Iterator[Json]:
    """The JSON object of each event."""
    lines = body.removeprefix(BOM_UTF8).decode().replace("\r\n", "\n").replace("\r", "\n")
    for event in lines.split("\n\n"):
        data = "\n".join(line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:"))
        if data and data != "[DONE]":
            yield loads(data.encode())


def _object_of(events: list[Json]) -> Json:
    for event in reversed(events):
        if event.get("type") in _LAST_EVENTS:
            return dict(event["response"])
        if event.get("error") and not event.get("choices"):
            return {"error": event["error"]}
    chunks = [event for event in events if "choices" in event]
    if not chunks:
        raise ValueError("it has no event that ends a response")
    return _completion(chunks)


def _completion(chunks: list[Json]) -> Json:
    """The completion whose deltas these chunks are; `truncated` if the last one is missing."""
    message: Json = {"role": "assistant"}
    choice: Json = {"index": 0, "message": message, "finish_reason": None}
    completion: Json = {}
    for chunk in chunks:
        completion |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        for each in chunk["choices"]:
            if each.get("index", 0) == 0:
                _add_delta(message, each.get("delta") or {})
                choice |= {name: each[name] for name in each.keys() - {"delta", "logprobs"} if each[name] is not None}
                _add_logprobs(choice, each.get("logprobs"))
    if choice["finish_reason"] is None:
        raise AttemptFailed(FailureClass.TRUNCATED, "the event stream ended before its last event")
    _finish(message)
    return {**completion, "object": "chat.completion", "choices": [choice]}


def _add_delta(message: Json, delta: Json) -> None:
    """Add a delta to a message whose texts are `StringIO`: a string that grows would be copied again and again."""
    for name, value in delta.items():
        earlier = message.get(name)
        if name == "tool_calls":
            for call in value or []:
                _add_call(message.setdefault("tool_calls", []), call)
        elif isinstance(value, str) and name != "role":
            message[name] = earlier if isinstance(earlier, StringIO) else StringIO(newline="")
            message[name].write(value)
        elif isinstance(value, list) and isinstance(earlier, list):
            earlier.extend(value)
        elif value is not None:
            message[name] = value


def _add_call(calls: list[Json], delta: Json) -> None:
    """Add a part of a tool call to the call with its index. Parts without an index are whole calls."""
    index = delta.get("index", len(calls))
    if index >= _MAX_CALLS:
        raise ValueError(f"it has a tool call with the index {index}")
    while len(calls) <= index:
        calls.append({"function": {"name": "", "arguments": StringIO(newline="")}})
    call, function = calls[index], delta.get("function") or {}
    call |= {name: value for name, value in delta.items() if name not in ("function", "index") and value is not None}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"].write(function.get("arguments") or "")


def _finish(message: Json) -> None:
    """Replace the texts of a message by strings."""
    for call in message.get("tool_calls") or []:
        call["function"]["arguments"] = call["function"]["arguments"].getvalue()
    for name, value in message.items():
        if isinstance(value, StringIO):
            message[name] = value.getvalue()


def _add_logprobs(choice: Json, logprobs: Any) -> None:
    if isinstance(logprobs, dict) and logprobs.get("content"):
        choice.setdefault("logprobs", {"content": []})["content"] += logprobs["content"]
