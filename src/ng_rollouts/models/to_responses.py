"""Bring a Responses request into the form of the API: rows may have tools and messages in that of Chat Completions.

Source: OpenAI's API reference of `POST /v1/responses`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from ng_rollouts.chat import sendable
from ng_rollouts.chat_items import arguments_text, input_items
from ng_rollouts.config.parameters import RESPONSES_PARAMETERS
from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.reasoning import REASONING_FIELDS
from ng_rollouts.types import Json

_CHAT_ONLY = ("message_fields", "call_fields")
"""Fields of items for which only Chat Completions has a place."""


def to_responses_request(fields: Json) -> Json:
    """The body for `/responses`.

    Raises:
        AttemptFailed: `unsupported_parameter`, naming the parameters that the API does not support.
    """
    # RESPONSES_PARAMETERS includes `seed`, which only Chat Completions accepts
    unsupported = sorted(fields.keys() - (RESPONSES_PARAMETERS - {"seed"}))
    unsupported += [f"{name}=true (replies are read whole)" for name in ("background", "stream") if fields.get(name)]
    if unsupported:
        problem = f"/responses does not support {', '.join(unsupported)}"
        fix = "remove it, use policy_api=chat_completions, or put it in metadata.extra_body"
        raise AttemptFailed(FailureClass.UNSUPPORTED_PARAMETER, f"{problem}: {fix}")
    body = dict(fields)
    if body.get("tools"):
        body["tools"] = [_flat_function(tool) for tool in body["tools"]]
    if isinstance(body.get("tool_choice"), dict):
        body["tool_choice"] = _flat_function(body["tool_choice"])
    if isinstance(body.get("instructions"), list):  # a Response may have them as items, a request only as text
        first, entries = body.pop("instructions"), body.get("input") or []
        body["input"] = [*first, *([{"role": "user", "content": entries}] if isinstance(entries, str) else entries)]
    if isinstance(body.get("input"), list):
        body["input"] = list(_items(body["input"]))
    return body


def _items(entries: list[Any]) -> Iterable[Json]:
    for number, item in enumerate(input_items(entries)):
        call_fields = item.get("call_fields", {})
        own = {*item.get("message_fields", {}), *call_fields, *call_fields.get("function", {})}
        for name in sorted(own - {*REASONING_FIELDS, "content", "function"}):
            _warn_of_chat_field(name)
        sent = {name: value for name, value in item.items() if name not in _CHAT_ONLY}
        match item.get("type") or "message":
            case "reasoning" if item.keys() & set(_CHAT_ONLY) and not item.get("summary"):
                continue  # without the fields, nothing is left of it
            case "reasoning":
                sent.setdefault("id", f"rs_{number}")
            case "function_call":
                sent["arguments"] = sendable(arguments_text(item.get("arguments")))
            case "function_call_output":
                sent.pop("name", None)
                sent["output"] = _content(item.get("output"), "input_text")
            case "message":
                is_answer = item.get("role") == "assistant"
                sent["content"] = _content(item.get("content"), "output_text" if is_answer else "input_text")
        if sent.get("type", "message") is None:
            sent["type"] = "message"
        yield sent


def _content(content: Any, text_type: str) -> Any:
    return [_part(part, text_type) for part in content] if isinstance(content, list) else content or ""


def _part(part: Any, text_type: str) -> Any:
    """A content part of Chat Completions in the form of the Responses API; other parts are returned unchanged."""
    match part.get("type") if isinstance(part, dict) else None:
        case "text":
            return {**part, "type": text_type}
        case "image_url" if isinstance(part.get("image_url"), dict):
            image = part["image_url"]
            detail = {"detail": image["detail"]} if image.get("detail") else {}
            return {"type": "input_image", "image_url": image.get("url"), **detail}
        case "file" if isinstance(part.get("file"), dict):
            return {"type": "input_file", **part["file"]}
    return part


def _flat_function(tool: Any) -> Any:
    """A function in the form of Chat Completions, whose fields are under `function`, in that of the Responses API."""
    if isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("function"), dict):
        return {"type": "function", **tool["function"]}
    return tool


@cache
def _warn_of_chat_field(name: str) -> None:
    log(f"warning: {name} of the prompt's messages is not sent: /responses has no field for it")
