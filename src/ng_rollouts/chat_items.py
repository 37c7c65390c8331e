"""Chat messages to Responses API items: for replies of `/chat/completions`, and for prompts that have chat messages.

Nothing is dropped silently. What items have no field for is kept beside them, to be sent back as it came:
`message_fields` of an item are fields of its message, `call_fields` those of its call.
Source: OpenAI's Responses and Chat Completions API references.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from ng_rollouts.console import log
from ng_rollouts.jsonl import dumps
from ng_rollouts.reasoning import THINKING_TYPES, is_sent_back, reasoning_texts, thinking_parts
from ng_rollouts.types import Json

IMAGE_TYPES = ("input_image", "image_url", "image")
TEXT_TYPES = ("output_text", "text", "input_text")

_CONVERTED = frozenset(
    "type id status role content name tool_calls function_call refusal annotations images audio tool_call_id".split()
)
"""Fields of a message that its items have under other names."""

_PLAIN_FIELDS = frozenset("id type status role content name annotations".split())
_ANSWER_FIELDS = _PLAIN_FIELDS - {"name"}
_CHAT_FIELDS = frozenset("tool_calls function_call refusal audio images".split())
_CHAT_PARTS = frozenset((*THINKING_TYPES, "tool_use"))

_CALL_FIELDS = ("id", "type", "function", "custom", "index")
_FUNCTION_FIELDS = ("name", "arguments")


def plain_answer(output: Any) -> str | None:
    """The text of an output that is one assistant message with one part of text; None for any other output.

    Most outputs are such a message, and every rollout's is read three times: for its messages, statistics and health.
    """
    if type(output) is not list or len(output) != 1 or type(item := output[0]) is not dict:
        return None
    content = item.get("content")
    if type(content) is not list or len(content) != 1 or type(part := content[0]) is not dict:
        return None
    if item.get("role") != "assistant" or item.get("type", "message") != "message" or not item.keys() <= _ANSWER_FIELDS:
        return None
    text = part.get("text")
    return text if type(text) is str and part.get("type") in TEXT_TYPES else None


def input_items(entries: Iterable[Any]) -> list[Json]:
    """The entries of a prompt or of an agent's output as items.

    Chat messages with calls, results or reasoning are converted. Entries that are not objects are skipped.
    """
    items: list[Json] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            continue
        if entry.get("type") not in (None, "message"):
            items.append(entry)
        elif entry.get("role") in ("tool", "function"):
            items.append(_result(entry, items))
        elif entry.get("role") == "assistant" and _is_chat_shaped(entry):
            items += assistant_items(entry, legacy_id=f"function_call_{number}")
        else:
            items.append(entry)
    return items


def assistant_items(message: Json, legacy_id: str | None = None) -> list[Json]:
    """The items of an assistant message: reasoning, message, calls, in this order; at least one.

    Args:
        legacy_id: the id of a call in `function_call`, which has none.

    Raises:
        TypeError: the content is neither text nor a list of parts.
    """
    for name in sorted(message.keys() - _CONVERTED):
        if message[name] and not is_sent_back(name):
            _warn_of_dropped(f"the field {name}")
    items = [item] if (item := _reasoning(message)) else []
    calls = [_call(call) for call in _calls(message, legacy_id)]
    content = _content(message)
    if content or not (calls or items):
        names = {"name": message["name"]} if message.get("name") else {}
        items.append({"type": "message", "role": "assistant", "content": content, **names})
    return items + calls


def content_parts(content: Any) -> list[Json]:
    """A content as a list of parts.

    Raises:
        TypeError: it is neither text nor a list of parts.
    """
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, dict):
        return [content]
    if not isinstance(content, list):
        raise TypeError(f"content is {type(content).__name__}")
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]


def _is_chat_shaped(message: Json) -> bool:
    """True if an assistant message has tool calls, reasoning or other fields that become items."""
    # Most messages have plain fields only. This runs for every rollout.
    if not message.keys() <= _PLAIN_FIELDS:
        fields = {name for name, value in message.items() if value}
        if fields & _CHAT_FIELDS or any(map(is_sent_back, fields)):
            return True
    parts = message.get("content")
    if not isinstance(parts, list):
        return False
    return any(isinstance(part, dict) and part.get("type") in _CHAT_PARTS for part in parts)


def _result(message: Json, items: list[Json]) -> Json:
    """The result of a call. One of the role `function` has no id: it belongs to the last call."""
    call_id = message.get("tool_call_id")
    if call_id is None and message["role"] == "function":
        call_id = next((item["call_id"] for item in reversed(items) if item.get("type") == "function_call"), None)
    names = {"name": message["name"]} if message.get("name") else {}
    return {"type": "function_call_output", "call_id": call_id, "output": message.get("content"), **names}


def _reasoning(message: Json) -> Json | None:
    """The reasoning of a message; None if it has none.

    Everything but a plain `reasoning_content` is kept in `message_fields`.
    """
    fields = {name: message[name] for name in message if is_sent_back(name) and message[name]}
    if parts := thinking_parts(message.get("content")):
        fields["content"] = parts
    if isinstance(message.get("audio"), dict):
        fields["audio"] = message["audio"]
    if fields.keys() == {"reasoning_content"} and isinstance(message["reasoning_content"], str):
        fields = {}
    texts = reasoning_texts(message)
    if not texts and not fields:
        return None
    item: Json = {"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in texts]}
    return {**item, "message_fields": fields} if fields else item


def _content(message: Json) -> list[Json]:
    """The parts of the answer; adjacent texts are one part. Images and parts of unknown types are kept as they are."""
    parts: list[Json] = []
    for part in content_parts(message.get("content")):
        text = part.get("text")
        if part.get("type") in (*THINKING_TYPES, "tool_use"):
            continue
        if part.get("type", "text") not in TEXT_TYPES:
            if part["type"] not in (*IMAGE_TYPES, "refusal"):
                _warn_of_content(part["type"])
            parts.append(part)
        elif parts and parts[-1]["type"] == "output_text":
            parts[-1]["text"] += text or ""
        elif text:
            parts.append({"type": "output_text", "text": text, "annotations": []})
    audio = message.get("audio")
    if not parts and isinstance(audio, dict) and audio.get("transcript"):
        parts.append({"type": "output_text", "text": audio["transcript"], "annotations": []})
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    parts += message.get("images") or []
    _add_annotations(parts, message.get("annotations") or [])
    return parts


def _add_annotations(parts: list[Json], annotations: list[Json]) -> None:
    """Add the annotations of a message to its text, in the form of the Responses API: without a level for the type."""
    flat = [{**each, **(each.get(str(each.get("type"))) or {})} for each in annotations]
    flat = [{name: value for name, value in each.items() if name != each.get("type")} for each in flat]
    text = next((part for part in parts if part.get("type") == "output_text"), None)
    if text is not None:
        text["annotations"] = flat
    elif flat:
        _warn_of_dropped("annotations without a text")


def _calls(message: Json, legacy_id: str | None) -> list[Json]:
    """The calls of a message, wherever it has them."""
    calls = message.get("tool_calls") or []
    calls = [calls] if isinstance(calls, dict) else list(calls)
    if legacy := message.get("function_call"):  # OpenAI's field before `tool_calls`
        calls.append({"id": legacy_id, "function": legacy})
    for part in content_parts(message.get("content")):
        if part.get("type") == "tool_use":  # Anthropic's
            calls.append({"id": part.get("id"), "function": {"name": part["name"], "arguments": part.get("input")}})
    return calls


def _call(call: Json) -> Json:
    """A call as an item; a call that is not of a function or of a custom tool is kept as `tool_call`."""
    if isinstance(custom := call.get("custom"), dict):
        function: Json = {"name": custom["name"], "arguments": {"input": custom.get("input")}}
    elif isinstance(call.get("function"), dict):
        function = call["function"]
    elif "name" in call:
        function = call
        call = {name: value for name, value in call.items() if name not in _FUNCTION_FIELDS}
    else:
        return {"type": str(call.get("type")), "tool_call": call}
    fields = {name: value for name, value in call.items() if name not in _CALL_FIELDS and value is not None}
    own = {name: value for name, value in function.items() if name not in (*_FUNCTION_FIELDS, *_CALL_FIELDS, *fields)}
    fields |= {"function": own} if own else {}
    call_id = call.get("id")
    return {
        "type": "function_call",
        "call_id": None if call_id in (None, "") else str(call_id),
        "name": function.get("name") or "",
        "arguments": arguments_text(function.get("arguments")),
        # such as Gemini's thought signature in `extra_content`, without which the next request is refused
        **({"call_fields": fields} if fields else {}),
    }


def arguments_text(arguments: Any) -> str:
    """The arguments of a call as text: servers send JSON text, an object, or nothing."""
    if isinstance(arguments, str):
        return arguments or "{}"
    return "{}" if arguments is None else dumps(arguments).decode()


@cache
def _warn_of_dropped(what: str) -> None:
    """Warn, once for each, of what neither an item nor the next request has."""
    log(f"warning: {what} of assistant messages is dropped: it has no place in `response`")


@cache
def _warn_of_content(kind: str) -> None:
    """Warn, once for each type, of content that messages of text do not have."""
    log(f"warning: content of type {kind} of assistant messages is not in `input`, `output` and exports")
