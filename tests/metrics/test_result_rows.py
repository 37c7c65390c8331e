"""Replies of agents become rows, and rows have scores."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.result_rows import output_row, scores_of_row, stats_of
from ng_rollouts.types import Rollout, RolloutKey, RolloutStats

ROLLOUT = Rollout(
    position=0,
    key=RolloutKey(3, 1),
    agent="a",
    prompt_id="p",
    row={"responses_create_params": {"input": [{"role": "user", "content": "hi"}]}},
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x) | st.dictionaries(st.sampled_from(["type", "content", "output", "summary", "role", "text"]), x)
        ),
    )
)
def test_row_can_be_made_from_any_response(response: Any) -> None:
    """A response of any JSON value becomes a row, whose messages have text as their content."""
    row = output_row(ROLLOUT, {"reward": 1, "response": response}, training_view=True)
    assert all(isinstance(message["content"], str) for message in row["output"])


def test_fields_of_the_reply_are_not_replaced_by_the_training_view() -> None:
    """The agent's own `input`, `output` and `prompt_id` are kept. Bools become numbers, except in `_` fields."""
    reply = {"reward": 1.0, "accuracy": True, "_flag": True, "output": "mine", "prompt_id": 5, "input": None}
    row = output_row(ROLLOUT, reply, training_view=True)
    assert (row["output"], row["prompt_id"], row["input"]) == ("mine", 5, None)
    assert row["accuracy"] is not True
    assert row["accuracy"] == 1
    assert row["_flag"] is True
    assert (row["_ng_task_index"], row["_ng_rollout_index"], row["agent_ref"]) == (3, 1, {"name": "a"})


@pytest.mark.parametrize("reference", [{"name": "another"}, "x", None, {}, {"name": "a", "type": "t"}])
def test_agent_of_a_row_is_the_one_that_was_asked(reference: Any) -> None:
    """A reply cannot change the agent's name, by which metrics are computed; other fields of the reference are kept."""
    row = output_row(ROLLOUT, {"reward": 1.0, "agent_ref": reference}, training_view=False)
    assert row["agent_ref"] == ({"name": "a", "type": "t"} if reference and "type" in reference else {"name": "a"})


def test_row_keeps_the_source_of_its_task() -> None:
    """The `task_source` of a task is in its rows, as in those of NeMo Gym's collector, whatever the agent returns."""
    rollout = ROLLOUT._replace(row={**ROLLOUT.row, "task_source": "mcqa"})
    for reply in ({"reward": 1.0}, {"reward": 1.0, "task_source": "other"}):
        assert output_row(rollout, reply, training_view=True)["task_source"] == "mcqa"


def test_row_without_training_view_adds_only_key_agent_and_request() -> None:
    """With `training_view=false`, a row is the reply with the rollout's key, agent and request."""
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
def test_reply_without_a_finite_reward_is_a_failure(reply: Any) -> None:
    """A reply whose reward is missing, not a number, or too large is a failed attempt and never becomes a number."""
    with pytest.raises(AttemptFailed):
        output_row(ROLLOUT, reply, training_view=True)


def test_scores_are_top_level_numbers_and_bools() -> None:
    """Keys that start with an underscore, text, nulls, nested values and huge numbers are not scores."""
    row = {"reward": 1, "ok": True, "_ng_task_index": 3, "text": "1", "nested": {"x": 1}, "none": None, "huge": 10**400}
    assert scores_of_row(row) == {"reward": 1.0, "ok": 1.0}


@pytest.mark.parametrize(
    ("output", "empty"),
    [
        ([], True),
        ([{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": " \n"}]}], True),
        ([{"type": "reasoning", "summary": [{"text": "hm"}]}], True),
        ([{"type": "message", "role": "assistant", "content": "hi"}], False),
        ([{"type": "function_call", "name": "f"}], False),
    ],
    ids=["no items", "blank", "only reasoning", "text", "call"],
)
def test_complete_response_without_an_answer_is_empty(output: object, *, empty: bool) -> None:
    """Neither text nor a call at the end of a complete response; a truncated one counts as truncated only."""
    assert stats_of({"response": {"output": output}}).empty is empty
    assert not stats_of({"response": {"output": output, "incomplete_details": {"reason": "x"}}}).empty


@pytest.mark.parametrize("size", [1, 2])
def test_share_of_empty_responses_is_over_all_rollouts(size: int) -> None:
    """`share_empty` counts the rollouts of groups of any size."""
    aggregate = AgentStats()
    for empty in (True, False, False, False):
        aggregate.add([RolloutStats(scores={"reward": 0.0}, empty=empty)] * size)
    aggregate.end()
    assert aggregate.statistics()["share_empty"] == 0.25
