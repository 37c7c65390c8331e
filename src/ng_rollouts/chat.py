"""Responses API items to chat messages: the one conversion, for trainers and for `/chat/completions`.

A message is `{role, content}`. A function call becomes an assistant message with `tool_calls`, its result a `tool`
message, and reasoning the `reasoning_content` of the assistant message that it led to. A custom tool call, whose input
is free text, becomes a call with the argument `input`.
Source: OpenAI's Responses and Chat Completions API references; vLLM's for `reasoning_content`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from ng_rollouts.chat_items import IMAGE_TYPES, arguments_text, content_parts, input_items, plain_answer
from ng_rollouts.console import log
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.reasoning import THINKING_TYPES, text_in
from ng_rollouts.types import Json

_ROLES_OF_TEXT = frozenset(("system", "developer", "user", "assistant"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The details in which conversions differ.

    Attributes:
        content: converts the content of a system, user or tool message.
        answer: the content fields of an assistant message item.
        no_content: the content of an assistant message that holds only calls or reasoning.
        unknown: called with the type of an item that no message can carry.
        is_request: whether the messages are for a server: fields that it sent with reasoning and calls go back under
            their own names, and the arguments of calls are valid JSON.
    """

    content: Callable[[Any], Any]
    answer: Callable[[Json], Json]
    no_content: str | None
    unknown: Callable[[str], None]
    is_request: bool = False


def chat_input(params: Json) -> list[Json]:
    """The prompt of `responses_create_params` as messages with text contents."""
    value = params.get("input")
    # Most prompts are such messages already.
    if type(value) is list and "instructions" not in params and all(map(_is_text_message, value)):
        return list(value)
    return prompt_messages(params, _PROMPT_AS_TEXT)


def chat_output(response: Any) -> list[Json]:
    """The output of an OpenAI Response object as messages with text contents; empty if it is not such an object."""
    items = response.get("output") if isinstance(response, dict) else None
    if (text := plain_answer(items)) is not None:
        return [{"role": "assistant", "content": text}]
    return to_messages(input_items(items if isinstance(items, list) else []), _AS_TEXT)


def prompt_messages(params: Json, how: Conversion) -> list[Json]:
    """The messages of a Responses request: `instructions` as a system message, then `input`."""
    instructions, value = params.get("instructions"), params.get("input")
    entries = [{"role": "user", "content": value}] if isinstance(value, str) else value
    items = input_items(entries if isinstance(entries, list) else [])
    if isinstance(instructions, str) and instructions:
        items.insert(0, {"role": "system", "content": instructions})
    elif isinstance(instructions, list):
        items = [*input_items(instructions), *items]
    return to_messages(items, how)


def to_messages(items: Iterable[Json], how: Conversion) -> list[Json]:
    """Responses API items as chat messages."""
    messages: list[Json] = []
    reasoning: list[Json] = []
    for item in items:
        match item.get("type") or "message":
            case "message":
                messages.append(_message(item, reasoning, how))
            case "function_call":
                _add_call(messages, item, reasoning, how)
            case "custom_tool_call":
                arguments = dumps({"input": item.get("input") or ""}).decode()
                _add_call(messages, {**item, "arguments": arguments}, reasoning, how)
            case "function_call_output" | "custom_tool_call_output":
                names = {"name": item["name"]} if item.get("name") else {}
                content = how.content(item.get("output"))
                messages.append({"role": "tool", "tool_call_id": item.get("call_id"), **names, "content": content})
            case "reasoning":
                reasoning.append(item)
            case _ if how.is_request and isinstance(item.get("tool_call"), dict):
                _append_call(messages, item["tool_call"], reasoning, how)
            case kind:
                how.unknown(str(kind))
    if _has_content(reasoning):
        messages.append({"role": "assistant", "content": how.no_content})
        _attach(reasoning, messages[-1], how)
    return messages


def reasoning_text(item: Json) -> str:
    """The text of a reasoning item, its parts on separate lines."""
    values = [item.get("content"), item.get("summary")]
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return "\n".join(filter(None, map(text_in, parts)))


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


def _is_text_message(entry: Any) -> bool:
    """True for a message that has a text and nothing else."""
    return (
        type(entry) is dict
        and len(entry) == 2
        and type(entry.get("content")) is str
        and entry.get("role") in _ROLES_OF_TEXT
    )


def _message(item: Json, reasoning: list[Json], how: Conversion) -> Json:
    role = item.get("role", "user")
    if role != "assistant":
        names = {name: item[name] for name in ("tool_call_id", "name") if item.get(name)}
        return {"role": role, "content": how.content(item.get("content")), **names}
    message = {"role": role, **how.answer(item)}
    message |= {name: item[name] for name in ("refusal", "name") if item.get(name)}
    _attach(reasoning, message, how)
    return message


def _add_call(messages: list[Json], item: Json, reasoning: list[Json], how: Conversion) -> None:
    """Add a call of a function to the messages."""
    arguments = arguments_text(item.get("arguments"))
    function = {"name": item.get("name"), "arguments": sendable(arguments) if how.is_request else arguments}
    own = dict(item.get("call_fields") or {}) if how.is_request else {}
    function |= own.pop("function", {})
    call = {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function, **own}
    _append_call(messages, call, reasoning, how)


def _append_call(messages: list[Json], call: Json, reasoning: list[Json], how: Conversion) -> None:
    """Add a call to the assistant message before it, or to a new one if new reasoning led to it."""
    if not messages or messages[-1]["role"] != "assistant" or _has_content(reasoning):
        messages.append({"role": "assistant", "content": how.no_content})
        _attach(reasoning, messages[-1], how)
    messages[-1].setdefault("tool_calls", []).append(call)


def sendable(arguments: str) -> str:
    """The arguments of a call as a server accepts them: `{}` instead of what is not a JSON object.

    Servers parse the arguments of earlier calls, and refuse the whole request if they cannot.
    """
    try:
        return arguments if isinstance(loads(arguments.encode()), dict) else "{}"
    except ValueError:
        return "{}"


def _attach(reasoning: list[Json], message: Json, how: Conversion) -> None:
    """Move pending reasoning into a message: as text, or in the fields that it came in."""
    fields: Json = {}
    texts = []
    for item in reasoning:
        if how.is_request and item.get("message_fields"):
            fields |= item["message_fields"]
        else:
            texts.append(reasoning_text(item))
    reasoning.clear()
    if text := "\n".join(filter(None, texts)):
        fields.setdefault("reasoning_content", text)
    if "content" in fields:  # thinking parts, which come before the text
        fields["content"] = [*fields["content"], *content_parts(message.get("content"))]
    if "audio" in fields:  # a server knows the audio that it sent by its id
        fields["audio"] = {"id": fields["audio"].get("id")}
    message |= fields


def _has_content(reasoning: list[Json]) -> bool:
    return any(reasoning_text(item) or item.get("message_fields") for item in reasoning)


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    if part.get("type") in THINKING_TYPES:
        return ""
    if part.get("type") in IMAGE_TYPES:
        return "<image>"
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else ""


@cache
def _warn_of_unknown(kind: str, place: str) -> None:
    """Warn, once for each type and place, of items that chat messages cannot hold."""
    log(f"warning: items of type {kind} are in `{place}` only: chat messages have no place for them")


warn_of_unknown_in_prompt = partial(_warn_of_unknown, place="responses_create_params")

_AS_TEXT = Conversion(
    content=text_of,
    answer=lambda item: {"content": text_of(item.get("content"))},
    no_content="",
    unknown=partial(_warn_of_unknown, place="response"),
)
_PROMPT_AS_TEXT = replace(_AS_TEXT, unknown=warn_of_unknown_in_prompt)


def tool_names(tools: Iterable[Any]) -> set[str]:
    """The names of tools in the form of either API."""
    objects = [tool for tool in tools if isinstance(tool, dict)]
    names = ((tool["function"] if isinstance(tool.get("function"), dict) else tool).get("name") for tool in objects)
    return {name for name in names if isinstance(name, str)}
