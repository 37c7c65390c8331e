"""Converts an agent's reply to the row that is written, and extracts the statistics that are computed from it."""

from __future__ import annotations

from collections.abc import Callable

from ng_rollouts.chat import chat_input, chat_output, text_of
from ng_rollouts.chat_items import plain_answer
from ng_rollouts.errors import MESSAGE_CHARACTERS, AttemptFailed, FailureClass
from ng_rollouts.jsonl import dumps
from ng_rollouts.metrics.perf_summary import PERF_FIELDS
from ng_rollouts.redaction import redact
from ng_rollouts.types import (
    MASK,
    MAX_TOKENS,
    Json,
    Result,
    Rollout,
    RolloutHealth,
    RolloutStats,
    agent_ref,
    is_masked,
)

MAX_SCORE = 1e100
"""Largest absolute value of a score. Sums of squares of larger values would overflow."""

_NOT_KEPT = frozenset({"responses_create_params", "agent_ref", "_ng_task_index", "_ng_rollout_index"})
"""Fields of a reply that reports a failure which the failures file has anyway."""

_MAX_VALUE_CHARACTERS = 100
"""Characters of an agent's own failure class, or of a reward that is not valid, that a message keeps."""

_NO_MODEL_CALLS = "model_calls_unavailable"
"""NeMo Gym's code of the gap in a trajectory whose model calls were not captured."""

_NO_KIND = "no_kind"
"""The reason of a masked rollout whose environment gives none."""

_NUMBERS = frozenset((int, float, bool))
"""The types of numbers in parsed JSON."""

_TOKEN_COUNTS = ("input_tokens", "output_tokens", "total_tokens")


def result_of(
    rollout: Rollout,
    reply: Json,
    *,
    training_view: bool,
    scored: bool = True,
    answer_key: str | None = None,
    health_of: Callable[[Json], RolloutHealth] | None = None,
) -> Result:
    """Convert a reply to the line that is written and the statistics that are counted.

    Args:
        scored: whether the reply must have a reward.
        health_of: checks the row; None to leave out its health. The row is only here still an object.

    Raises:
        AttemptFailed: the agent reported that the rollout failed, or the reply cannot be converted to a row.
    """
    try:
        row = output_row(rollout, reply, training_view=training_view, scored=scored)
        health = health_of(row) if health_of else None
        return Result(line=dumps(row), stats=stats_of(row, answer_key), health=health)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        # Replies are not validated up front, which would cost every rollout: an odd one fails somewhere above.
        message = f"the reply cannot be converted to a row: {type(error).__name__}: {error}"
        raise AttemptFailed(FailureClass.ODD_REPLY, message) from error


def output_row(rollout: Rollout, reply: Json, *, training_view: bool, scored: bool = True) -> Json:
    """The row of a rollout: the agent's reply, the rollout's key and agent, and the training view.

    Raises:
        AttemptFailed: the agent reported that the rollout failed, or the reply has no reward that is a finite number.
    """
    # Before the reward: a reply that reports a failure may have none.
    _check_failure_fields(reply)
    if (scored and not rollout.is_episode and not is_masked(reply)) or reply.get("reward") is not None:
        _check_reward(reply)
    row = dict(reply)
    if not isinstance(row.get("responses_create_params"), dict):
        row["responses_create_params"] = _sent_params(rollout)
    _add_trajectory_gap(row)
    # An agent cannot change the key: resume and file order depend on it.
    row["_ng_task_index"] = rollout.key.task_index
    row["_ng_rollout_index"] = rollout.key.rollout_index
    # Nor its name: metrics by agent would differ after a resume, which reads them from the rows.
    if rollout.is_episode:
        row |= {"_ng_task_id": rollout.row["task_id"], "_ng_environment_server": rollout.agent}
        row.pop("agent_ref", None)
    else:
        reference = row.get("agent_ref")
        if not (isinstance(reference, dict) and reference.get("name") == rollout.agent):
            row["agent_ref"] = agent_ref(rollout.row, rollout.agent)
    if "task_source" in rollout.row:
        row["task_source"] = rollout.row["task_source"]
    if training_view:
        _add_training_view(row, rollout)
    return row


def _sent_params(rollout: Rollout) -> Json:
    """The sampling parameters of a rollout, with its input; of a materialized row, those of the environment's input."""
    holder = rollout.row["task_input"] if rollout.is_episode else rollout.row
    params = holder.get("responses_create_params")
    return params if isinstance(params, dict) else {}


def _add_trajectory_gap(row: Json) -> None:
    """Say in a trajectory that its model calls are missing, or NeMo Gym's health check takes it for a damaged one."""
    trajectory = row.get("ng_trajectory")
    if not isinstance(trajectory, dict) or trajectory.get("model_calls") or not trajectory.get("turns"):
        return
    gaps = trajectory.get("gaps")
    gaps = gaps if isinstance(gaps, list) else []
    if not any(isinstance(gap, dict) and gap.get("code") == _NO_MODEL_CALLS for gap in gaps):
        row["ng_trajectory"] = {**trajectory, "gaps": [*gaps, {"code": _NO_MODEL_CALLS}]}


def scores_of_row(row: Json) -> dict[str, float]:
    """The scores of a row: its top-level numbers and bools, without those of the protocol and those of a masked row.

    The protocol's own fields are `mask_sample` and all that begin with `_`.
    """
    if is_masked(row):
        return {}
    return {
        key: float(value)
        for key, value in row.items()
        if type(value) in _NUMBERS and key[:1] != "_" and abs(value) <= MAX_SCORE and key != MASK
    }


def _mask_reason(row: Json) -> str:
    """The reason of a masked row: its `failure_kind`."""
    kind = row.get("failure_kind")
    return _class_name(kind) if isinstance(kind, str) and kind.strip() else _NO_KIND


def stats_of(row: Json, answer_key: str | None = None) -> RolloutStats:
    """The statistics of one row.

    Args:
        answer_key: the field whose values are compared for majority@k; None for `normalized_answer`, or
            `extracted_answer` in rows without it.
    """
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    usage = response.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens = {
        # `type(...) is`, because a bool is an int as well.
        name: count
        for name in _TOKEN_COUNTS
        if type(count := usage.get(name)) is int and 0 <= count <= MAX_TOKENS
    }
    index = row.get("_ng_rollout_index")
    index = index if isinstance(index, int) else 0
    perf = None if "ng_perf" not in row else _perf_of(row["ng_perf"])
    if is_masked(row):
        return RolloutStats(scores={}, tokens=tokens, masked=_mask_reason(row), rollout_index=index, perf=perf)
    is_incomplete = _is_incomplete(response)
    answer = row.get(answer_key or ("normalized_answer" if "normalized_answer" in row else "extracted_answer"))
    return RolloutStats(
        scores=scores_of_row(row),
        tokens=tokens,
        truncated=is_incomplete,
        empty=not is_incomplete and _is_empty(response),
        answer=None if answer is None else answer if isinstance(answer, str) else dumps(answer).decode(),
        rollout_index=index,
        perf=perf,
    )


def _perf_of(perf: object) -> dict[str, float] | None:
    """The numbers of an `ng_perf` object that metrics are computed from; None if it is not an object."""
    if not isinstance(perf, dict):
        return None
    numbers = ((name, perf.get(name)) for name in PERF_FIELDS)
    return {name: value for name, value in numbers if isinstance(value, (int, float)) and abs(value) <= MAX_SCORE}


def _is_incomplete(response: Json) -> bool:
    """Whether a response was cut off. Some servers give no reason in `incomplete_details`."""
    return bool(response.get("incomplete_details")) or response.get("status") == "incomplete"


def _is_empty(response: Json) -> bool:
    """Whether the last item of a complete response that could be an answer has no text."""
    output = response.get("output")
    if (text := plain_answer(output)) is not None:
        return not text or text.isspace()
    if not isinstance(output, list):
        return False
    for item in reversed(output):
        if isinstance(item, dict) and item.get("type", "message") != "reasoning":
            return item.get("type", "message") == "message" and not text_of(item.get("content")).strip()
    return True


def _check_failure_fields(reply: Json) -> None:
    """Check the fields in which NeMo Gym's agents report a failure, with HTTP status 200.

    Raises:
        AttemptFailed: the reply reports a failure; it may be terminal, or must not be written to the failures file.
    """
    failure_class = reply.get("_ng_failure_class")
    if reply.get("_ng_no_persist"):
        name = _class_name(failure_class) if failure_class is not None else FailureClass.NO_PERSIST
        raise AttemptFailed(
            name, "the agent set _ng_no_persist, so the failure is not written to the failures file", persist=False
        )
    if failure_class is not None:
        terminal = bool(reply.get("_ng_failure_terminal"))
        reasons = (reply.get(name) for name in ("_ng_failure_message", "failure_reason", "error"))
        message = next(filter(None, reasons), "the agent reported that the rollout failed")
        # An answer was paid for, and only its grade is missing: the model is not asked again in this run.
        has_answer = isinstance(reply.get("response"), dict)
        raise AttemptFailed(
            _class_name(failure_class),
            str(message),
            retryable=not terminal and not has_answer,
            terminal=terminal,
            kept={name: value for name, value in reply.items() if name not in _NOT_KEPT},
        )


def _class_name(failure_class: object) -> str:
    # An agent may put a whole error message here, with a key in it. Redacted before it is cut: half a key is not
    # recognised as one.
    return redact(str(failure_class)[:MESSAGE_CHARACTERS])[:_MAX_VALUE_CHARACTERS].strip() or "unnamed"


def _check_reward(reply: Json) -> None:
    reward = reply.get("reward")
    if not isinstance(reward, (int, float)):
        value = f"reward {str(reward)[:_MAX_VALUE_CHARACTERS]!r}" if "reward" in reply else "no reward"
        raise AttemptFailed(FailureClass.NO_REWARD, f"the agent's reply has {value}: reward must be a number")
    # `not ... <=`, since every comparison with NaN is false.
    if not abs(reward) <= MAX_SCORE:
        message = f"the agent's reply has reward {str(reward)[:_MAX_VALUE_CHARACTERS]}: reward must be a finite number"
        raise AttemptFailed(FailureClass.NOT_FINITE, message)


def _add_training_view(row: Json, rollout: Rollout) -> None:
    """Add the fields that training frameworks read: scores as numbers, `prompt_id`, and chat messages."""
    for key, value in row.items():
        if type(value) is bool and key[:1] != "_" and key != MASK:
            row[key] = float(value)
    row.setdefault("prompt_id", rollout.prompt_id)
    if "input" not in row:
        row["input"] = chat_input(row["responses_create_params"])
    if "output" not in row:
        row["output"] = chat_output(row.get("response"))
