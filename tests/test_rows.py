"""Replies -> rows, chat messages, scores and averages."""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts import jsonl as jsonlines
from ng_rollouts.chat import chat_input, chat_output
from ng_rollouts.errors import AttemptFailed
from ng_rollouts.metrics.result_rows import output_row, scores_of_row
from ng_rollouts.metrics.score_table import ScoreTable
from ng_rollouts.types import Rollout, RolloutKey

ROLLOUT = Rollout(
    position=0,
    key=RolloutKey(3, 1),
    agent="a",
    prompt_id="p",
    row={"responses_create_params": {"input": [{"role": "user", "content": "hi"}]}},
)
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


def test_output_is_chat() -> None:
    """Calls become tool_calls of one assistant message, results tool messages, the last content is a string."""
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


def test_input_is_chat() -> None:
    """Instructions are a system message, parts are joined, images marked."""
    parts = [{"type": "input_text", "text": "see "}, {"type": "input_image", "image_url": "data:..."}]
    params = {"instructions": "be kind", "input": [{"role": "user", "content": parts, "type": "message"}]}
    assert chat_input(params) == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "see <image>"}]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x) | st.dictionaries(st.sampled_from(["type", "content", "output", "summary", "role", "text"]), x)
        ),
    )
)
def test_any_response_makes_a_row(response: Any) -> None:
    """Whatever an agent calls a response, the row can be made; contents are strings."""
    row = output_row(ROLLOUT, {"reward": 1, "response": response}, training_view=True)
    assert all(isinstance(message["content"], str) for message in row["output"])


def test_making_chat_changes_nothing() -> None:
    """Neither the row that was sent nor the reply."""
    calling = [
        {"role": "assistant", "content": "c", "tool_calls": []},
        {"type": "function_call", "name": "f", "call_id": "1"},
    ]
    params = {"input": copy.deepcopy(calling)}
    chat_input(params)
    assert params["input"] == calling


def test_what_the_agent_returned_wins() -> None:
    """Names of the training view that the agent uses itself are left alone; bools become numbers."""
    reply = {"reward": 1.0, "accuracy": True, "_flag": True, "output": "mine", "prompt_id": 5, "input": None}
    row = output_row(ROLLOUT, reply, training_view=True)
    assert (row["output"], row["prompt_id"], row["input"]) == ("mine", 5, None)
    assert row["accuracy"] is not True
    assert row["accuracy"] == 1
    assert row["_flag"] is True
    assert (row["_ng_task_index"], row["_ng_rollout_index"], row["agent_ref"]) == (3, 1, {"name": "a"})


def test_without_the_training_view_the_reply_stays_as_it_was() -> None:
    """`training_view=false` adds only what names the rollout."""
    row = output_row(ROLLOUT, {"reward": 1.0, "accuracy": True}, training_view=False)
    assert sorted(row) == [
        "_ng_rollout_index",
        "_ng_task_index",
        "accuracy",
        "agent_ref",
        "responses_create_params",
        "reward",
    ]
    assert row["accuracy"] is True


@pytest.mark.parametrize("reply", [{}, {"reward": None}, {"reward": "1"}, {"reward": 10**400}])
def test_a_reply_without_a_number_for_reward_is_a_failure(reply: Any) -> None:
    """A failure is never a number."""
    with pytest.raises(AttemptFailed):
        output_row(ROLLOUT, reply, training_view=True)


def test_scores_are_top_level_numbers_and_bools() -> None:
    """Keys that start with an underscore, text, nulls and nested values are none."""
    row = {"reward": 1, "ok": True, "_ng_task_index": 3, "text": "1", "nested": {"x": 1}, "none": None, "huge": 10**400}
    assert scores_of_row(row) == {"reward": 1.0, "ok": 1.0}


@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["reward", "b", "accuracy"]), st.floats(-1e6, 1e6) | st.integers(-200, 200)),
        max_size=30,
    ),
    sparse=st.integers(0, 4),
    seed=st.integers(),
)
def test_averages_do_not_depend_on_the_order_of_completion(
    rows: list[dict[str, float]], sparse: int, seed: int
) -> None:
    """A mean is the left-to-right sum in finished order over the rows that have the score, in any storage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ng_rollouts.metrics.score_table._MAX_SPARSE", sparse)
        scores = ScoreTable(len(rows))
        order = list(range(len(rows)))
        random.Random(seed).shuffle(order)
        for position in order:
            scores.record(position, "a", rows[position])
    averages = scores.averages(lambda: iter(range(len(rows))))
    for name in ("reward", "accuracy", "b"):
        total, count = 0.0, 0
        for row in rows:
            if name in row:
                total, count = total + row[name], count + 1
        assert averages.get(name) == (total / count if count else None)
    assert [name for name in averages if name != "b"] == [name for name in ("reward", "accuracy") if name in averages]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_averages_are_those_of_jq() -> None:
    """To the last digit."""
    rewards = [random.Random(5).random() for _ in range(1)] + [random.Random(seed).random() for seed in range(500)]
    scores = ScoreTable(len(rewards))
    for position in reversed(range(len(rewards))):
        scores.record(position, "a", {"reward": rewards[position]})
    text = "\n".join(json.dumps({"reward": reward}) for reward in rewards)
    done = subprocess.run(
        ["jq", "-s", "map(.reward) | add/length"], input=text, capture_output=True, text=True, check=True
    )
    assert scores.averages(lambda: iter(range(len(rewards))))["reward"] == float(done.stdout)


@pytest.mark.parametrize(
    "text", [b'{"n":123456789012345678901234567890}', b'{"n":-9223372036854775809}', b'{"s":"\\ud800"}', b'{"n":1.5}']
)
def test_json_leaves_as_it_came(text: bytes) -> None:
    """Integers of any size and lone surrogates survive reading and writing."""
    assert jsonlines.dumps(jsonlines.loads(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b'{"n":123456789012345678901,"x":NaN}',
        b'{"n":123456789012345678901,"x":1e999}',
        b"\xff",
        b'"\\ud800',
        b"",
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    """By either parser."""
    with pytest.raises(ValueError):  # noqa: PT011 - whichever parser says so in its own words
        jsonlines.loads(text)
