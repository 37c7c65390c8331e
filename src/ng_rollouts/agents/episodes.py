"""Replies of NeMo Gym's environment servers to materialized rows: the result of an episode, or its failure."""

from __future__ import annotations

from typing import Any

from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.types import Json

_FAILED = "environment_server_failed"
"""NeMo Gym's failure class for an episode that an environment server could not finish."""

_RESERVED = frozenset({"ng_trajectory", "ng_perf", "ng_model_call_capture"})
"""Fields that the collector writes, with those that begin with `_ng_`."""


def result_of_episode(reply: Json) -> Json:
    """The result in the reply to an episode.

    Raises:
        AttemptFailed: the reply reports a failure, or has no result that can be a row.
    """
    failure = reply.get("failure")
    if failure is not None:
        raise _failure(failure)
    result = reply.get("result")
    if not isinstance(result, dict):
        raise _odd(f"result is {_kind(result)}, not an object")
    for name in result:
        if name.startswith("_ng_") or name in _RESERVED:
            raise _odd(f"result has the field {name}, which only the collector writes")
    return result


def _failure(failure: Any) -> AttemptFailed:
    if not isinstance(failure, dict):
        return _odd(f"failure is {_kind(failure)}, not an object")
    terminal, partial = bool(failure.get("terminal")), failure.get("partial_response")
    kept = {
        f"_ng_failure_{name}": failure[key]
        for name, key in (("stage", "stage"), ("kind", "failure_kind"))
        if failure.get(key) is not None
    }
    if partial is not None:
        kept["_ng_failure_partial_response"] = partial
    reason = str(failure.get("failure_reason") or "the environment server gave no reason")
    return AttemptFailed(_FAILED, reason, retryable=not terminal, terminal=terminal, kept=kept)


def _odd(message: str) -> AttemptFailed:
    # Another attempt would get a reply of the same form.
    return AttemptFailed(FailureClass.ODD_REPLY, f"the reply to the episode: {message}", retryable=False)


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
