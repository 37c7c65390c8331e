"""A rollout as a training example: its messages, its filters and its duplicates."""

from __future__ import annotations

from typing import Any

import pytest

from ng_rollouts.export.example import Example
from tests.export.helpers import export_groups
from tests.rollout_files import rollout_row


def test_rollouts_outside_the_filters_are_counted_by_reason() -> None:
    """A rollout without an answer, without a reward, of another size, or truncated is left out with its reason."""
    group = [
        rollout_row(0, 0, 1.0, "one two three"),
        rollout_row(0, 1, 1.0, ""),
        rollout_row(0, 2, None),
        rollout_row(0, 3, 1.0, "one"),
        rollout_row(0, 4, 1.0, "one two three four five"),
        {**rollout_row(0, 5, 1.0), "response": {"output": []}},
        {
            **rollout_row(0, 6, 1.0),
            "response": {**rollout_row(0, 6, 1.0)["response"], "incomplete_details": {"reason": "max"}},
        },
    ]
    rows, skipped = export_groups([group], "sft", min_tokens=2, max_tokens=4)
    assert [row["messages"][-1]["content"] for row in rows] == ["one two three"]
    assert skipped == {
        "no assistant text": 2,
        "no reward": 1,
        "too few tokens": 1,
        "too many tokens": 1,
        "truncated": 1,
    }
    assert len(export_groups([group], "sft", keep_truncated=True, max_turns=1, max_characters=13)[0]) == 3


def test_tool_calls_and_reasoning_become_messages() -> None:
    """Calls, results and reasoning are messages, tools are schemas, and `keep_reasoning=false` drops reasoning."""
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "2"}]},
    ]
    row = rollout_row(0, 0, 1.0)
    row["response"]["output"] = items
    row["responses_create_params"]["tools"] = [{"type": "function", "name": "add", "parameters": {"type": "object"}}]
    (example,), _ = export_groups([[row]], "sft")
    assert [message["role"] for message in example["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert example["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert example["messages"][1]["reasoning_content"] == "hm"
    assert example["tools"] == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    (example,), _ = export_groups([[row]], "sft", keep_reasoning=False)
    assert not any("reasoning_content" in message for message in example["messages"])
    (example,), _ = export_groups([[row]], "sft", tool_arguments="string")
    assert example["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


CALL = {"type": "function_call", "call_id": "c", "name": "calc", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}
MESSAGE = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "1"}]}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOLS = {"tools": [{"type": "function", "name": "calc", "parameters": {"type": "object"}}]}


def rollout_with_call(index: int, arguments: str) -> dict[str, Any]:
    """A rollout whose answer is a call of the tool `calc`."""
    call = {"type": "function_call", "call_id": f"c{index}", "name": "calc", "arguments": arguments}
    row = rollout_row(0, index, 1.0, response={"output": [call]})
    row["responses_create_params"]["tools"] = [{"type": "function", "name": "calc", "parameters": {"type": "object"}}]
    return row


def test_tool_calls_are_duplicates_if_their_arguments_are_equal() -> None:
    """Calls with equal names and arguments are duplicates, although their ids differ."""
    group = [rollout_with_call(index, arguments) for index, arguments in enumerate(['{"a":1}', '{"a":2}', '{"a":1}'])]
    rows, _ = export_groups([group], "sft", dedupe="normalised")
    assert [row["messages"][-1]["tool_calls"][0]["function"]["arguments"] for row in rows] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask_sample": 1.0}, "masked"),
        (
            {
                "response": {"output": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]},
                "output": [{"role": "assistant", "content": "a cat"}],
            },
            "images in tool results",
        ),
        (
            {
                "responses_create_params": {
                    "input": [{"role": "user", "content": [{"type": "input_audio"}]}],
                    "tools": [{}],
                }
            },
            "files or audio in the prompt",
        ),
        ({"responses_create_params": {"input": "q", "tools": 5}}, "tool calls without tools"),
        ({"output": [{"role": "assistant", "content": "a"}, {"role": "tool"}]}, "last message not the assistant's"),
        ({"response": {"output": [CALL], "status": "failed"}}, "failed responses"),
        ({"response": {"output": [CALL], "status": "incomplete"}}, "truncated"),
        ({"response": {"output": [CALL, MESSAGE]}}, "tool calls without a result"),
        ({"response": {"output": [RESULT, MESSAGE]}}, "tool results without a call"),
        ({"response": {"output": [CALL, RESULT, RESULT, MESSAGE]}}, "tool results without a call"),
        ({"response": {"output": [{**CALL, "name": "other"}]}}, "calls of undefined tools"),
        ({"response": {"output": [{**CALL, "name": [None]}]}}, "calls of undefined tools"),
        ({"response": {"output": [{**CALL, "name": {}}]}}, "calls of undefined tools"),
        ({"response": {"output": [CALL, RESULT, THOUGHT]}}, "last message without an answer"),
        (
            {"responses_create_params": {"input": [CALL, {**RESULT, "output": [IMAGE]}], **TOOLS}},
            "images in tool results",
        ),
        ({"response": {"output": [{**MESSAGE, "content": [IMAGE]}]}}, "images in the answer"),
    ],
)
def test_rollouts_that_no_trainer_can_take_are_left_out(change: dict[str, Any], reason: str) -> None:
    """What a trainer must not learn, or cannot take, is left out and counted by its reason."""
    group = [rollout_with_call(0, "{}"), {**rollout_with_call(1, "{}"), **change}]
    rows, skipped = export_groups([group], "sft")
    assert (len(rows), skipped) == (1, {reason: 1})


@pytest.mark.parametrize("arguments", ["1", '{"a": ', "[1]", "null"])
def test_calls_whose_arguments_are_not_an_object_are_exported_only_as_text(arguments: str) -> None:
    """Arguments that the model did not write as a JSON object cannot be one; as text they stay as they are."""
    group = [rollout_with_call(0, arguments)]
    rows, skipped = export_groups([group], "sft")
    assert (rows, skipped) == ([], {"tool arguments that are not an object": 1})
    (row,), _ = export_groups([group], "sft", tool_arguments="string")
    assert row["messages"][-1]["tool_calls"][0]["function"]["arguments"] == arguments


@pytest.mark.parametrize(("role", "exported"), [("system", ["system"]), ("keep", ["developer"]), ("drop", [])])
def test_developer_messages_get_the_role_that_is_asked_for(role: str, exported: list[str]) -> None:
    """Most chat templates have no role `developer`: by default it is `system`."""
    row = rollout_row(0, 0, 1.0)
    row["responses_create_params"] = {
        "input": [{"role": "developer", "content": "d"}, {"role": "user", "content": "q"}]
    }
    (example,), _ = export_groups([[row]], "sft", developer_role=role)
    assert [message["role"] for message in example["messages"]] == [*exported, "user", "assistant"]


def test_developer_message_is_part_of_the_system_message_before_it() -> None:
    """Most chat templates have one system message, and `instructions` is the first one."""
    row = rollout_row(0, 0, 1.0)
    prompt = [{"role": "developer", "content": "d"}, {"role": "user", "content": "q"}]
    row["responses_create_params"] = {"instructions": "i", "input": prompt}
    (example,), _ = export_groups([[row]], "sft")
    assert example["messages"][:2] == [{"role": "system", "content": "i\n\nd"}, {"role": "user", "content": "q"}]


def test_calls_with_the_same_id_get_unique_ones() -> None:
    """Calls of one conversation have unique ids, and each result has the id of its call."""
    row = rollout_with_call(0, "{}")
    row["response"]["output"] = [CALL, CALL, RESULT, RESULT, CALL, RESULT, MESSAGE]
    (example,), _ = export_groups([[row]], "sft")
    made = [call["id"] for message in example["messages"] for call in message.get("tool_calls", [])]
    assert made == ["c", "c_2", "c_3"]
    assert [message["tool_call_id"] for message in example["messages"] if message["role"] == "tool"] == made


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": "<think>hm</think>\n\nfour"},
        {"content": "hm</think>four"},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "four"}]},
        {"content": [{"type": "text", "text": "<think>hm</think>four"}]},
    ],
    ids=str,
)
def test_reasoning_is_removed_in_any_form(fields: Any) -> None:
    """With `keep_reasoning=false`, no field, part or tag has reasoning; prompts by users stay as they are."""
    messages = [{"role": "assistant", "content": "four", **fields}]
    row = rollout_row(0, 0, 1.0, input=[{"role": "user", "content": "<think>hm</think>?"}], output=messages)
    (example,), _ = export_groups([[row]], "sft", keep_reasoning=False)
    asked, answered = example["messages"]
    assert asked == {"role": "user", "content": "<think>hm</think>?"}
    assert answered.keys() == {"role", "content"}
    assert answered["content"] in ("four", [{"type": "text", "text": "four"}])


def test_images_with_data_are_a_column_and_others_leave_the_row_out() -> None:
    """The messages keep the place of each image; a row whose image is only an address cannot be trained on."""
    image = "data:image/png;base64,iVBORw0KGgo="

    def row_with(url: str) -> dict[str, Any]:
        parts = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "What is it?"}]
        row = rollout_row(0, 0, 1.0, "a cat")
        return {**row, "responses_create_params": {"input": [{"role": "user", "content": parts}]}}

    (example,), _ = export_groups([[row_with(image)]], "sft")
    assert example["images"] == [image]
    assert [message["content"] for message in example["messages"]] == [
        [{"type": "image"}, {"type": "text", "text": "What is it?"}],
        [{"type": "text", "text": "a cat"}],
    ]
    rows, skipped = export_groups([[row_with("https://example.com/cat.png")]], "sft")
    assert (rows, skipped) == ([], {"images without data": 1})


def test_chat_messages_in_a_row_take_precedence_over_its_response() -> None:
    """The row's own `output` is the completion if it is chat messages; otherwise the response is converted."""
    own = [{"role": "assistant", "content": "mine"}]
    assert Example({**rollout_row(0, 0, 1.0), "output": own}).completion == own
    assert Example({**rollout_row(0, 0, 1.0), "output": "text"}).completion[0]["content"] == "answer 0"
