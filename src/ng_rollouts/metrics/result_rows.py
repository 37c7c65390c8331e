"""An agent's reply -> the row that is written."""

from __future__ import annotations

from ng_rollouts.chat import chat_input, chat_output
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.jsonl import dumps
from ng_rollouts.redaction import redact
from ng_rollouts.types import Json, Result, Rollout, RolloutStats

MAX_SCORE = 1e100
"""What is larger is no score: sums of squares have to be finite."""

_CLASS_CHARACTERS = 100
_TOKENS = ("input_tokens", "output_tokens", "total_tokens")


def result_of(
    rollout: Rollout, reply: Json, *, training_view: bool, scored: bool = True, answer_key: str | None = None
) -> Result:
    """What is written and counted of a reply.

    Args:
        scored: whether it has to have a reward.

    Raises:
        AttemptFailed: the agent calls the rollout failed, or the reply cannot be made a row.
    """
    try:
        row = output_row(rollout, reply, training_view=training_view, scored=scored)
        return Result(line=dumps(row), stats=stats_of(row, answer_key))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        message = f"the reply cannot be made a row: {type(error).__name__}: {error}"
        raise AttemptFailed(FailureClass.ODD_REPLY, message) from error


def output_row(rollout: Rollout, reply: Json, *, training_view: bool, scored: bool = True) -> Json:
    """The row of a rollout: what the agent returned, what names the rollout, and the training view.

    Raises:
        AttemptFailed: the agent calls the rollout failed, or the reply has no reward that is a finite number.
    """
    _check_sentinels(reply)
    if scored or "reward" in reply:
        _check_reward(reply)
    row = dict(reply)
    if not isinstance(row.get("responses_create_params"), dict):
        row["responses_create_params"] = rollout.row["responses_create_params"]
    row["_ng_task_index"] = rollout.key.task_index
    row["_ng_rollout_index"] = rollout.key.rollout_index
    row.setdefault("agent_ref", {"name": rollout.agent})
    if training_view:
        _add_training_view(row, rollout)
    return row


def scores_of_row(row: Json) -> dict[str, float]:
    """The scores of a row: its top-level numbers and bools whose key does not start with `_`."""
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and not key.startswith("_") and abs(value) <= MAX_SCORE
    }


def stats_of(row: Json, answer_key: str | None = None) -> RolloutStats:
    """What figures are made of.

    Args:
        answer_key: the field that majorities are formed of; `extracted_answer` unless told otherwise.
    """
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    usage = response.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    answer = row.get(answer_key or "extracted_answer")
    return RolloutStats(
        scores=scores_of_row(row),
        tokens={name: count for name in _TOKENS if isinstance(count := usage.get(name), int)},
        truncated=bool(response.get("incomplete_details")),
        answer=None if answer is None else answer if isinstance(answer, str) else dumps(answer).decode(),
    )


def _check_sentinels(reply: Json) -> None:
    """NeMo Gym's agents say in a 200 reply that a rollout failed, for good or not, or is not to be written down."""
    failure_class = reply.get("_ng_failure_class")
    if reply.get("_ng_no_persist"):
        name = _class_name(failure_class) if failure_class is not None else FailureClass.NO_PERSIST
        raise AttemptFailed(name, "the agent asks for this rollout not to be written down", persist=False)
    if failure_class is not None:
        terminal = bool(reply.get("_ng_failure_terminal"))
        message = reply.get("_ng_failure_message") or reply.get("error") or "the agent calls this rollout failed"
        raise AttemptFailed(_class_name(failure_class), str(message), retryable=not terminal, terminal=terminal)


def _class_name(failure_class: object) -> str:
    return redact(str(failure_class)[:_CLASS_CHARACTERS])


def _check_reward(reply: Json) -> None:
    reward = reply.get("reward")
    if not isinstance(reward, (int, float)):
        what = f"reward {str(reward)[:100]!r}" if "reward" in reply else "no reward"
        raise AttemptFailed(FailureClass.NO_REWARD, f"the agent's reply has {what}; a number is needed")
    if not abs(reward) <= MAX_SCORE:
        raise AttemptFailed(FailureClass.NOT_FINITE, f"the agent's reply has reward {str(reward)[:100]}")


def _add_training_view(row: Json, rollout: Rollout) -> None:
    for key, value in row.items():
        if isinstance(value, bool) and not key.startswith("_"):
            row[key] = float(value)
    row.setdefault("prompt_id", rollout.prompt_id)
    if "input" not in row:
        row["input"] = chat_input(row["responses_create_params"])
    if "output" not in row:
        row["output"] = chat_output(row.get("response"))
