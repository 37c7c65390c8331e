"""Response items and input messages -> chat messages, as trainers and jq recipes read them.

A message is `{role, content}` with `content` a string. A function call is an assistant message with
`tool_calls`, its result a `tool` message, reasoning the `reasoning_content` of the assistant message it led to.
Source: OpenAI's Responses and Chat Completions API references.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

_IMAGE_TYPES = ("input_image", "image_url", "image")


def chat_input(params: Json) -> list[Json]:
    """The messages that `responses_create_params` asks with; `instructions` come first, as a system message."""
    instructions = params.get("instructions")
    first = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    value = params.get("input")
    if isinstance(value, str):
        return [*first, {"role": "user", "content": value}]
    return first + chat_messages(value if isinstance(value, list) else [])


def chat_output(response: Any) -> list[Json]:
    """The messages that an OpenAI Response object answers with; none if it is no such object."""
    items = response.get("output") if isinstance(response, dict) else None
    return chat_messages(items if isinstance(items, list) else [])


def chat_messages(items: Iterable[Any]) -> list[Json]:
    """Chat messages for a list of Responses API items; items of unknown kinds are left out."""
    messages: list[Json] = []
    reasoning: list[str] = []
    for item in items:
        if not isinstance(item, dict):
            continue
        match item.get("type", "message"):
            case "message":
                messages.append(_message(item, reasoning))
            case "function_call":
                _add_call(messages, item, reasoning)
            case "function_call_output":
                messages.append(_tool_result(item))
            case "reasoning":
                reasoning.append(_reasoning(item))
    if any(reasoning):
        messages.append({"role": "assistant", "content": ""})
        _spend(reasoning, messages[-1])
    return messages


def _message(item: Json, reasoning: list[str]) -> Json:
    message: Json = {"role": item.get("role", "user"), "content": text_of(item.get("content"))}
    if message["role"] == "assistant":
        _spend(reasoning, message)
    for name in ("tool_call_id", "name"):
        if item.get(name) is not None:
            message[name] = item[name]
    if isinstance(item.get("tool_calls"), list):
        message["tool_calls"] = list(item["tool_calls"])
    return message


def _add_call(messages: list[Json], item: Json, reasoning: list[str]) -> None:
    if not (messages and messages[-1]["role"] == "assistant") or reasoning:
        messages.append({"role": "assistant", "content": ""})
        _spend(reasoning, messages[-1])
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    messages[-1].setdefault("tool_calls", []).append(call)


def _tool_result(item: Json) -> Json:
    return {"role": "tool", "tool_call_id": item.get("call_id"), "content": text_of(item.get("output"))}


def _spend(reasoning: list[str], message: Json) -> None:
    text = "\n".join(filter(None, reasoning))
    reasoning.clear()
    if text:
        message["reasoning_content"] = text


def _reasoning(item: Json) -> str:
    parts = item.get("content") or item.get("summary") or []
    return text_of(parts)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts, whose images become `<image>`."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_text_of_part(part) for part in content)
    return dumps(content).decode()


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    if part.get("type") in _IMAGE_TYPES:
        return "<image>"
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else ""
