"""Convert ATIF trajectories to rows. ATIF is the Agent Trajectory Interchange Format of Harbor and other frameworks.

A step of an agent becomes the items that a model and its tools would have added to a response: reasoning, message,
calls, results. What a trajectory of this program's own export has in `extra` makes its row again, value by value: see
`difference`.
Source: Harbor's RFC 0001, Agent Trajectory Interchange Format, v1.7; Harbor's models of v1.8 for audio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeGuard

from ng_rollouts.chat import chat_input, chat_output
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.types import Json

ITEMS, ABSENT, VIEW = "_ng_items", "_ng_absent", "_ng_training_view"
"""Names in `extra`: the differences of a step's items, the names of absent fields, the derived fields of a row."""

OBJECTS = ("responses_create_params", "response")
"""Fields of a row whose differences are stored field by field."""

DERIVED: dict[str, Callable[[Json], list[Json]]] = {
    "input": lambda row: chat_input(row["responses_create_params"]),
    "output": lambda row: chat_output(row["response"]),
}
"""Fields of the training view, which follow from the others."""

TOKEN_IDS = {
    "prompt_token_ids": "prompt_token_ids",
    "completion_token_ids": "generation_token_ids",
    "logprobs": "generation_log_probs",
}
"""Metrics of a step -> fields of the item that the model generated last in it."""

_IN_ITEMS = frozenset(("source", "message", "reasoning_content", "tool_calls", "observation", "is_copied_context"))
"""Fields of a step that its items have."""

_IN_ROW = frozenset(("schema_version", "steps", "extra", "agent"))
_AGENT_IN_ROW = frozenset(("name", "model_name", "tool_definitions"))


def is_trajectory(value: Any) -> TypeGuard[Json]:
    """Whether a JSON value is an ATIF trajectory."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    return isinstance(version, str) and version.startswith("ATIF-")


def single_line(file: BinaryIO) -> bytes | None:
    """A trajectory that fills a whole file, pretty-printed, as one line of JSON; None if the file has something else.

    The position in the file is its beginning then.
    """
    if file.readline(16).strip() == b"{":
        file.seek(0)
        try:
            value = loads(file.read())
        except ValueError:  # the caller reads it line by line, and reports the line
            value = None
        if is_trajectory(value):
            return dumps(value) + b"\n"
    file.seek(0)
    return None


def row_of(trajectory: Json) -> Json:
    """The row of a trajectory. It has a key only if `extra` has one.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the trajectory does not follow the specification.
    """
    extra = dict(trajectory.get("extra") or {})
    derived = extra.pop(VIEW, ())
    row = {**_plain_row(trajectory), **_nemo_gym_key(extra)}
    for name in OBJECTS:
        if isinstance(stored := extra.get(name), dict):
            extra[name] = restored(row[name], stored)
    row = restored(row, extra)
    return row | {name: DERIVED[name](row) for name in derived}


def items_of(step: Json) -> list[Json]:
    """The items of a step."""
    items = list(_agent_items(step)) if step["source"] == "agent" else [_message(step)]
    stored = (step.get("extra") or {}).get(ITEMS)
    if isinstance(stored, list) and len(stored) == len(items):
        return [restored(item, changes) for item, changes in zip(items, stored, strict=True)]
    return items


def difference(plain: Json, wanted: Json) -> Json:
    """The fields that turn one object into another; `_ng_absent` has the names of those to remove."""
    changed = {name: value for name, value in wanted.items() if name not in plain or plain[name] != value}
    absent = [name for name in plain if name not in wanted]
    return {**changed, ABSENT: absent} if absent else changed


def restored(plain: Json, changes: Json) -> Json:
    """The object that `difference` was made for."""
    absent = changes.get(ABSENT, ())
    both = {**plain, **changes}
    return {name: value for name, value in both.items() if name != ABSENT and name not in absent}


def _plain_row(trajectory: Json) -> Json:
    agent, steps = trajectory["agent"], trajectory["steps"]
    # Agents' steps of the prompt are context that was copied into the trajectory.
    begin = next((place for place, step in enumerate(steps) if _is_generated(step)), len(steps))
    prompt, generated = steps[:begin], steps[begin:]
    model = agent.get("model_name") or next((step["model_name"] for step in generated if step.get("model_name")), None)
    models = {"model": model} if model else {}
    tools = {"tools": [_tool(each) for each in agent["tool_definitions"]]} if agent.get("tool_definitions") else {}
    return {
        "responses_create_params": {"input": _items(prompt), **tools, **models},
        "response": {
            "object": "response",
            **models,
            **_created_at(generated),
            "output": _items(generated),
            **_usage(trajectory.get("final_metrics") or {}, generated),
        },
        "agent_ref": {"name": str(agent["name"])},
        "atif": _remainder(trajectory),
    }


def _is_generated(step: Json) -> bool:
    return step["source"] == "agent" and not step.get("is_copied_context")


def _items(steps: Iterable[Json]) -> list[Json]:
    return [item for step in steps for item in items_of(step)]


def _agent_items(step: Json) -> Iterator[Json]:
    number = step["step_id"]
    generated: list[Json] = []
    if text := step.get("reasoning_content"):
        summary = [{"type": "summary_text", "text": text}]
        generated.append({"id": f"rs_{number}", "type": "reasoning", "summary": summary})
    if content := _content(step["message"], {"type": "output_text", "annotations": []}):
        fields = {"type": "message", "role": "assistant", "status": "completed"}
        generated.append({"id": f"msg_{number}", **fields, "content": content})
    generated += [_call(call, f"fc_{number}_{place}") for place, call in enumerate(step.get("tool_calls") or [])]
    if generated:
        generated[-1] |= _token_ids(step.get("metrics") or {})
    yield from generated
    for result in (step.get("observation") or {}).get("results") or []:
        yield _result(result)


def _message(step: Json) -> Json:
    message = step["message"]
    content = message if isinstance(message, str) else _content(message, {"type": "input_text"})
    return {"role": step["source"], "content": content}


def _call(call: Json, item_id: str) -> Json:
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": call["tool_call_id"],
        "name": call["function_name"],
        "arguments": dumps(call["arguments"]).decode(),
        **({"extra": call["extra"]} if call.get("extra") else {}),
    }


def _result(result: Json) -> Json:
    content = result.get("content")
    output = content if isinstance(content, str) else _content(content or "", {"type": "input_text"})
    others = {name: result[name] for name in ("extra", "subagent_trajectory_ref") if result.get(name)}
    return {"type": "function_call_output", "call_id": result.get("source_call_id"), "output": output or "", **others}


def _content(message: str | list[Json], text_part: Json) -> list[Json]:
    """A message as parts; no parts if it is empty text."""
    if isinstance(message, str):
        return [{**text_part, "text": message}] if message else []
    return [_part(part, text_part) for part in message]


def _part(part: Json, text_part: Json) -> Json:
    if part["type"] == "text":
        return {**text_part, "text": part["text"]}
    return {"type": "input_image", "image_url": part["source"]["path"]} if part["type"] == "image" else part


def _tool(tool: Json) -> Json:
    """A tool in the format of the Responses API."""
    function = tool.get("function")
    return {"type": "function", **function} if isinstance(function, dict) else tool


def _token_ids(metrics: Json) -> Json:
    return {field: metrics[name] for name, field in TOKEN_IDS.items() if metrics.get(name) is not None}


def _created_at(steps: list[Json]) -> Json:
    """The time of the last step of the agent; nothing if no step has one."""
    last = next((step["timestamp"] for step in reversed(steps) if _is_generated(step) and step.get("timestamp")), None)
    if last is None:
        return {}
    time = datetime.fromisoformat(last)
    # The specification does not require a time zone.
    return {"created_at": (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()}


def _usage(totals: Json, steps: list[Json]) -> Json:
    """The usage: the totals, or else the sums over steps; nothing if neither has token counts."""
    metrics = [step.get("metrics") or {} for step in steps if step["source"] == "agent"]
    extras = [each.get("extra") or {} for each in metrics]
    prompt = _total(totals.get("total_prompt_tokens"), metrics, "prompt_tokens")
    completion = _total(totals.get("total_completion_tokens"), metrics, "completion_tokens")
    if prompt is None or completion is None:
        return {}
    cached = _total(totals.get("total_cached_tokens"), metrics, "cached_tokens")
    reasoning = _total((totals.get("extra") or {}).get("reasoning_tokens"), extras, "reasoning_tokens")
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached or 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning or 0},
        "total_tokens": prompt + completion,
    }
    return {"usage": usage}


def _total(total: Any, metrics: list[Json], name: str) -> int | None:
    counts = [count for each in metrics if type(count := each.get(name)) is int]
    return total if type(total) is int else sum(counts) if counts else None


def _remainder(trajectory: Json) -> Json:
    """The fields of a trajectory and its steps that have no other place in a row, as they are."""
    agent = {name: value for name, value in trajectory["agent"].items() if name not in _AGENT_IN_ROW}
    fields = {name: value for name, value in trajectory.items() if name not in _IN_ROW}
    steps = [each for step in trajectory["steps"] if len(each := _step_remainder(step)) > 1]
    return {**fields, "agent": agent, **({"steps": steps} if steps else {})}


def _step_remainder(step: Json) -> Json:
    """The number of a step and the fields that its items do not have."""
    rest = {name: value for name, value in step.items() if name not in _IN_ITEMS}
    for name, in_items in (("metrics", TOKEN_IDS), ("extra", (ITEMS,))):
        if isinstance(value := rest.pop(name, None), dict) and value.keys() - set(in_items):
            rest[name] = {key: value[key] for key in value if key not in in_items}
    return rest


def _nemo_gym_key(extra: Json) -> Json:
    """The key that NeMo Gym's exporter writes."""
    source = (extra.get("nemo_gym") or {}).get("source") or {}
    names = {"task_index": "_ng_task_index", "rollout_index": "_ng_rollout_index"}
    return {field: source[name] for name, field in names.items() if name in source}
