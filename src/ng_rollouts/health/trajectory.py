"""NeMo Gym 0.7's checks of a rollout's trajectory: its turns, and the model calls that were captured for them.

A turn or an invocation owns the calls that it refers to. A check without its evidence finds nothing and is marked as
not observed: without a trajectory, all of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ng_rollouts.health.checks import (
    CALL_SUCCEEDED,
    CALLS_OBSERVED,
    TRAJECTORY_CHECKS,
    TRAJECTORY_UNOBSERVED,
    Check,
)
from ng_rollouts.health.trajectory_shape import is_trajectory
from ng_rollouts.types import CallCounts, Json

_TOOL_CALL_TYPES = frozenset(
    "function_call tool_call tool_use mcp_call mcp_list_tools mcp_approval_request file_search_call web_search_call "
    "computer_call image_generation_call code_interpreter_call local_shell_call custom_tool_call".split()
)

_CONTENT_KEYS = tuple(
    "text content output_text answer refusal encrypted_content reasoning reasoning_content summary".split()
)

_LENGTH_REASONS = frozenset(("length", "max_tokens", "max_output_tokens"))

_FAILED_STATUSES = frozenset(("failed", "error", "cancelled"))

# Gaps are what the agent reports about missing or contradictory parts of its trajectory.
_CALL_GAPS = frozenset(
    "model_calls_unavailable model_call_capture_incomplete model_call_capture_records_unreadable "
    "model_call_capture_unreadable".split()
)
_CONFLICT_GAPS = frozenset(f"model_call_reference_{kind}" for kind in ("unmatched", "ambiguous", "conflict"))


class TrajectoryHealth(NamedTuple):
    """The mask of findings and of checks that were not observed, and the counts of a trajectory that is valid."""

    mask: int
    counts: CallCounts | None


class _Calls(NamedTuple):
    """The calls that references lead to: each matched call once, and how many references lead to none or several."""

    references: int
    matched: list[Json]
    mismatches: int

    @property
    def is_exact(self) -> bool:
        """Whether there are references, and each leads to one call."""
        return self.references > 0 and not self.mismatches


_NO_TRAJECTORY = TrajectoryHealth(TRAJECTORY_UNOBSERVED, None)


def trajectory_health(row: Json) -> TrajectoryHealth:
    """Check the trajectory of a row."""
    trajectory = row.get("ng_trajectory")
    if trajectory is None:
        return _NO_TRAJECTORY
    if not is_trajectory(trajectory):
        return TrajectoryHealth(Check.RECORD_UNREADABLE.bit | TRAJECTORY_UNOBSERVED, None)
    gaps = {gap["code"] for gap in trajectory.get("gaps", ())}
    if "trajectory_projection_failed" in gaps:
        return _NO_TRAJECTORY
    calls = trajectory.get("model_calls", [])
    turns = trajectory.get("turns", [])
    by_turns, owned = _joined(trajectory, calls)
    has_scope = "turn_model_call_scope_incomplete" not in gaps
    results: dict[Check, bool | None] = {}
    if "turns_unavailable" not in gaps:
        results |= _of_turns(turns)
    if not gaps & _CALL_GAPS:
        results |= _of_calls(calls, owned, is_conflict=bool(gaps & _CONFLICT_GAPS))
        results[Check.TOKEN_COUNT_MISMATCH] = _token_mismatch(row, by_turns) if has_scope else None
    mask = _mask_of(results)
    if has_scope and by_turns.is_exact:
        mask |= CALLS_OBSERVED
    if any(map(_succeeded, by_turns.matched)):
        mask |= CALL_SUCCEEDED
    return TrajectoryHealth(mask, _counts(calls))


def usage_tokens(row: Json) -> tuple[int | None, int | None]:
    """The tokens of the prompt and of the completion that the response reports; None for one that is not a count."""
    response = row.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None, None
    prompt = usage["input_tokens"] if "input_tokens" in usage else usage.get("prompt_tokens")
    completion = usage["output_tokens"] if "output_tokens" in usage else usage.get("completion_tokens")
    # `type(...) is`, because a bool is an int as well
    return (
        prompt if type(prompt) is int and prompt >= 0 else None,
        completion if type(completion) is int and completion >= 0 else None,
    )


def _mask_of(results: dict[Check, bool | None]) -> int:
    """The mask of results: True is a finding, None or no result is not observed."""
    mask = 0
    for check in TRAJECTORY_CHECKS:
        result = results.get(check)
        mask |= check.unobserved_bit if result is None else check.bit if result else 0
    return mask


def _of_turns(turns: list[Json]) -> dict[Check, bool | None]:
    hollow = [not (_says_something(turn) or _has_tool_call(turn.get("answer"))) for turn in turns]
    active = any(not is_hollow or turn.get("model_calls") for is_hollow, turn in zip(hollow, turns, strict=True))
    return {Check.MISSING_AGENT_TURNS: not active, Check.HOLLOW_TURN: any(hollow)}


def _of_calls(calls: list[Json], owned: _Calls, *, is_conflict: bool) -> dict[Check, bool | None]:
    results: dict[Check, bool | None] = {}
    if calls:  # also those that no turn refers to: a failed call has no id to refer to
        results[Check.ENDED_ON_FAILED_CALL] = _ended_on_failure(calls)
    if owned.references or is_conflict:
        results[Check.CAPTURE_MISMATCH] = is_conflict or owned.mismatches > 0
    if matched := owned.matched:
        tokens = [_tokens(call) for call in matched]
        results[Check.ZERO_COMPLETION_TOKENS] = any(completion == 0 for _, completion in tokens)
        results[Check.MISSING_TOKEN_COUNTS] = any(None in each for each in tokens)
        results[Check.MODEL_CALL_FAILED] = any(map(_failed, matched))
        results[Check.RUNAWAY_GENERATION] = _runaway(matched)
    return results


def _ended_on_failure(calls: Iterable[Json]) -> bool:
    """Whether the last call of any model failed: each model for itself, since a judge's call follows the agent's."""
    by_model = defaultdict(list)
    for call in calls:
        by_model[_model(_metadata(call).get("model_ref"))].append(call)
    return any(map(_last_one_failed, by_model.values()))


def _last_one_failed(calls: list[Json]) -> bool:
    failed = [_failed(call) for call in calls]
    if all(failed):
        return True
    starts = [call.get("started_at") for call in calls]
    # The order in the list is not that in time, so without all times the last call is not known.
    if not any(failed) or None in starts:
        return False
    return failed[max(range(len(calls)), key=lambda index: (starts[index], index))]


def _runaway(calls: list[Json]) -> bool | None:
    cut_off = [call for call in calls if _metadata(call).get("finish_reason") in _LENGTH_REASONS]
    if any(call.get("response") is None for call in cut_off):
        return None
    return not all(_response_says_something(call["response"]) for call in cut_off)


def _token_mismatch(row: Json, by_turns: _Calls) -> bool | None:
    usage = usage_tokens(row)
    tokens = [_tokens(call) for call in by_turns.matched]
    if not by_turns.is_exact or None in usage or any(None in each for each in tokens):
        return None
    return usage != (sum(prompt or 0 for prompt, _ in tokens), sum(completion or 0 for _, completion in tokens))


def _joined(trajectory: Json, calls: list[Json]) -> tuple[_Calls, _Calls]:
    """The calls of the turns, and those of turns or invocations."""
    index: dict[Any, list[Json]] = defaultdict(list)
    for call in calls:
        metadata = _metadata(call)
        if call_id := call.get("model_call_id"):
            index[call_id].append(call)
        if (model := _model(metadata.get("model_ref"))) and metadata.get("response_id"):
            index[model, metadata["response_id"]].append(call)
    of_turns = list(_references(trajectory.get("turns", ())))
    of_invocations = list(_references(trajectory.get("invocations", ())))
    return _lookup(of_turns, index), _lookup([*of_turns, *of_invocations], index)


def _references(owners: Iterable[Json]) -> Iterator[tuple[str | None, tuple[str, str] | None, str | None]]:
    """The references of turns or invocations: id of the call, model, id of the response."""
    for owner in owners:
        for each in owner.get("model_calls", ()):
            yield each.get("model_call_id") or None, _model(each.get("model_ref")), each.get("response_id")


def _lookup(references: Iterable[tuple[Any, Any, Any]], index: dict[Any, list[Json]]) -> _Calls:
    unique = dict.fromkeys(references)
    matched: dict[int, Json] = {}
    mismatches = 0
    for call_id, model, response_id in unique:
        found = index.get(call_id or (model, response_id), [])
        if call_id:  # then model and response only have to agree
            found = [call for call in found if _agrees(call, model, response_id)]
        if len(found) == 1:
            matched[id(found[0])] = found[0]
        else:
            mismatches += 1
    return _Calls(len(unique), list(matched.values()), mismatches)


def _agrees(call: Json, model: tuple[str, str] | None, response_id: str | None) -> bool:
    metadata = _metadata(call)
    return model in (None, _model(metadata.get("model_ref"))) and response_id in (None, metadata.get("response_id"))


def _counts(calls: list[Json]) -> CallCounts:
    failed = Counter(
        "unknown" if (status := _metadata(call).get("status_code")) is None else str(status)
        for call in calls
        if _failed(call)
    )
    identities = [identity for call in calls if (identity := _identity(call))]
    tokens = [_tokens(call) for call in calls]
    return CallCounts(
        calls=len(calls),
        failed=failed,
        ended_on_failure=_ended_on_failure(calls),
        replayed=len(identities) - len(set(identities)),
        prompt_tokens=sum(prompt or 0 for prompt, _ in tokens),
        completion_tokens=sum(completion or 0 for _, completion in tokens),
    )


def _identity(call: Json) -> Any:
    if call_id := call.get("model_call_id"):
        return call_id
    response_id = _metadata(call).get("response_id")
    return (_model(_metadata(call).get("model_ref")), response_id) if response_id else None


def _metadata(call: Json) -> Json:
    return call.get("response_metadata") or {}


def _model(reference: Json | None) -> tuple[str, str] | None:
    return (reference["type"], reference["name"]) if reference else None


def _tokens(call: Json) -> tuple[int | None, int | None]:
    stats = call.get("token_stats") or {}
    return stats.get("prompt_tokens"), stats.get("completion_tokens")


def _failed(call: Json) -> bool:
    metadata = _metadata(call)
    return (
        (metadata.get("status_code") or 0) >= 400
        or bool(metadata.get("error_category"))
        or metadata.get("response_status") in _FAILED_STATUSES
    )


def _succeeded(call: Json) -> bool:
    status = _metadata(call).get("status_code")
    return not _failed(call) and (status is None or status >= 200)


def _says_something(turn: Json) -> bool:
    return _has_content(turn.get("answer")) or _has_content(turn.get("reasoning_content"))


def _has_content(value: Any) -> bool:
    """Whether a value has text in any of the fields in which APIs put it."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list):
        return any(map(_has_content, value))
    return isinstance(value, dict) and any(_has_content(value.get(key)) for key in _CONTENT_KEYS)


def _has_tool_call(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_tool_call, value))
    return isinstance(value, dict) and (value.get("type") in _TOOL_CALL_TYPES or bool(value.get("tool_calls")))


def _response_says_something(response: Any) -> bool:
    """Whether a response of any API has text; a tool call alone does not count."""
    if not isinstance(response, dict):
        return False
    choices = [each for each in response.get("choices") or () if isinstance(each, dict)]
    messages = [(each.get("message") or {}).get("content") for each in choices]
    texts = [each.get("text") for each in choices]
    return any(map(_has_content, (response.get("output_text"), response.get("content"), response.get("output")))) or (
        any(map(_has_content, [*messages, *texts]))
    )
