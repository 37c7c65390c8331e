"""Requests and responses of the Responses API as chat messages."""

from __future__ import annotations

import copy

import pytest

from ng_rollouts.chat import chat_input, chat_output
from tests.conftest import SHARED_DATA, read_rows

RESPONSE = {
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "think"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "o"}, {"type": "refusal", "refusal": "k"}],
        },
    ]
}


def test_response_items_become_chat_messages() -> None:
    """Adjacent calls are tool_calls of one assistant message, results are tool messages, and contents are text."""
    call = {"type": "function"}
    assert chat_output(RESPONSE) == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "think",
            "tool_calls": [
                {"id": "c1", **call, "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", **call, "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "assistant", "content": "ok"},
    ]


def test_request_input_becomes_chat_messages() -> None:
    """Instructions become a system message, the parts of a content are joined, and an image becomes `<image>`."""
    parts = [{"type": "input_text", "text": "see "}, {"type": "input_image", "image_url": "data:..."}]
    params = {"instructions": "be kind", "input": [{"role": "user", "content": parts, "type": "message"}]}
    assert chat_input(params) == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "see <image>"}]


def test_conversion_to_chat_does_not_change_its_input() -> None:
    """Calls are added to a copy of the message before them, not to the message of the request."""
    calling = [
        {"role": "assistant", "content": "c", "tool_calls": []},
        {"type": "function_call", "name": "f", "call_id": "1"},
    ]
    params = {"input": copy.deepcopy(calling)}
    chat_input(params)
    assert params["input"] == calling


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the data of NeMo Gym are not installed here")
def test_example_rollouts_of_nemo_gym_become_chat_messages() -> None:
    """Every example rollout of NeMo Gym becomes chat messages whose contents are strings."""
    for path in SHARED_DATA.glob("*/example_rollouts.jsonl"):
        for row in read_rows(path):
            assert all(isinstance(message["content"], str) for message in chat_input(row["responses_create_params"]))
            assert isinstance(chat_output(row["response"])[-1]["content"], str)


def test_custom_tool_calls_are_messages_and_other_items_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The free text of a custom call is its argument `input`; a type without a message is named in one warning."""
    call = {"type": "custom_tool_call", "call_id": "c", "name": "shell", "input": "ls"}
    result = {"type": "custom_tool_call_output", "call_id": "c", "output": "a.txt"}
    other = {"type": "a_new_kind_of_call"}
    assert chat_output({"output": [call, result, other, other]}) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "shell", "arguments": '{"input":"ls"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "a.txt"},
    ]
    assert capsys.readouterr().err.count("a_new_kind_of_call") == 1


def test_warning_about_an_item_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Items of the prompt are in the request, not in the response."""
    chat_input({"input": [{"type": "an_item_of_prompts"}]})
    assert "items of type an_item_of_prompts are in `responses_create_params` only" in capsys.readouterr().err
