"""Checks of trajectories: the results of NeMo Gym 0.7.0, and the evidence that each check needs."""

from __future__ import annotations

from typing import Any

import pytest

from ng_rollouts.health.checks import Check, findings_in, unobserved_in
from ng_rollouts.health.rollout import health_of
from ng_rollouts.health.trajectory import trajectory_health
from ng_rollouts.health.trajectory_shape import is_trajectory
from tests.health.rows import NEMO_GYM_CASES, NO_TRAJECTORY, findings, model_call, trajectory_row, turn


@pytest.mark.parametrize(("row", "found", "unobserved"), NEMO_GYM_CASES)
def test_findings_are_those_of_nemo_gym(row: dict[str, Any], found: list[str], unobserved: list[str]) -> None:
    """Each row has the findings and the unobserved checks that NeMo Gym 0.7.0 reports, duplicates aside."""
    health = health_of(row)
    assert list(findings_in(health.mask)) == [name for name in found if name != "rollout_duplicate_identity"]
    assert list(unobserved_in(health.mask)) == unobserved


@pytest.mark.parametrize(
    ("gap", "unobserved"),
    [
        ("trajectory_projection_failed", NO_TRAJECTORY),
        ("turns_unavailable", ["rollout_missing_agent_turns", "agent_turn_hollow"]),
        ("turn_model_call_scope_incomplete", ["rollout_token_count_mismatch"]),
        (
            "model_calls_unavailable",
            [name for name in NO_TRAJECTORY if name not in ("rollout_missing_agent_turns", "agent_turn_hollow")],
        ),
        ("something_else", []),
    ],
)
def test_gap_makes_the_checks_that_need_its_evidence_unobserved(gap: str, unobserved: list[str]) -> None:
    """A gap that the agent reports is missing evidence, never a finding."""
    health = health_of(trajectory_row(gaps=[{"code": gap}]))
    assert (findings_in(health.mask), list(unobserved_in(health.mask))) == ((), unobserved)


def test_contradictory_reference_is_a_mismatch() -> None:
    """A gap about a reference that fits several calls is a mismatch, and so is a reference by response to two calls."""
    assert findings(trajectory_row(gaps=[{"code": "model_call_reference_conflict"}])) == ["trajectory_capture_mismatch"]
    twice = [model_call("a"), model_call("b")]
    for each in twice:
        each["response_metadata"]["response_id"] = "r"
    reference = {"model_ref": {"type": "responses_api_models", "name": "m"}, "response_id": "r"}
    row = trajectory_row(invocations=[], turns=[{**turn(1, "hi"), "model_calls": [reference]}], model_calls=twice)
    assert findings(row) == ["trajectory_capture_mismatch"]
    row["ng_trajectory"]["model_calls"].pop()
    assert findings(row) == []


def test_end_is_not_known_without_times() -> None:
    """Without start times, the last of several calls is not known: no finding. If all failed, it is."""
    mixed = [model_call("c1"), model_call("c2", 500, None)]
    assert findings(trajectory_row(model_calls=mixed)) == []
    failed = [model_call("c1", 500, None), model_call("c2", 500, None)]
    assert Check.ENDED_ON_FAILED_CALL in findings(trajectory_row(model_calls=failed))


def test_cut_off_call_without_response_is_unobserved() -> None:
    """A call that reached its limit and whose response was not kept may have had text."""
    row = trajectory_row(model_calls=[model_call("c1", finish_reason="max_tokens", response=None)])
    assert list(unobserved_in(health_of(row).mask)) == ["model_call_runaway_generation"]


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": "2.0"},
        {"turns": [{**turn(1, "a"), "turn_no": 0}]},
        {"turns": [turn(1, "a"), turn(1, "b")]},
        {"turns": [turn(1, "a", task_id="9")]},
        {"turns": [{**turn(1, "a"), "model_calls": [{"response_id": "r"}]}]},
        {"model_calls": [model_call("c1"), model_call("c1")]},
        {"model_calls": [model_call("c1", tokens=(-1, 2))]},
        {"invocations": [{"invocation_id": "a"}, {"invocation_id": "a"}]},
        {"tool_calls": [{"invocation_id": "a", "tool_call_id": "t", "started_at": 2.0, "completed_at": 1.0}]},
        {"gaps": [{}]},
        {"turns": None},
    ],
)
def test_trajectory_that_is_not_valid_is_unreadable(changes: dict[str, Any]) -> None:
    """A field, value or identifier that NeMo Gym rejects makes the record unreadable, and nothing else."""
    row = trajectory_row(**changes)
    assert not is_trajectory(row["ng_trajectory"])
    assert findings(row) == ["record_unreadable"]
    assert list(unobserved_in(trajectory_health(row).mask)) == NO_TRAJECTORY
