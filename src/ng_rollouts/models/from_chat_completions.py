"""A Chat Completions reply -> the OpenAI Response object that says the same.

What training needs and the Responses API has no field for stays with the message that it belongs to, as NeMo Gym's
model servers put it: `prompt_token_ids`, `generation_token_ids`, `generation_log_probs`.
Source: OpenAI's API references; vLLM's for `reasoning_content`, `reasoning`, `prompt_token_ids` and `token_ids`.
"""

from __future__ import annotations

from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.jsonl import dumps
from ng_rollouts.redaction import redact
from ng_rollouts.types import Json

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_BROKEN_OFF = ("error", "abort", "aborted", "cancelled", "canceled", "timeout")
_ECHOED = ("instructions", "temperature", "top_p", "max_output_tokens", "reasoning", "text", "user", "top_logprobs")


def to_response(completion: Json, params: Json) -> Json:
    """The Response object; `params` is the request, of which a Response repeats parts.

    Raises:
        AttemptFailed: the reply has no choice with a message, or tells an error.
    """
    try:
        return _response(completion, params)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        message = f"the model server's reply is no chat completion ({type(error).__name__}: {error})"
        raise AttemptFailed(FailureClass.ODD_REPLY, message) from error


def error_message(error: Any) -> str:
    """What an error object says."""
    said = error.get("message") if isinstance(error, dict) else error
    return redact(str(said)) if said else "the model server calls the response failed"


def _response(completion: Json, params: Json) -> Json:
    choice = completion["choices"][0]
    if choice.get("error") or choice.get("finish_reason") in _BROKEN_OFF:
        told = error_message(choice.get("error") or f"the answer was broken off ({choice.get('finish_reason')})")
        raise AttemptFailed(FailureClass.MODEL_ERROR, told)
    items = _items(choice, completion)
    reason = _INCOMPLETE.get(choice.get("finish_reason") or "")
    created = completion.get("created")
    return {
        "id": completion.get("id") or "chatcmpl",
        "object": "response",
        "created_at": float(created) if isinstance(created, (int, float)) else 0.0,
        "model": completion.get("model") or params.get("model"),
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "error": None,
        "output": items,
        "usage": _usage(completion.get("usage")),
        "parallel_tool_calls": bool(params.get("parallel_tool_calls", True)),
        "tool_choice": params.get("tool_choice") or "auto",
        "tools": params.get("tools") or [],
        "metadata": params.get("metadata"),
        **{name: params[name] for name in _ECHOED if params.get(name) is not None},
    }


def _items(choice: Json, completion: Json) -> list[Json]:
    message = choice["message"]
    items: list[Json] = []
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        summary = [
            {"type": "summary_text", "text": reasoning if isinstance(reasoning, str) else dumps(reasoning).decode()}
        ]
        items.append({"id": "rs_0", "type": "reasoning", "summary": summary, "status": "completed"})
    content = _content(message, choice.get("logprobs") or {})
    calls = message.get("tool_calls") or []
    if legacy := message.get("function_call"):
        calls = [*calls, {"function": legacy}]
    if content or not (calls or items):
        cut = choice.get("finish_reason") in _INCOMPLETE
        status = "incomplete" if cut else "completed"
        items.append({"id": "msg_0", "type": "message", "role": "assistant", "status": status, "content": content})
    items += [_call(call, number) for number, call in enumerate(calls)]
    items[-1] |= _token_ids(choice, completion)
    return items


def _content(message: Json, logprobs: Json) -> list[Json]:
    parts: list[Json] = []
    if said := message.get("content"):
        part: Json = {"type": "output_text", "text": _said(said), "annotations": []}
        if logprobs.get("content"):
            part["logprobs"] = [_logprob(token) for token in logprobs["content"]]
        parts.append(part)
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    return parts


def _said(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _logprob(token: Json) -> Json:
    top = [{**each, "bytes": each.get("bytes") or []} for each in token.get("top_logprobs") or []]
    return {**token, "bytes": token.get("bytes") or [], "top_logprobs": top}


def _call(call: Json, number: int) -> Json:
    function = call["function"]
    call_id = call.get("id") or f"call_{number}"
    arguments = function.get("arguments") or "{}"
    return {
        "id": f"fc_{number}",
        "type": "function_call",
        "call_id": call_id,
        "name": function["name"],
        "arguments": arguments if isinstance(arguments, str) else dumps(arguments).decode(),
        "status": "completed",
    }


def _token_ids(choice: Json, completion: Json) -> Json:
    tokens = (choice.get("logprobs") or {}).get("content") or []
    found = {
        "prompt_token_ids": choice.get("prompt_token_ids") or completion.get("prompt_token_ids"),
        "generation_token_ids": choice.get("token_ids") or _ids_told_as_tokens(tokens),
        "generation_log_probs": [token["logprob"] for token in tokens] or None,
    }
    return {name: values for name, values in found.items() if values is not None}


def _ids_told_as_tokens(tokens: list[Json]) -> list[int] | None:
    """vLLM's `return_tokens_as_token_ids`: tokens like `token_id:22`."""
    told = [str(token.get("token")).removeprefix("token_id:") for token in tokens]
    as_ids = bool(tokens) and all(str(token.get("token")).startswith("token_id:") for token in tokens)
    return [int(number) for number in told] if as_ids else None


def _usage(usage: Any) -> Json | None:
    if not isinstance(usage, dict):
        return None
    read, wrote = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": _count(usage.get("prompt_tokens_details"), "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": wrote,
        "output_tokens_details": {
            "reasoning_tokens": _count(usage.get("completion_tokens_details"), "reasoning_tokens"),
        },
        "total_tokens": _count(usage, "total_tokens") or read + wrote,
    }


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return int(count) if isinstance(count, (int, float)) else 0
