"""Convert rows to ATIF trajectories, the interchange format of Harbor and other agent frameworks.

A trajectory is read while it is made, as any program would read it. What that does not give back is stored in `extra`,
so `outputs/from_atif.py` makes the same row again.
Source: Harbor's RFC 0001, Agent Trajectory Interchange Format, v1.7.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ng_rollouts.chat import is_chat
from ng_rollouts.chat_items import input_items
from ng_rollouts.export.atif_steps import Lost, StepOf, steps_of
from ng_rollouts.export.messages import chat_tool
from ng_rollouts.outputs.from_atif import DERIVED, ITEMS, OBJECTS, VIEW, difference, items_of, row_of
from ng_rollouts.types import Json, agent_of

SCHEMA_VERSION = "ATIF-v1.7"

_UNKNOWN_VERSION = "unknown"
"""The version of an agent, which the specification requires and rows do not have."""


class Identity(NamedTuple):
    """The ids of a trajectory: that of the export, then task index and rollout index."""

    session_id: str
    task_index: int
    rollout_index: int


def trajectory_of(row: Json, identity: Identity, lost: Lost) -> Json | None:
    """The trajectory of a row; None if it has neither a prompt nor an answer.

    Args:
        lost: counts what the trajectory has in `extra` alone.
    """
    params, response = (_object(row.get(name)) for name in OBJECTS)
    prompt_items, answer_items = _prompt_items(row, params), _answer_items(row, response)
    prompt, answer = steps_of(prompt_items, lost), steps_of(answer_items, lost)
    steps = _completed(prompt, answer, response)
    if not steps:
        return None
    _store_differences(prompt, prompt_items)
    _store_differences(answer, answer_items)
    read = _object(row.get("atif"))  # of a row that was itself read from a trajectory
    trajectory = {
        "schema_version": SCHEMA_VERSION,
        "session_id": identity.session_id,
        "trajectory_id": ":".join(map(str, identity)),
        **{name: value for name, value in read.items() if name not in ("agent", "steps", "final_metrics")},
        "agent": _agent(row, params, response, _object(read.get("agent"))),
        "steps": steps,
        "final_metrics": {**_object(read.get("final_metrics")), **_totals(response), "total_steps": len(steps)},
    }
    extra = _extra(row_of(trajectory), row)
    return {**trajectory, "extra": extra} if extra else trajectory


def _prompt_items(row: Json, params: Json) -> list[Json]:
    """The items of a request, or else of the row's own chat messages. `instructions` come first."""
    value, instructions = params.get("input", row.get("input")), params.get("instructions")
    entries = [{"role": "user", "content": value}] if isinstance(value, str) else value
    first = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else instructions
    return [item for part in (first, entries) if isinstance(part, list) for item in input_items(part)]


def _answer_items(row: Json, response: Json) -> list[Json]:
    output = response.get("output")
    if isinstance(output, list):
        return input_items(output)
    return input_items(row["output"]) if is_chat(row.get("output")) else []


def _completed(prompt: list[StepOf], answer: list[StepOf], response: Json) -> list[Json]:
    """All steps, with their numbers and what does not come from single items."""
    steps = [each.step for each in (*prompt, *answer)]
    for number, step in enumerate(steps, 1):
        step["step_id"] = number
    for step, _ in prompt:
        if step["source"] == "agent":
            step["is_copied_context"] = True
    generated = [step for step, _ in answer if step["source"] == "agent"]
    if len(generated) == 1 and (metrics := _metrics(response)):
        generated[0]["metrics"] = {**generated[0].get("metrics", {}), **metrics}
    if generated and (time := _timestamp(response.get("created_at"))):
        generated[-1]["timestamp"] = time
    return steps


def _store_differences(steps: list[StepOf], items: list[Json]) -> None:
    """Store in each step what its items have and its reading does not give back.

    If the reading has the items in another order or number, nothing is stored: the row's difference has them whole.
    """
    read = [items_of(step) for step, _ in steps]
    if [item for step in steps for item in step.items] != items or any(
        len(made) != len(step.items) for made, step in zip(read, steps, strict=True)
    ):
        return
    for made, (step, wanted) in zip(read, steps, strict=True):
        changes = [difference(item, each) for item, each in zip(made, wanted, strict=True)]
        if any(changes):
            step["extra"] = {ITEMS: changes}


def _extra(read: Json, row: Json) -> Json:
    """The differences of a row and its trajectory as it is read."""
    derived = [name for name in DERIVED if name in row and _is_derived(row, name)]
    changes = difference(read, {name: value for name, value in row.items() if name not in derived})
    for name in OBJECTS:
        if isinstance(changes.get(name), dict):
            changes[name] = difference(read[name], changes[name])
    return {**changes, VIEW: derived} if derived else changes


def _is_derived(row: Json, name: str) -> bool:
    return all(isinstance(row.get(each), dict) for each in OBJECTS) and bool(DERIVED[name](row) == row[name])


def _agent(row: Json, params: Json, response: Json, read: Json) -> Json:
    model = response.get("model") or params.get("model")
    tools: Any = params.get("tools") or response.get("tools")
    tools = [chat_tool(tool) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return {
        "name": agent_of(row),
        "version": _UNKNOWN_VERSION,
        **read,
        **({"model_name": model} if isinstance(model, str) and model else {}),
        **({"tool_definitions": tools} if tools else {}),
    }


def _counts(response: Json) -> dict[str, int]:
    """The token counts of a response that are valid: prompt, completion, cached, reasoning."""
    usage = _object(response.get("usage"))
    counts = {
        "prompt": usage.get("input_tokens"),
        "completion": usage.get("output_tokens"),
        "cached": _object(usage.get("input_tokens_details")).get("cached_tokens"),
        "reasoning": _object(usage.get("output_tokens_details")).get("reasoning_tokens"),
    }
    return {name: count for name, count in counts.items() if type(count) is int and count >= 0}


def _metrics(response: Json) -> Json:
    return _named(_counts(response), "{}_tokens")


def _totals(response: Json) -> Json:
    return _named(_counts(response), "total_{}_tokens")


def _named(counts: dict[str, int], name: str) -> Json:
    """Counts under their names in metrics; those of reasoning have none in the specification."""
    reasoning = {"extra": {"reasoning_tokens": counts["reasoning"]}} if counts.get("reasoning") else {}
    return {name.format(each): count for each, count in counts.items() if each != "reasoning"} | reasoning


def _timestamp(created_at: Any) -> str | None:
    """The time in ISO 8601; None if it is not known, which servers write as 0."""
    if type(created_at) in (int, float) and created_at > 0:
        with suppress(OverflowError, OSError, ValueError):
            return datetime.fromtimestamp(created_at, UTC).isoformat().replace("+00:00", "Z")
    return None


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
