"""A rollout as a training example: its messages, its filters and its duplicates."""

from __future__ import annotations

import json
from typing import Any

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
    """Calls, results and reasoning are messages, tools are JSON text, and `keep_reasoning=false` drops reasoning."""
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
    assert example["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert example["messages"][1]["reasoning_content"] == "hm"
    assert json.loads(example["tools"]) == [
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    ]
    (example,), _ = export_groups([[row]], "sft", keep_reasoning=False)
    assert not any("reasoning_content" in message for message in example["messages"])


def test_tool_calls_are_duplicates_if_their_arguments_are_equal() -> None:
    """Calls with equal names and arguments are duplicates, although their ids differ.

    A `tools` field that is not a list is left out.
    """

    def rollout_with_call(index: int, arguments: str) -> dict[str, Any]:
        call = {"type": "function_call", "call_id": f"c{index}", "name": "calc", "arguments": arguments}
        row = rollout_row(0, index, 1.0, response={"output": [call]})
        row["responses_create_params"]["tools"] = 5
        return row

    group = [rollout_with_call(0, "1"), rollout_with_call(1, "2"), rollout_with_call(2, "1")]
    rows, _ = export_groups([group], "sft", dedupe="normalised")
    assert [row["messages"][-1]["tool_calls"][0]["function"]["arguments"] for row in rows] == ["1", "2"]
    assert "tools" not in rows[0]


def test_chat_messages_in_a_row_take_precedence_over_its_response() -> None:
    """The row's own `output` is the completion if it is chat messages; otherwise the response is converted."""
    own = [{"role": "assistant", "content": "mine"}]
    assert Example({**rollout_row(0, 0, 1.0), "output": own}).completion == own
    assert Example({**rollout_row(0, 0, 1.0), "output": "text"}).completion[0]["content"] == "answer 0"
