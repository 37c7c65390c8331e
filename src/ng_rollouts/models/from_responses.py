"""Check a reply of `/responses`, and bring it into the form of the API, from which some servers differ.

Source: OpenAI's API reference of the Response object.
"""

from __future__ import annotations

from typing import Any

from ng_rollouts.chat import reasoning_text, text_of
from ng_rollouts.chat_items import arguments_text
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.models.from_chat_completions import error_message
from ng_rollouts.types import Json


def check_error(reply: Json) -> None:
    """Check for an error in the body of a reply, which some servers send with status 200.

    Raises:
        AttemptFailed: `model_error`.
    """
    error = reply.get("error")
    if reply.get("status") not in (None, "completed", "incomplete"):
        message = error_message(error) if error else f"the response has the status {reply['status']}"
        raise AttemptFailed(FailureClass.MODEL_ERROR, message)
    if error and not reply.get("output") and not reply.get("choices"):
        raise AttemptFailed(FailureClass.MODEL_ERROR, error_message(error))


def normalised_response(reply: Json) -> Json:
    """A Response in the form of the API: items with a type and with text arguments, and a reason if it is incomplete.

    Raises:
        AttemptFailed: `odd_reply`, if it has no list of items.
    """
    output = reply.get("output")
    if not output and isinstance(text := reply.get("output_text"), str) and text:  # a convenience of OpenAI's client
        output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}]
    if not isinstance(output, list):
        raise AttemptFailed(FailureClass.ODD_REPLY, "the model server's reply has no `output` list")
    response = {**reply, "output": [_item(item) for item in output]}
    if response.get("status") == "incomplete" and not _reason(response):
        response["incomplete_details"] = {"reason": "unknown"}
    return response


def is_empty(response: Json) -> bool:
    """Whether a response is `completed`, without any output and without output tokens."""
    usage = response.get("usage")
    tokens = usage.get("output_tokens") if isinstance(usage, dict) else None
    return response.get("status") == "completed" and not tokens and not any(map(_has_content, response["output"]))


def has_logprobs(response: Json) -> bool:
    """Whether an item of a response has log probabilities, or no item has text that could have them."""
    items = [item for item in response["output"] if isinstance(item, dict) and item.get("type") == "message"]
    parts = [part for item in items for part in item.get("content") or [] if isinstance(part, dict)]
    return not parts or any(part.get("logprobs") for part in parts) or any("generation_log_probs" in it for it in items)


def with_limit_reached(response: Json, max_output_tokens: Any) -> Json:
    """The response, as incomplete if it has as many output tokens as were allowed: some servers call that completed."""
    usage = response.get("usage")
    tokens = usage.get("output_tokens") if isinstance(usage, dict) else None
    if not isinstance(tokens, int) or not isinstance(max_output_tokens, int) or tokens < max_output_tokens:
        return response
    if response.get("incomplete_details"):
        return response
    return {**response, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}


def _reason(response: Json) -> Any:
    details = response.get("incomplete_details")
    return details.get("reason") if isinstance(details, dict) else details


def _item(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    item = {**item, "type": item.get("type") or "message"}
    if item["type"] == "function_call":
        item["arguments"] = arguments_text(item.get("arguments"))
    if item["type"] == "reasoning" and isinstance(item.get("content"), str):
        item["content"] = [{"type": "reasoning_text", "text": item["content"]}]
    return item


def _has_content(item: Any) -> bool:
    if not isinstance(item, dict):
        return True
    match item.get("type", "message"):
        case "message":
            return bool(text_of(item.get("content")))
        case "reasoning":
            return bool(reasoning_text(item) or item.get("encrypted_content") or item.get("message_fields"))
    return True
