"""Rows with any output, and reports of rows, for tests of rollout health."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ng_rollouts.health.checks import findings_in
from ng_rollouts.health.closed_report import ClosedReport, close_report
from ng_rollouts.health.report import HealthReport
from ng_rollouts.health.rollout import health_of
from ng_rollouts.types import key_of
from tests.rollout_files import rollout_row


def message(text: str) -> dict[str, Any]:
    """An assistant message."""
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def call(call_id: str, name: str = "f") -> dict[str, Any]:
    """A tool call."""
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"}


def result(call_id: str, output: Any = "42") -> dict[str, Any]:
    """The output of a tool."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def reasoning(text: str = "thoughts") -> dict[str, Any]:
    """A reasoning item."""
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


def row_of(*items: Any, reward: float = 0.0, cut: str | None = None, **fields: Any) -> dict[str, Any]:
    """A row whose response has these items; `cut` is the reason for which it is incomplete."""
    row = rollout_row(0, 0, reward, **fields)
    state: dict[str, Any] = {"status": "completed"}
    if cut:
        state = {"status": "incomplete", "incomplete_details": {"reason": cut}}
    row["response"] = {"output": list(items), "usage": {"input_tokens": 5, "output_tokens": 7}, **state}
    return row


def findings(row: dict[str, Any]) -> list[str]:
    """The names of the checks that find something in a row, without a trajectory or with one."""
    return [check.value for check in findings_in(health_of(row).mask)]


def closed(rows: Iterable[dict[str, Any]], ignored: Iterable[Any] = ()) -> ClosedReport:
    """The result of a report of rows."""
    report = HealthReport(ignored)
    for row in rows:
        key = key_of(row)
        assert key
        report.add(key, health_of(row))
    return close_report(report)


def flags(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The flags and notes of task 0."""
    summary = dict(closed(rows).counts.listed())[0]
    return [*summary["flags"], *summary.get("notes", [])]


def trajectory_row(task: int = 0, rollout: int = 0, **changes: Any) -> dict[str, Any]:
    """A row with a healthy trajectory of one turn and one call, `c1`, whose top-level fields are replaced by `changes`.

    `response` and `gaps` are changes as well; a response of None is left out.
    """
    names = {"task_id": str(task), "rollout_id": f"{task}-{rollout}"}
    response = changes.pop("response", {"usage": {"input_tokens": 5, "output_tokens": 2}})
    trajectory = {
        "schema_version": "1.0",
        **names,
        "invocations": [{"invocation_id": "root", "status": "completed", "model_calls": [{"model_call_id": "c1"}]}],
        "turns": [turn(1, "hi", "c1", **names)],
        "model_calls": [model_call("c1")],
        "tool_calls": [],
        "gaps": [],
        **changes,
    }
    row = {"_ng_task_index": task, "_ng_rollout_index": rollout, "reward": 0.0, "ng_trajectory": trajectory}
    if response is not None:
        row["response"] = response
    return row


def turn(number: int, answer: Any, *calls: str, task_id: str = "0", rollout_id: str = "0-0") -> dict[str, Any]:
    """A turn of a trajectory."""
    return {
        "invocation_id": "root",
        "task_id": task_id,
        "rollout_id": rollout_id,
        "turn_no": number,
        "timestamp": float(number),
        "answer": answer,
        "step_count": 0,
        "model_calls": [{"model_call_id": each} for each in calls],
    }


def model_call(
    call_id: str,
    status: int = 200,
    started_at: float | None = 1.0,
    tokens: tuple[int | None, int | None] = (5, 2),
    model: str = "m",
    **fields: Any,
) -> dict[str, Any]:
    """A captured model call; `finish_reason` and `response` are fields."""
    return {
        "model_call_id": call_id,
        "started_at": started_at,
        "response": fields.get("response", {"output": [message("hi")]} if status < 400 else None),
        "response_metadata": {
            "model_ref": {"type": "responses_api_models", "name": model},
            "status_code": status,
            "finish_reason": fields.get("finish_reason"),
        },
        "token_stats": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }


def _turns(task: int, *turns: tuple[Any, str], rollout: int = 0) -> list[dict[str, Any]]:
    names = {"task_id": str(task), "rollout_id": f"{task}-{rollout}"}
    return [turn(number, answer, call_id, **names) for number, (answer, call_id) in enumerate(turns, 1)]


def _failed_row(rollout: int) -> dict[str, Any]:
    turns, calls = _turns(13, ("", "c1"), rollout=rollout), [model_call("c1", 500)]
    return trajectory_row(13, rollout, response=None, turns=turns, model_calls=calls)


_RECOVERED: dict[str, Any] = {
    "turns": _turns(7, ("a", "c1"), ("b", "c2")),
    "model_calls": [model_call("c1", 500), model_call("c2", 200, 2.0)],
}
_RUNAWAY = model_call("c1", finish_reason="length", response={"output": []})
_FAILED = ["rollout_ended_on_failed_model_call", "agent_turn_hollow", "model_call_failed"]

NO_TRAJECTORY = [
    "rollout_missing_agent_turns",
    "rollout_ended_on_failed_model_call",
    "agent_turn_hollow",
    "model_call_zero_completion_tokens",
    "model_call_missing_token_counts",
    "trajectory_capture_mismatch",
    "model_call_failed",
    "rollout_token_count_mismatch",
    "model_call_runaway_generation",
]
"""What NeMo Gym reports as unobserved for a row without a trajectory."""

_NO_SUM = ["rollout_token_count_mismatch"]

NEMO_GYM_CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (trajectory_row(0), [], []),
    ({"_ng_task_index": 1, "_ng_rollout_index": 0, "reward": 0.0}, [], NO_TRAJECTORY),
    (trajectory_row(2, turns=[]), ["rollout_missing_agent_turns"], _NO_SUM),
    (trajectory_row(3, turns=_turns(3, ("", "c1"))), ["agent_turn_hollow"], []),
    (
        trajectory_row(
            4,
            model_calls=[model_call("c1", tokens=(5, 0))],
            response={"usage": {"input_tokens": 5, "output_tokens": 0}},
        ),
        ["model_call_zero_completion_tokens"],
        [],
    ),
    (
        trajectory_row(5, model_calls=[model_call("c1", tokens=(None, 2))], response=None),
        ["model_call_missing_token_counts"],
        _NO_SUM,
    ),
    (trajectory_row(6, turns=_turns(6, ("a", "c1"), ("b", "cX"))), ["trajectory_capture_mismatch"], _NO_SUM),
    (
        trajectory_row(7, **_RECOVERED, response={"usage": {"input_tokens": 10, "output_tokens": 4}}),
        ["model_call_failed"],
        [],
    ),
    (
        trajectory_row(8, model_calls=[model_call("c1"), model_call("c2", 429, 2.0)]),
        ["rollout_ended_on_failed_model_call"],
        [],
    ),
    (
        trajectory_row(9, response={"usage": {"input_tokens": 5, "output_tokens": 99}}),
        ["rollout_token_count_mismatch"],
        [],
    ),
    (
        trajectory_row(10, turns=_turns(10, ([{"type": "function_call"}], "c1")), model_calls=[_RUNAWAY]),
        ["model_call_runaway_generation"],
        [],
    ),
    (trajectory_row(11, model_calls=[model_call("c1", finish_reason="length")]), [], []),
    (trajectory_row(12), ["rollout_duplicate_identity"], []),
    (trajectory_row(12), ["rollout_duplicate_identity"], []),
    (_failed_row(0), _FAILED, _NO_SUM),
    (_failed_row(1), _FAILED, _NO_SUM),
    (trajectory_row(14, extra=1), ["record_unreadable"], NO_TRAJECTORY),
    (
        trajectory_row(15, model_calls=[model_call("c1"), model_call("j1", 500, 9.0, model="judge")]),
        ["rollout_ended_on_failed_model_call"],
        [],
    ),
]
"""Rows in the order of their keys, with the findings and the checks that NeMo Gym 0.7.0 reports for them."""
