"""Responses API items to chat messages: the one conversion, for trainers and for `/chat/completions`.

A message is `{role, content}`. A function call becomes an assistant message with `tool_calls`, its result a `tool`
message, and reasoning the `reasoning_content` of the assistant message that it led to. A custom tool call, whose input
is free text, becomes a call with the argument `input`.
Source: OpenAI's Responses and Chat Completions API references; vLLM's for `reasoning_content`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ng_rollouts.console import log
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""Names of the reasoning in a message: DeepSeek's and earlier vLLM's; vLLM's since 0.12 and OpenRouter's; Ollama's."""

IMAGE_TYPES = ("input_image", "image_url", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The details in which conversions differ.

    Attributes:
        content: converts the content of a system, user or tool message.
        answer: the content fields of an assistant message item.
        no_content: the content of an assistant message that holds only calls or reasoning.
        unknown: called with the type of an item that no message can carry.
        keeps_fields: whether fields that a server sent with reasoning and calls are sent back under their own names.
    """

    content: Callable[[Any], Any]
    answer: Callable[[Json], Json]
    no_content: str | None
    unknown: Callable[[str], None]
    keeps_fields: bool = False


def chat_input(params: Json) -> list[Json]:
    """The prompt of `responses_create_params` as messages with text contents."""
    return prompt_messages(params, _AS_TEXT)


def chat_output(response: Any) -> list[Json]:
    """The output of an OpenAI Response object as messages with text contents; empty if it is not such an object."""
    items = response.get("output") if isinstance(response, dict) else None
    return to_messages(items if isinstance(items, list) else [], _AS_TEXT)


def prompt_messages(params: Json, how: Conversion) -> list[Json]:
    """The messages of a Responses request: `instructions` as a system message, then `input`."""
    instructions, value = params.get("instructions"), params.get("input")
    first = [{"role": "system", "content": instructions}] if isinstance(instructions, str) and instructions else []
    if isinstance(value, str):
        return [*first, {"role": "user", "content": value}]
    return first + to_messages(value if isinstance(value, list) else [], how)


def to_messages(items: Iterable[Any], how: Conversion) -> list[Json]:
    """Responses API items as chat messages; entries that are not objects are skipped."""
    messages: list[Json] = []
    reasoning: list[Json] = []
    for item in items:
        if not isinstance(item, dict):
            continue
        match item.get("type", "message"):
            case "message":
                messages.append(_message(item, reasoning, how))
            case "function_call":
                _add_call(messages, item, reasoning, how)
            case "custom_tool_call":
                arguments = dumps({"input": item.get("input") or ""}).decode()
                _add_call(messages, {**item, "arguments": arguments}, reasoning, how)
            case "function_call_output" | "custom_tool_call_output":
                content = how.content(item.get("output"))
                messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
            case "reasoning":
                reasoning.append(item)
            case kind:
                how.unknown(str(kind))
    if _has_content(reasoning):
        messages.append({"role": "assistant", "content": how.no_content})
        _attach(reasoning, messages[-1], how)
    return messages


def reasoning_text(item: Json) -> str:
    """The text of a reasoning item, its parts on separate lines."""
    parts = [*(item.get("content") or []), *(item.get("summary") or [])]
    return "\n".join(filter(None, map(_text_of_part, parts)))


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts, in which an image becomes `<image>`."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_text_of_part(part) for part in content)
    return dumps(content).decode()


def last_user_text(messages: Iterable[Json]) -> str:
    """The content of the last user message; empty if there is none."""
    last = ""
    for message in messages:
        if message.get("role") == "user":
            last = text_of(message.get("content"))
    return last


def is_chat(value: Any) -> bool:
    """Whether a value is a list of chat messages."""
    return isinstance(value, list) and all(isinstance(each, dict) and "role" in each for each in value)


def question_of(row: Json) -> Json:
    """The question of a row: its input, instructions and tools. Rows with the same question have the same prompt."""
    params = row.get("responses_create_params")
    if not isinstance(params, dict):
        return {"input": row.get("input"), "instructions": None, "tools": None}
    value = params.get("input")
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    return {"input": messages, "instructions": params.get("instructions"), "tools": params.get("tools")}


def _message(item: Json, reasoning: list[Json], how: Conversion) -> Json:
    role = item.get("role", "user")
    if role != "assistant":
        names = {name: item[name] for name in ("tool_call_id", "name") if item.get(name)}
        return {"role": role, "content": how.content(item.get("content")), **names}
    message = {"role": role, **how.answer(item)}
    message |= {name: item[name] for name in ("reasoning_content", "refusal", "name") if item.get(name)}
    if isinstance(item.get("tool_calls"), list):
        message["tool_calls"] = list(item["tool_calls"])
    _attach(reasoning, message, how)
    return message


def _add_call(messages: list[Json], item: Json, reasoning: list[Json], how: Conversion) -> None:
    """Add a call to the assistant message before it, or to a new one if new reasoning led to it."""
    if not messages or messages[-1]["role"] != "assistant" or _has_content(reasoning):
        messages.append({"role": "assistant", "content": how.no_content})
        _attach(reasoning, messages[-1], how)
    function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
    own = item.get("call_fields") if how.keeps_fields else None
    call = {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function, **(own or {})}
    messages[-1].setdefault("tool_calls", []).append(call)


def _attach(reasoning: list[Json], message: Json, how: Conversion) -> None:
    """Move pending reasoning into a message: as text, or in the fields that it came in."""
    items, texts = list(reasoning), list(filter(None, map(reasoning_text, reasoning)))
    reasoning.clear()
    fields: Json = {}
    for item in items:
        own = item.get("message_fields") if how.keeps_fields else None
        if isinstance(own, dict):
            fields |= own
    if "content" in fields:  # thinking parts, which come before the text
        text = message.get("content")
        rest = [{"type": "text", "text": text}] if isinstance(text, str) and text else list(text or [])
        fields["content"] = [*fields["content"], *rest]
    elif texts and not fields.keys() & set(REASONING_FIELDS):
        message["reasoning_content"] = "\n".join(texts)
    message |= fields


def _has_content(reasoning: list[Json]) -> bool:
    return any(reasoning_text(item) or item.get("message_fields") for item in reasoning)


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    if part.get("type") in IMAGE_TYPES:
        return "<image>"
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else ""


@cache
def warn_of_unknown(kind: str) -> None:
    """Warn, once for each type, of items that chat messages cannot hold."""
    log(f"warning: items of type {kind} are in `response` only: chat messages have no place for them")


_AS_TEXT = Conversion(
    content=text_of,
    answer=lambda item: {"content": text_of(item.get("content"))},
    no_content="",
    unknown=warn_of_unknown,
)
