"""Convert a Chat Completions reply to an OpenAI Response object.

The Responses API has no fields for the token ids and log probabilities that training needs. They are added to the
last output item, under the names that NeMo Gym's model servers use: `prompt_token_ids`, `generation_token_ids`,
`generation_log_probs`.
Source: OpenAI's API references; vLLM's for `reasoning_content`, `reasoning`, `prompt_token_ids` and `token_ids`.
"""

from __future__ import annotations

from typing import Any

from ng_rollouts.chat import REASONING_FIELDS
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.jsonl import dumps
from ng_rollouts.redaction import redact
from ng_rollouts.types import Json

_NATURAL_STOPS = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn", "tool_calls", "tool_use"}) | {
    *(
        "function_call",
        "tool_call",
        "end",
        "stop_str",
        "stop_string",
        "complete",
        "completed",
        "finished",
        "done",
        "natural",
    ),
}
"""Values of `finish_reason` by which servers say that the answer is whole, in lower case."""

_INCOMPLETE_REASONS = {
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "max_length", "model_length"), "max_output_tokens"),
    "content_filter": "content_filter",
}
"""`finish_reason` of a truncated completion, in lower case -> the reason in `incomplete_details`; others are kept."""

_ABORTED = ("error", "abort", "aborted", "cancelled", "canceled", "timeout")
"""Values of `finish_reason`, outside OpenAI's API, by which servers report that generation failed."""

_KEPT_FIELDS = ("reasoning_details", "extra_content", "thinking_blocks", "reasoning_signature", "encrypted_content")
"""Fields of a message that a server wants back as they are: signatures and encrypted reasoning."""

_CALL_FIELDS = ("id", "type", "function", "custom", "index")
"""Fields of a tool call that an item has under other names."""

_THINKING_TYPES = ("thinking", "redacted_thinking", "reasoning")

_ECHOED = ("instructions", "temperature", "top_p", "max_output_tokens", "reasoning", "text", "user", "top_logprobs")
"""Fields of the request that a Response repeats."""


def to_response(completion: Json, params: Json) -> Json:
    """Convert a Chat Completions reply to a Response object.

    Args:
        completion: the parsed reply.
        params: the Responses request. A Response repeats some of its fields.

    Raises:
        AttemptFailed: the reply has no choice with a message, or reports an error.
    """
    try:
        return _response(completion, params)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        message = f"the model server's reply is not a chat completion ({type(error).__name__}: {error})"
        raise AttemptFailed(FailureClass.ODD_REPLY, message) from error


def error_message(error: Any) -> str:
    """The message of an error object, or an error that is text, with secrets masked."""
    message = error.get("message") if isinstance(error, dict) else error
    return redact(str(message)) if message else "the model server reported an error without a message"


def _response(completion: Json, params: Json) -> Json:
    choice = completion["choices"][0]
    finish_reason = choice.get("finish_reason")
    if choice.get("error") or finish_reason in _ABORTED:
        message = error_message(choice.get("error") or f"generation was aborted (finish_reason={finish_reason})")
        raise AttemptFailed(FailureClass.MODEL_ERROR, message)
    items = _items(choice, completion)
    incomplete_reason = _incomplete_reason(finish_reason)
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
    }


def _incomplete_reason(finish_reason: Any) -> str | None:
    """Why a completion is incomplete; None for a natural stop. An unknown reason is kept as it is."""
    if finish_reason is None:
        return None
    name = str(finish_reason).strip().lower().removeprefix("finish_reason_")
    return None if name in _NATURAL_STOPS else _INCOMPLETE_REASONS.get(name, str(finish_reason))


def _items(choice: Json, completion: Json) -> list[Json]:
    """The output items of a choice: reasoning, message, tool calls, in this order; at least one."""
    message = choice["message"]
    items: list[Json] = []
    if reasoning := _reasoning(message):
        items.append(reasoning)
    content = _content(message, choice.get("logprobs") or {})
    calls = message.get("tool_calls") or []
    if legacy := message.get("function_call"):  # OpenAI's field before `tool_calls`
        calls = [*calls, {"function": legacy}]
    if content or not (calls or items):
        status = "incomplete" if _incomplete_reason(choice.get("finish_reason")) else "completed"
        items.append({"id": "msg_0", "type": "message", "role": "assistant", "status": status, "content": content})
    items += [_function_call(call, index) for index, call in enumerate(calls)]
    items[-1] |= _token_ids(choice, completion)
    return items


def _reasoning(message: Json) -> Json | None:
    """The reasoning of a message as an item; None if it has none.

    Its own fields under other names are kept in `message_fields`, so that the next request of a conversation has them
    under the name they came with.
    """
    name = next((name for name in REASONING_FIELDS if message.get(name)), None)
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    thinking = [text for part in parts if part.get("type") in _THINKING_TYPES if (text := _thinking_text(part))]
    value = message[name] if name else None
    texts = [value if isinstance(value, str) else dumps(value).decode()] if name else thinking
    fields = {key: message[key] for key in _KEPT_FIELDS if message.get(key) is not None}
    if name not in (None, "reasoning_content"):
        fields[name] = value
    if thinking and not name:
        fields["content"] = [part for part in parts if part.get("type") in _THINKING_TYPES]
    if not texts and not fields:
        return None
    item: Json = {"id": "rs_0", "type": "reasoning", "status": "completed"}
    item["summary"] = [{"type": "summary_text", "text": text} for text in texts]
    return {**item, "message_fields": fields} if fields else item


def _thinking_text(part: Json) -> str:
    """The text of a thinking part: Mistral's is a list of text parts, Anthropic's a string."""
    thinking = part.get("thinking", part.get("text"))
    if isinstance(thinking, list):
        return "\n".join(str(each.get("text") or "") for each in thinking)
    return str(thinking or "")


def _content(message: Json, logprobs: Json) -> list[Json]:
    parts: list[Json] = []
    if text := _content_text(message.get("content") or ""):
        part: Json = {"type": "output_text", "text": text, "annotations": []}
        if logprobs.get("content"):
            part["logprobs"] = [_logprob(token) for token in logprobs["content"]]
        parts.append(part)
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    return parts


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type") not in _THINKING_TYPES)


def _logprob(token: Json) -> Json:
    # `bytes` may be null in Chat Completions, but has to be a list in the Responses API
    top = [{**each, "bytes": each.get("bytes") or []} for each in token.get("top_logprobs") or []]
    return {**token, "bytes": token.get("bytes") or [], "top_logprobs": top}


def _function_call(call: Json, index: int) -> Json:
    if call.get("type") == "custom":
        call = {
            **call,
            "function": {"name": call["custom"]["name"], "arguments": {"input": call["custom"].get("input")}},
        }
    function = call["function"]
    # an id is made up where the server sends none: the tool's output has to refer to its call
    call_id = call.get("id") or f"call_{index}"
    arguments = function.get("arguments") or "{}"
    # such as Gemini's thought signature in `extra_content`, without which the next request is refused
    fields = {name: value for name, value in call.items() if name not in _CALL_FIELDS}
    return {
        **({"call_fields": fields} if fields else {}),
        "id": f"fc_{index}",
        "type": "function_call",
        "call_id": call_id,
        "name": function["name"],
        "arguments": arguments if isinstance(arguments, str) else dumps(arguments).decode(),
        "status": "completed",
    }


def _token_ids(choice: Json, completion: Json) -> Json:
    """The fields for training that the reply has. vLLM puts them into the choice or, for the prompt, the completion."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    fields = {
        "prompt_token_ids": choice.get("prompt_token_ids") or completion.get("prompt_token_ids"),
        "generation_token_ids": choice.get("token_ids") or _ids_from_tokens(tokens),
        "generation_log_probs": [token["logprob"] for token in tokens] or None,
    }
    return {name: values for name, values in fields.items() if values is not None}


def _ids_from_tokens(tokens: list[Json]) -> list[int] | None:
    """The ids in tokens like `token_id:22`, from vLLM's `return_tokens_as_token_ids`; None for other tokens."""
    texts = [str(token.get("token")) for token in tokens]
    if not texts or not all(text.startswith("token_id:") for text in texts):
        return None
    return [int(text.removeprefix("token_id:")) for text in texts]


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
