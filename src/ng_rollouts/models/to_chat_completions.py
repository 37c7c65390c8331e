"""Convert a Responses request to a Chat Completions request.

A field that Chat Completions does not support is an error that names the field. No field is dropped silently.
Source: OpenAI's API references of `POST /v1/responses` and `POST /v1/chat/completions`; vLLM's for
`reasoning_content`.
"""

from __future__ import annotations

from typing import Any

from ng_rollouts.chat import Conversion, prompt_messages
from ng_rollouts.chat_items import TEXT_TYPES, content_parts
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.models.request import INCLUDE_LOGPROBS
from ng_rollouts.types import Json

_SAME_IN_BOTH = (
    "model",
    "temperature",
    "top_p",
    "user",
    "service_tier",
    "store",
    "metadata",
    "seed",
)
"""Fields that have the same name and meaning in both APIs."""

_DEFAULTS = {"background": False, "stream": False, "truncation": "disabled"}
"""Fields that are supported only at this value, at which they can be left out."""

_SUPPORTED = {
    *_SAME_IN_BOTH,
    *_DEFAULTS,
    "input",
    "parallel_tool_calls",
    "instructions",
    "max_output_tokens",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "top_logprobs",
    "include",
}


def to_chat_request(params: Json) -> Json:
    """Convert a Responses request to the body for `/chat/completions`. Null fields are left out.

    Raises:
        AttemptFailed: `unsupported_parameter`, naming what Chat Completions does not support.
    """
    fields = {name: value for name, value in params.items() if value is not None}
    _reject(sorted(fields.keys() - _SUPPORTED))
    _reject([name for name, default in _DEFAULTS.items() if fields.get(name, default) != default])
    body: Json = {"messages": to_chat_messages(fields)}
    body |= {name: fields[name] for name in _SAME_IN_BOTH if name in fields}
    if "max_output_tokens" in fields:
        body["max_tokens"] = fields["max_output_tokens"]
    if fields.get("tools"):  # OpenAI rejects `parallel_tool_calls` and `tool_choice` in requests without tools
        body["tools"] = [_tool(tool) for tool in fields["tools"]]
        body |= {name: fields[name] for name in ("parallel_tool_calls",) if name in fields}
        body |= {"tool_choice": _tool_choice(fields["tool_choice"])} if "tool_choice" in fields else {}
    body |= _text(fields.get("text") or {}) | _reasoning(fields.get("reasoning") or {}) | _logprobs(fields)
    return body


def to_chat_messages(params: Json) -> list[Json]:
    """Convert the `instructions` and `input` of a Responses request to chat messages.

    Raises:
        AttemptFailed: `unsupported_parameter`, naming an item that cannot be part of a message.
    """
    return prompt_messages(params, _TO_CHAT_REQUEST)


def _assistant_content(item: Json) -> Json:
    """The `content` and `refusal` of an assistant message; parts that are not text make the content a list."""
    content = item.get("content")
    if not isinstance(content, (list, dict)):
        return {"content": content}
    parts = content_parts(content)
    refusals = [part.get("refusal") or "" for part in parts if part.get("type") == "refusal"]
    texts = [part for part in parts if part.get("type", "text") in TEXT_TYPES]
    others = [part for part in parts if part.get("type", "text") not in (*TEXT_TYPES, "refusal")]
    refusal = {"refusal": "".join(refusals)} if refusals else {}
    if others:
        return {"content": [_part(part) if part in texts else part for part in [*texts, *others]], **refusal}
    return {"content": "".join(part.get("text") or "" for part in texts) if texts else None, **refusal}


def _content(content: Any) -> Any:
    return _parts(content_parts(content)) if isinstance(content, (list, dict)) else "" if content is None else content


def _parts(parts: list[Json]) -> Any:
    converted = [_part(part) for part in parts]
    # a single text becomes a plain string, the form that every server accepts
    only_text = len(converted) == 1 and converted[0]["type"] == "text"
    return converted[0]["text"] if only_text else converted


def _part(part: Json) -> Json:
    match part.get("type"):
        case "input_text" | "output_text" | "text" | None:
            return {"type": "text", "text": part.get("text") or ""}
        case "input_image" if part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_file" if not part.get("file_url"):  # Chat Completions takes files by data or id, not by URL
            file = {name: part[name] for name in ("file_data", "file_id", "filename") if part.get(name)}
            return {"type": "file", "file": file}
        case "input_audio" | "image_url":  # the same in both APIs, or a Chat Completions part already
            return part
        case kind:
            raise _unsupported([f"input content of type {kind}"])


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        raise _unsupported([f"tools of type {tool.get('type')}"])
    if "function" in tool:  # a Chat Completions tool already
        return tool
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if "function" in choice:  # a Chat Completions choice already
        return choice
    if choice.get("type") != "function":
        raise _unsupported([f"tool_choice of type {choice.get('type')}"])
    return {"type": "function", "function": {"name": choice.get("name")}}


def _text(text: Json) -> Json:
    """Convert `text`: its `verbosity`, and its `format` as `response_format`."""
    _reject(sorted(f"text.{name}" for name in text.keys() - {"verbosity", "format"}))
    body = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    output_format = text.get("format") or {"type": "text"}
    if output_format.get("type") == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: output_format[name] for name in names if output_format.get(name) is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif output_format.get("type") != "text":
        body["response_format"] = output_format
    return body


def _reasoning(reasoning: Json) -> Json:
    names = {name for name, value in reasoning.items() if value is not None}
    _reject(sorted(f"reasoning.{name}" for name in names - {"effort"}))
    return {"reasoning_effort": reasoning["effort"]} if "effort" in names else {}


def _logprobs(fields: Json) -> Json:
    include = list(fields.get("include") or [])
    # the only value that Chat Completions has an equivalent of
    _reject([f"include={name}" for name in include if name != INCLUDE_LOGPROBS])
    if "top_logprobs" not in fields:
        return {"logprobs": True} if include else {}
    return {"logprobs": True, "top_logprobs": fields["top_logprobs"]}


def _reject(names: list[str]) -> None:
    """Raise an error that names these parts of the request, if there are any."""
    if names:
        raise _unsupported(names)


def _unsupported(names: list[str]) -> AttemptFailed:
    message = f"/chat/completions does not support {', '.join(names)}: remove it, or use policy_api=responses"
    return AttemptFailed(FailureClass.UNSUPPORTED_PARAMETER, message)


_TO_CHAT_REQUEST = Conversion(
    content=_content,
    answer=_assistant_content,
    no_content=None,
    unknown=lambda kind: _reject([f"input item of type {kind}"]),
    is_request=True,
)
"""Keeps images, files and audio, and rejects what Chat Completions does not support."""
