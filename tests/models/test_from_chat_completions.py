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
    ("message", "arguments"),
    [
        ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]}, '{"a":1}'),
        ({"tool_calls": [{"function": {"name": "f", "arguments": None}}]}, "{}"),
        ({"function_call": {"name": "f", "arguments": '{"a": 2}'}}, '{"a": 2}'),
    ],
    ids=["arguments are an object", "no id and no arguments", "legacy function_call"],
)
def test_tool_call_in_any_form_becomes_a_function_call(message: Any, arguments: str) -> None:
    """A tool call may have its arguments as an object or not at all, or be in the legacy field `function_call`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": "stop"}
    (item,) = to_response({"choices": [choice]}, {})["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "f", arguments)


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


@pytest.mark.parametrize("reason", ["stop", "STOP", "eos", "end_turn", "tool_calls", "stop_sequence", None])
def test_natural_stops_are_completed(reason: str | None) -> None:
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
    ],
)
def test_any_other_finish_reason_is_incomplete(reason: str, kept: str) -> None:
    """Whatever is not known to be a natural stop is incomplete, with the reason that the server gave."""
    response = to_response(completion_of({"content": "hi"}, reason), {})
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": kept})


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": "Hm."},
        {"thinking": "Hm."},
        {"reasoning": "Hm.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "s"}]},
        {"reasoning_content": "Hm.", "extra_content": {"google": {"thought_signature": "s"}}},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                {"type": "text", "text": "4"},
            ]
        },
    ],
    ids=["reasoning", "thinking", "reasoning_details", "extra_content", "thinking parts"],
)
def test_reasoning_goes_back_under_the_names_it_came_with(fields: Any) -> None:
    """In the next request of a conversation, the message has the reasoning and the signatures that the server sent."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    call["extra_content"] = {"google": {"thought_signature": "of the call"}}
    message = {"role": "assistant", "content": "4", **fields, "tool_calls": [call]}
    items = to_response(completion_of(message, "tool_calls"), {})["output"]
    assert items[0]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    (sent,) = to_chat_request({"input": items})["messages"]
    assert sent == message


def test_custom_tool_call_becomes_a_call_with_its_input() -> None:
    """The free text of a custom call is the argument `input`."""
    call = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    (item,) = to_response(completion_of({"content": None, "tool_calls": [call]}, "tool_calls"), {})["output"]
    assert (item["type"], item["call_id"], item["name"], item["arguments"]) == (
        "function_call",
        "c",
        "shell",
        '{"input":"ls"}',
    )
