"""Conversion of Chat Completions replies to Response objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.models.from_chat_completions import to_response
from ng_rollouts.models.to_chat_completions import to_chat_request
from tests.models.helpers import completion_of

NATURAL = [
    *("stop", "STOP", "Stop", "eos", "eos_token", "end_turn", "end-turn", "endTurn", "STOP_REASON_END_TURN"),
    *("tool_calls", "tool-calls", "toolCalls", "function_calls", "function-call", "stop_sequence", "stop-sequence"),
    *("Stop Sequence", "stop_token", "FINISH_REASON_STOP", {"type": "stop", "matched": 2}, None),
]
"""Values of `finish_reason` that servers send after a natural stop."""

TEXTS = st.text(min_size=1, max_size=20)


@st.composite
def output_items(draw: st.DrawFn) -> list[Any]:
    """The output items of one model turn, in the order in which a Response has them; at least one."""
    content: list[Any] = []
    if text := draw(st.none() | TEXTS):
        content.append({"type": "output_text", "text": text, "annotations": []})
    if refusal := draw(st.none() | TEXTS):
        content.append({"type": "refusal", "refusal": refusal})
    items: list[Any] = []
    if reasoning := draw(st.none() | TEXTS):
        summary = [{"type": "summary_text", "text": reasoning}]
        items.append({"id": "rs_0", "type": "reasoning", "summary": summary, "status": "completed"})
    if content:
        message = {"type": "message", "role": "assistant", "content": content}
        items.append({"id": "msg_0", "status": "completed", **message})
    names_and_arguments = st.lists(st.tuples(TEXTS, TEXTS), min_size=0 if items else 1, max_size=3)
    for number, (name, argument) in enumerate(draw(names_and_arguments)):
        call = {"type": "function_call", "name": name, "arguments": json.dumps({"x": argument})}
        items.append({"id": f"fc_{number}", "call_id": f"c{number}", "status": "completed", **call})
    return items


@given(output_items())
def test_output_items_survive_conversion_to_a_chat_message_and_back(items: list[Any]) -> None:
    """The items of a turn, converted to a chat message and back, are the same items."""
    (message,) = to_chat_request({"input": items})["messages"]
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ChatCompletion.model_validate(completion)
    assert to_response(completion, {})["output"] == items


@pytest.mark.parametrize(
    "fields",
    [
        {"created": "2024-01-01T00:00:00Z"},
        {"usage": {"prompt_tokens": "n/a", "completion_tokens": None, "completion_tokens_details": [1]}},
        {"usage": []},
    ],
    ids=["created is text", "counts are not numbers", "usage is a list"],
)
def test_malformed_metadata_does_not_invalidate_the_answer(fields: Any) -> None:
    """A reply with a malformed time or usage still gives a valid Response with the answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    reply = to_response({"id": "x", "model": "m", "choices": [choice], **fields}, {})
    Response.model_validate(reply)
    assert reply["output"][0]["content"][0]["text"] == "hi"


@pytest.mark.parametrize(
    ("completion", "failure_class", "words"),
    [
        ({}, "odd_reply", "choices"),
        ({"choices": []}, "odd_reply", "IndexError"),
        ({"choices": [{"message": {"content": 5}}]}, "odd_reply", "TypeError"),
        (
            {"choices": [{"finish_reason": "error", "error": {"message": "overloaded"}, "message": {}}]},
            "model_error",
            "overloaded",
        ),
    ],
    ids=["no choices", "empty choices", "content is a number", "generation failed"],
)
def test_reply_without_an_answer_is_a_retryable_failure(completion: Any, failure_class: str, words: str) -> None:
    """A reply that is not a completion, or that reports an error, fails the attempt and never scores 0."""
    with pytest.raises(AttemptFailed, match=words) as failure:
        to_response(completion, {})
    assert (failure.value.failure_class, failure.value.retryable) == (failure_class, True)


def test_token_ids_are_read_from_the_tokens_of_vllm() -> None:
    """With vLLM's `return_tokens_as_token_ids`, token ids are read from tokens such as `token_id:5`."""
    tokens = [{"token": f"token_id:{number}", "logprob": -number / 2, "top_logprobs": []} for number in (5, 6)]
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "logprobs": {"content": tokens}}
    (item,) = to_response({"choices": [choice]}, {})["output"]
    assert item["generation_token_ids"] == [5, 6]
    assert item["generation_log_probs"] == [-2.5, -3.0]


@pytest.mark.parametrize("reason", ["error", "ERROR", "Error", "abort", "ABORTED", "network_error", "server-error"])
def test_reported_errors_fail_the_attempt(reason: str) -> None:
    """A reason that says that generation failed is no answer, however it is written."""
    with pytest.raises(AttemptFailed, match=reason) as failure:
        to_response(completion_of({"content": "hi"}, reason), {})
    assert failure.value.failure_class == "model_error"


@pytest.mark.parametrize("reason", NATURAL)
def test_natural_stops_are_completed(reason: Any) -> None:
    """Servers name a natural stop differently; a missing reason is no sign of a cut."""
    response = to_response(completion_of({"content": "hi"}, reason), {})
    assert (response["status"], response["incomplete_details"]) == ("completed", None)


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("length", "max_output_tokens"),
        ("MAX_TOKENS", "max_output_tokens"),
        ("model_length", "max_output_tokens"),
        ("content_filter", "content_filter"),
        ("SAFETY", "SAFETY"),
        ("repetition", "repetition"),
        ("insufficient_system_resource", "insufficient_system_resource"),
        ("something new", "something new"),
        ({"type": "length", "length": 5}, "max_output_tokens"),
    ],
)
def test_any_other_finish_reason_is_incomplete(reason: Any, kept: str) -> None:
    """Whatever is not known to be a natural stop is incomplete, with the reason that the server gave."""
    response = to_response(completion_of({"content": "hi"}, reason), {})
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": kept})


def test_first_choice_is_the_one_with_index_0() -> None:
    """Servers may send the choices in any order, and the reasoning beside the message."""
    choices = [
        {"index": number, "message": {"content": str(number)}, "reasoning_content": f"think {number}"}
        for number in (1, 0)
    ]
    thought, message = to_response({"choices": choices}, {})["output"]
    assert (thought["summary"][0]["text"], message["content"][0]["text"]) == ("think 0", "0")
