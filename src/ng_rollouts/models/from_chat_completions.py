"""Convert a Chat Completions reply to an OpenAI Response object.

The Responses API has no fields for the token ids and log probabilities that training needs. They are added to the
last output item.
Source: OpenAI's API references; vLLM's for `reasoning_content` and `reasoning`.
"""

from __future__ import annotations

from typing import Any

from ng_rollouts.chat_items import assistant_items
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.models.token_ids import TOKEN_FIELDS, token_fields, weight_version
from ng_rollouts.reasoning import REASONING_FIELDS
from ng_rollouts.redaction import redact
from ng_rollouts.types import Json

_NATURAL_STOPS = frozenset(
    "stop eos eostoken eostokenid stopsequence stoptoken stopstr stopstring stopped endturn endoftext end toolcall "
    "toolcalls tooluse functioncall functioncalls complete completed finished done natural".split()
)
"""Values of `finish_reason` by which servers say that the answer is whole, as `_normalised` writes them."""

_INCOMPLETE_REASONS = {
    **dict.fromkeys(("length", "maxtokens", "maxoutputtokens", "maxlength", "modellength"), "max_output_tokens"),
    "contentfilter": "content_filter",
}
"""`finish_reason` of a truncated completion -> the reason in `incomplete_details`; others are kept."""

_ABORTED = ("abort", "aborted", "cancelled", "canceled", "timeout")
"""Values of `finish_reason`, outside OpenAI's API, by which servers report that generation failed.

So do those that contain `error`.
"""

_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
"""Prefixes of the ids of items, by their type."""

_ECHOED = ("instructions", "temperature", "top_p", "max_output_tokens", "reasoning", "text", "user", "top_logprobs")
"""Fields of the request that a Response repeats."""


def to_response(completion: Json, params: Json, *, keeps_logprobs: bool = True) -> Json:
    """Convert a Chat Completions reply to a Response object.

    Args:
        completion: the parsed reply.
        params: the Responses request. A Response repeats some of its fields.
        keeps_logprobs: whether the text keeps its `logprobs`, which have several alternatives and bytes per token.

    Raises:
        AttemptFailed: the reply has no choice with a message, or reports an error.
    """
    try:
        return _response(completion, params, keeps_logprobs=keeps_logprobs)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        message = f"the model server's reply is not a chat completion ({type(error).__name__}: {error})"
        raise AttemptFailed(FailureClass.ODD_REPLY, message) from error


def error_message(error: Any) -> str:
    """The message of an error object, or an error that is text, with secrets masked."""
    message = error.get("message") if isinstance(error, dict) else error
    return redact(str(message)) if message else "the model server reported an error without a message"


def _response(completion: Json, params: Json, *, keeps_logprobs: bool) -> Json:
    choices = completion["choices"]
    choice = next((each for each in choices if each.get("index") == 0), None) or choices[0]
    finish_reason = choice.get("finish_reason")
    if isinstance(finish_reason, dict):  # SGLang's: the type with its details
        finish_reason = finish_reason.get("type")
    error = choice.get("error") or completion.get("error")
    if error or _is_aborted(finish_reason):
        message = error_message(error or f"generation was aborted (finish_reason={finish_reason})")
        raise AttemptFailed(FailureClass.MODEL_ERROR, message)
    incomplete_reason = _incomplete_reason(finish_reason)
    items = _items(choice, "incomplete" if incomplete_reason else "completed")
    if keeps_logprobs:
        _add_logprobs(items, choice.get("logprobs") or {})
    items[-1] |= token_fields(choice, completion)
    created = completion.get("created")
    return {
        "id": completion.get("id") or "chatcmpl",
        "object": "response",
        # some servers send a date as text; a wrong time does not make the answer wrong
        "created_at": float(created) if isinstance(created, (int, float)) else 0.0,
        "model": completion.get("model") or params.get("model"),
        "status": "incomplete" if incomplete_reason else "completed",
        "incomplete_details": {"reason": incomplete_reason} if incomplete_reason else None,
        "error": None,
        "output": items,
        "usage": _usage(completion.get("usage")),
        "parallel_tool_calls": bool(params.get("parallel_tool_calls", True)),
        "tool_choice": params.get("tool_choice") or "auto",
        "tools": params.get("tools") or [],
        "metadata": params.get("metadata"),
        **{name: params[name] for name in _ECHOED if params.get(name) is not None},
        **weight_version(choice, completion),
    }


def _normalised(finish_reason: Any) -> str:
    """A reason without case and separators: servers write `tool_calls`, `tool-calls` and `toolCalls`."""
    letters = "".join(filter(str.isalnum, str(finish_reason))).lower()
    return letters.removeprefix("finishreason").removeprefix("stopreason")


def _is_aborted(finish_reason: Any) -> bool:
    return _normalised(finish_reason) in _ABORTED or "error" in _normalised(finish_reason)


def _incomplete_reason(finish_reason: Any) -> str | None:
    """Why a completion is incomplete; None for a natural stop. An unknown reason is kept as it is."""
    if finish_reason is None:
        return None
    name = _normalised(finish_reason)
    return None if name in _NATURAL_STOPS else _INCOMPLETE_REASONS.get(name, str(finish_reason))


def _items(choice: Json, status: str) -> list[Json]:
    """The output items of a choice: reasoning, message, tool calls, in this order; at least one."""
    # some servers have the reasoning beside the message
    reasoning = {name: choice[name] for name in REASONING_FIELDS if choice.get(name)}
    message = {name: value for name, value in choice["message"].items() if name not in TOKEN_FIELDS}
    items = assistant_items({**reasoning, **message})
    before_calls = sum(item["type"] in ("reasoning", "message") for item in items)
    items = [_identified(item, max(0, place - before_calls)) for place, item in enumerate(items)]
    for item in items:
        item["status"] = status if item["type"] == "message" else item["status"]
    return items


def _identified(item: Json, number: int) -> Json:
    """An item with an id. An id is made up for a call without one: the tool's output has to refer to its call."""
    call_id = {"call_id": item["call_id"] or f"call_{number}"} if "call_id" in item else {}
    return {"id": f"{_PREFIXES.get(item['type'], 'item')}_{number}", "status": "completed", **item, **call_id}


def _add_logprobs(items: list[Json], logprobs: Json) -> None:
    content = [part for item in items if item["type"] == "message" for part in item["content"]]
    part = next((part for part in content if part.get("type") == "output_text"), None)
    if part is not None and logprobs.get("content"):
        part["logprobs"] = [_logprob(token) for token in logprobs["content"]]


def _logprob(token: Json) -> Json:
    # `bytes` may be null in Chat Completions, but has to be a list in the Responses API
    top = [{**each, "bytes": each.get("bytes") or []} for each in token.get("top_logprobs") or []]
    return {**token, "bytes": token.get("bytes") or [], "top_logprobs": top}


def _usage(usage: Any) -> Json | None:
    """A Chat Completions `usage` in the form of a Response; None if there is none."""
    if not isinstance(usage, dict):
        return None
    input_tokens, output_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": _count(usage.get("prompt_tokens_details"), "cached_tokens"),
            "cache_write_tokens": 0,  # required in a Response, but not reported by Chat Completions
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {
            "reasoning_tokens": _count(usage.get("completion_tokens_details"), "reasoning_tokens"),
        },
        "total_tokens": _count(usage, "total_tokens") or input_tokens + output_tokens,
    }


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return int(count) if isinstance(count, (int, float)) else 0
