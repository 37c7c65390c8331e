"""Read a reply that is an event stream, although `stream: false` was sent.

Some servers stream `/responses` in any case. The reply has been read whole by then; this module builds from its events
the object that the server would have sent without streaming.
Source: WHATWG HTML, "Server-sent events"; OpenAI's API references of streaming in both APIs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.http.client import Reply
from ng_rollouts.http.json_reply import json_object
from ng_rollouts.jsonl import loads
from ng_rollouts.models.chat_deltas import completion_of
from ng_rollouts.types import Json

_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that carry the whole response."""

_FIRST_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")
"""The beginning of an event stream: any field, or a comment such as `: OPENROUTER PROCESSING`."""


def reply_object(reply: Reply) -> Json:
    """The JSON object of a reply, which may be an event stream.

    Raises:
        AttemptFailed: the status is not 2xx, or the body is neither a JSON object nor a whole event stream.
    """
    # some proxies label a stream as JSON
    is_stream = _FIRST_LINE.match(reply.body)
    if not is_stream or not 200 <= reply.status < 300:
        return json_object(reply)
    try:
        return _object_of(list(_events(reply.body)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        message = f"the reply is an event stream that cannot be read: {type(error).__name__}: {error}"
        raise AttemptFailed(FailureClass.NOT_JSON, message, status=reply.status) from error


def _events(body: bytes) -> Iterator[Json]:
    """The JSON object of each event. Some servers send its type only in the line `event:`."""
    lines = body.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    for event in lines.split("\n\n"):
        data = "\n".join(_values(event, "data"))
        if data and data != "[DONE]":
            types = [{"type": name} for name in _values(event, "event")]
            yield {**(types[-1] if types else {}), **loads(data.encode())}


def _values(event: str, field: str) -> list[str]:
    lines = event.split("\n")
    return [line[len(field) + 1 :].removeprefix(" ") for line in lines if line.startswith(f"{field}:")]


def _object_of(events: list[Json]) -> Json:
    for event in reversed(events):
        if event.get("type") in _LAST_EVENTS:
            # some servers leave the items to the events before
            return {**event["response"], "output": event["response"].get("output") or _items(events)}
        if event.get("error") and not event.get("choices"):
            return {"error": event["error"]}
        if event.get("type") == "error":
            return {"error": event}
    chunks = [event for event in events if "choices" in event]
    if not chunks:
        raise ValueError("it has no event that ends a response")
    return completion_of(chunks)


def _items(events: list[Json]) -> list[Json]:
    """The items that a stream of the Responses API has sent one by one."""
    done = [event for event in events if event.get("type") == "response.output_item.done"]
    return [event["item"] for event in sorted(done, key=lambda event: event.get("output_index") or 0)]
