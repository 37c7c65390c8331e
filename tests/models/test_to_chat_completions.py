"""Conversion of Responses requests to Chat Completions requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.models.to_chat_completions import to_chat_request
from tests.conftest import SHARED_DATA


def test_every_supported_field_is_converted() -> None:
    """A chat request has the messages, images, tool calls, reasoning, formats and limits of the Responses request."""
    params = {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "rules", "type": "message"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is it?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                ],
            },
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "look it up"}]},
            {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"q": 1}'},
            {"type": "function_call", "call_id": "c2", "name": "find", "arguments": '{"q": 2}'},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": "two"},
            {"role": "assistant", "type": "message", "content": [{"type": "output_text", "text": "done"}]},
            {"role": "assistant", "type": "message", "content": [{"type": "refusal", "refusal": "no"}]},
        ],
        "max_output_tokens": 9,
        "seed": 4,
        "temperature": 0.5,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": None},
        "tools": [{"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": True}],
        "tool_choice": {"type": "function", "name": "find"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        "truncation": "disabled",
        "previous_response_id": None,
    }
    call = {"type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}
    assert to_chat_request(params) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "rules"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "look it up",
                "tool_calls": [
                    {"id": "c1", **call},
                    {"id": "c2", "type": "function", "function": {"name": "find", "arguments": '{"q": 2}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "assistant", "content": "done"},
            {"role": "assistant", "content": None, "refusal": "no"},
        ],
        "max_tokens": 9,
        "seed": 4,
        "temperature": 0.5,
        "logprobs": True,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"background": True}, "background"),
        ({"top_k": 3}, "top_k"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"include": ["file_search_call.results"]}, "file_search_call"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input_video"),
    ],
    ids=(
        "previous_response_id truncation max_tool_calls background top_k reasoning include tools input content"
    ).split(),
)
def test_unsupported_field_is_rejected_by_name(params: Any, named: str) -> None:
    """A field that Chat Completions does not support fails the attempt with its name; it is not dropped."""
    with pytest.raises(AttemptFailed, match=named) as failure:
        to_chat_request({"input": "hi", **params})
    assert failure.value.failure_class == "unsupported_parameter"


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the example rows of NeMo Gym are not available")
def test_example_rows_of_nemo_gym_can_be_converted() -> None:
    """Every example row of NeMo Gym's environments converts to a chat request."""
    converted = 0
    for file in sorted(SHARED_DATA.glob("*/example.jsonl")):
        for row in map(json.loads, file.read_text().splitlines()):
            params = row["responses_create_params"]
            if params.get("input"):
                assert len(to_chat_request(params)["messages"]) >= 1
                converted += 1
    assert converted > 20
