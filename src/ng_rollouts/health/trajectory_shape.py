"""The shape of `ng_trajectory`: the fields that NeMo Gym 0.7 allows, and the rules about its identifiers.

NeMo Gym rejects a trajectory with an unknown field, a missing one or one of another type. The items of `conversation`
are not checked beyond being objects, because no check reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from ng_rollouts.types import Json

_Test = Callable[[Any], bool]


def is_trajectory(value: Any) -> bool:
    """Whether a value is a trajectory in which invocations, model calls and turns can be distinguished."""
    return _TRAJECTORY(value) and _has_unique_identifiers(value)


def _has_unique_identifiers(trajectory: Json) -> bool:
    turns = trajectory.get("turns", ())
    return (
        _are_unique(each["invocation_id"] for each in trajectory.get("invocations", ()))
        and _are_unique(
            each["model_call_id"] for each in trajectory.get("model_calls", ()) if each.get("model_call_id")
        )
        and _are_unique((turn["invocation_id"], turn["turn_no"]) for turn in turns)
        and all(turn[name] == trajectory[name] for turn in turns for name in ("task_id", "rollout_id"))
    )


def _are_unique(values: Iterable[Hashable]) -> bool:
    listed = list(values)
    return len(set(listed)) == len(listed)


def _anything(_: Any) -> bool:
    return True


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _integer(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _at_least(minimum: int, test: _Test) -> _Test:
    return lambda value: test(value) and value >= minimum


def _one_of(*values: str) -> _Test:
    return lambda value: value in values


def _optional(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


def _list_of(test: _Test) -> _Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _object(required: str, /, **fields: _Test) -> _Test:
    """A test for an object that has no other fields than these, and all required ones."""
    needed = frozenset(required.split())

    def test(value: Any) -> bool:
        if not isinstance(value, dict) or not value.keys() <= fields.keys() or not needed <= value.keys():
            return False
        return all(fields[name](each) for name, each in value.items())

    return test


def _is_model_ref(value: Any) -> bool:
    # NeMo Gym ignores further fields here.
    return isinstance(value, dict) and value.get("type") == "responses_api_models" and _text(value.get("name"))


_CALL_REF_FIELDS = _object(
    "", model_call_id=_optional(_text), model_ref=_optional(_is_model_ref), response_id=_optional(_text)
)


def _is_call_ref(value: Any) -> bool:
    """Whether a reference names a call by its id, or by the id of its response and the model."""
    if not _CALL_REF_FIELDS(value):
        return False
    return bool(value.get("model_call_id") or (value.get("model_ref") is not None and value.get("response_id")))


_COUNT, _DURATION = _optional(_at_least(0, _integer)), _optional(_at_least(0, _number))
_STATUSES = ("completed", "failed", "incomplete", "unknown")

_INVOCATION = _object(
    "invocation_id",
    kind=_one_of("agent_invocation"),
    invocation_id=_text,
    parent_invocation_id=_optional(_text),
    spawned_by_tool_call_id=_optional(_text),
    status=_one_of(*_STATUSES),
    duration_ms=_DURATION,
    error_type=_optional(_text),
    model_calls=_list_of(_is_call_ref),
    conversation=_list_of(lambda value: isinstance(value, dict)),
)

_TURN = _object(
    "invocation_id task_id rollout_id turn_no timestamp step_count",
    invocation_id=_text,
    task_id=_text,
    rollout_id=_text,
    turn_no=_at_least(1, _integer),
    timestamp=_number,
    question=_anything,
    answer=_anything,
    reasoning_content=_anything,
    resolved=_optional(lambda value: isinstance(value, bool)),
    step_count=_at_least(0, _integer),
    model_calls=_list_of(_is_call_ref),
)

_MODEL_CALL = _object(
    "",
    model_call_id=_optional(_text),
    started_at=_optional(_number),
    completed_at=_optional(_number),
    duration_ms=_DURATION,
    request=_anything,
    response=_anything,
    response_metadata=_object(
        "",
        response_id=_optional(_text),
        model_ref=_optional(_is_model_ref),
        model=_optional(_text),
        dialect=_optional(_text),
        status_code=_optional(_integer),
        response_status=_optional(_text),
        finish_reason=_optional(_text),
        upstream_attempted=_optional(lambda value: isinstance(value, bool)),
        response_source=_optional(_one_of("upstream", "local")),
        upstream_status_code=_optional(_integer),
        local_response_reason=_optional(_text),
        error_category=_optional(_text),
        latency_ttft_ms=_DURATION,
    ),
    token_stats=_object(
        "",
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        reasoning_tokens=_COUNT,
        total_tokens=_COUNT,
        cached_tokens=_COUNT,
    ),
)

_TOOL_CALL = _object(
    "invocation_id tool_call_id",
    kind=_one_of("tool_call"),
    invocation_id=_text,
    tool_call_id=_text,
    sandbox_id=_optional(_text),
    tool_name=_optional(_text),
    started_at=_optional(_number),
    completed_at=_optional(_number),
    duration_ms=_DURATION,
    timing_source=_optional(_one_of("executor", "artifact", "harness")),
    status=_one_of(*_STATUSES, "timeout", "cancelled"),
    error_type=_optional(_text),
    output=_anything,
)


def _is_in_order(call: Any) -> bool:
    """Whether a tool call ends after its start, as far as both are known."""
    if not _TOOL_CALL(call):
        return False
    start, end = call.get("started_at"), call.get("completed_at")
    return start is None or end is None or start <= end


_TRAJECTORY = _object(
    "task_id rollout_id",
    schema_version=_one_of("1.0"),
    task_id=_text,
    rollout_id=_text,
    invocations=_list_of(_INVOCATION),
    turns=_list_of(_TURN),
    model_calls=_list_of(_MODEL_CALL),
    tool_calls=_list_of(_is_in_order),
    gaps=_list_of(_object("code", code=_text, invocation_id=_optional(_text), detail=_optional(_text))),
)
