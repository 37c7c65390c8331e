"""A Responses request -> the Chat Completions request that asks the same.

What the older API cannot say is an error that names it: nothing is dropped in silence.
Source: OpenAI's API references of `POST /v1/responses` and `POST /v1/chat/completions`; vLLM's for
`reasoning_content`.
"""

from __future__ import annotations

from typing import Any

from ng_rollouts.chat import Conversion, prompt_messages
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.types import Json

_AS_THEY_ARE = (
    "model",
    "temperature",
    "top_p",
    "user",
    "service_tier",
    "store",
    "metadata",
    "seed",
)
_UNSAID = {"background": False, "stream": False, "truncation": "disabled"}
"""Values by which a field says nothing."""

_HANDLED = {
    *_AS_THEY_ARE,
    *_UNSAID,
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
_TEXT_TYPES = ("output_text", "text", "input_text")
_LOGPROBS = "message.output_text.logprobs"


def to_chat_request(params: Json) -> Json:
    """The body for `/chat/completions`; fields that are null are left out.

    Raises:
        AttemptFailed: `unsupported_parameter`, naming what has no place in it.
    """
    given = {name: value for name, value in params.items() if value is not None}
    _refuse_if(sorted(given.keys() - _HANDLED))
    _refuse_if([name for name, unsaid in _UNSAID.items() if given.get(name, unsaid) != unsaid])
    body: Json = {"messages": to_chat_messages(given)}
    body |= {name: given[name] for name in _AS_THEY_ARE if name in given}
    if "max_output_tokens" in given:
        body["max_tokens"] = given["max_output_tokens"]
    if given.get("tools"):
        body["tools"] = [_tool(tool) for tool in given["tools"]]
        body |= {name: given[name] for name in ("parallel_tool_calls",) if name in given}
        body |= {"tool_choice": _tool_choice(given["tool_choice"])} if "tool_choice" in given else {}
    body |= _text(given.get("text") or {}) | _reasoning(given.get("reasoning") or {}) | _logprobs(given)
    return body


def to_chat_messages(params: Json) -> list[Json]:
    """The messages of a Responses request.

    Raises:
        AttemptFailed: `unsupported_parameter`, naming an item that no message can carry.
    """
    return prompt_messages(params, _FOR_REQUEST)


def _answer(item: Json) -> Json:
    """Content and refusal of an assistant message."""
    content = item.get("content")
    if not isinstance(content, list):
        return {"content": content}
    texts = [part.get("text") or "" for part in content if part.get("type") in _TEXT_TYPES]
    refusals = [part.get("refusal") or "" for part in content if part.get("type") == "refusal"]
    known = (*_TEXT_TYPES, "refusal")
    _refuse_if([f"assistant content of type {part.get('type')}" for part in content if part.get("type") not in known])
    refusal = {"refusal": "".join(refusals)} if refusals else {}
    return {"content": "".join(texts) if texts else None, **refusal}


def _content(content: Any) -> Any:
    return _parts(content) if isinstance(content, list) else "" if content is None else content


def _parts(parts: list[Json]) -> Any:
    converted = [_part(part) for part in parts]
    only_text = len(converted) == 1 and converted[0]["type"] == "text"
    return converted[0]["text"] if only_text else converted


def _part(part: Json) -> Json:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": part.get("text") or ""}
        case "input_image" if part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_file" if not part.get("file_url"):
            named = {name: part[name] for name in ("file_data", "file_id", "filename") if part.get(name)}
            return {"type": "file", "file": named}
        case "input_audio" | "image_url":
            return part
        case kind:
            raise _refusal([f"input content of type {kind}"])


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        raise _refusal([f"tools of type {tool.get('type')}"])
    if "function" in tool:
        return tool
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if choice.get("type") != "function":
        raise _refusal([f"tool_choice of type {choice.get('type')}"])
    return {"type": "function", "function": {"name": choice.get("name")}}


def _text(text: Json) -> Json:
    _refuse_if(sorted(f"text.{name}" for name in text.keys() - {"verbosity", "format"}))
    body = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    form = text.get("format") or {"type": "text"}
    if form.get("type") == "json_schema":
        named = {name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif form.get("type") != "text":
        body["response_format"] = form
    return body


def _reasoning(reasoning: Json) -> Json:
    said = {name for name, value in reasoning.items() if value is not None}
    _refuse_if(sorted(f"reasoning.{name}" for name in said - {"effort"}))
    return {"reasoning_effort": reasoning["effort"]} if "effort" in said else {}


def _logprobs(given: Json) -> Json:
    include = list(given.get("include") or [])
    _refuse_if([f"include={name}" for name in include if name != _LOGPROBS])
    if "top_logprobs" not in given:
        return {"logprobs": True} if include else {}
    return {"logprobs": True, "top_logprobs": given["top_logprobs"]}


def _refuse_if(names: list[str]) -> None:
    if names:
        raise _refusal(names)


def _refusal(names: list[str]) -> AttemptFailed:
    told = ", ".join(names)
    message = f"/chat/completions has no place for {told}: leave it out, or use policy_api=responses"
    return AttemptFailed(FailureClass.UNSUPPORTED_PARAMETER, message)


_FOR_REQUEST = Conversion(
    content=_content,
    answer=_answer,
    no_content=None,
    unknown=lambda kind: _refuse_if([f"input item of type {kind}"]),
)
