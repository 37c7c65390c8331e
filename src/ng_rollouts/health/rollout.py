"""The health of one rollout, from its row: a mask of findings, and what the rules for its task need.

It is computed for every rollout, so it costs a few microseconds for a row without a trajectory.
"""

from __future__ import annotations

import zlib
from typing import Any

from ng_rollouts.health.checks import (
    FULL_REWARD,
    GREEDY,
    NO_REWARD,
    TRAJECTORY_UNOBSERVED,
    VALID,
    Check,
)
from ng_rollouts.health.response import response_findings, transcript_of
from ng_rollouts.health.trajectory import trajectory_health, usage_tokens
from ng_rollouts.types import Json, RolloutHealth

_ROW_FIELDS = "_ng_task_fields"
"""The field in which an agent in the command keeps the task's own fields."""


_DIGEST_CHARACTERS = 10_000
"""Characters at the beginning and at the end of an answer that its digest is made of."""


def health_of(row: Json) -> RolloutHealth:
    """The health of the rollout in a row; `row` is not changed."""
    try:
        return _health_of(row)
    except Exception:
        # A row may have any structure. A check that fails on it is a finding, and must never lose the rollout.
        return RolloutHealth(Check.CHECK_EXECUTION_ERROR.bit | TRAJECTORY_UNOBSERVED)


def _health_of(row: Json) -> RolloutHealth:
    reward = _reward(row)
    mask = 0 if reward is None else VALID | _reward_mask(reward, row)
    response = row.get("response")
    answer = ""
    # Of a masked rollout, the environment says itself that it measures nothing.
    if isinstance(response, dict) and not row.get("mask_sample"):
        output = response.get("output")
        if isinstance(output, list):
            parts = transcript_of(output)
            answer = parts.answer
            is_rewarded = reward is not None and not mask & NO_REWARD
            mask |= response_findings(response, parts, is_rewarded=is_rewarded)
        if _temperature(row, response) == 0:
            mask |= GREEDY
    prompt, completion = usage_tokens(row)
    trajectory = trajectory_health(row)
    return RolloutHealth(
        mask | trajectory.mask,
        reward,
        answer,
        (prompt or 0, completion or 0),
        trajectory.counts,
        _rollout_id(row),
        row.get("stage_index"),
    )


def digest_of(answer: str) -> int:
    """The length and a checksum of an answer, 64 bits; of a long one, the checksum of its beginning and end.

    It only has to tell the few answers to one task apart, and a cryptographic digest takes five times as long.
    """
    if len(answer) > 2 * _DIGEST_CHARACTERS:
        checked = answer[:_DIGEST_CHARACTERS] + answer[-_DIGEST_CHARACTERS:]
    else:
        checked = answer
    # An answer may have surrogates, which UTF-8 lacks.
    return (len(answer) & 0xFFFFFFFF) << 32 | zlib.crc32(checked.encode(errors="surrogatepass"))


def _reward(row: Json) -> float | None:
    reward = row.get("reward")
    # NeMo Gym's mask: any value that is not false, 0 or empty
    if not isinstance(reward, (int, float)) or row.get("mask_sample"):
        return None
    return float(reward)


def _reward_mask(reward: float, row: Json) -> int:
    low, high, mask = 0.0, 1.0, 0
    if declared := _range(row):
        low, high = declared
        if not low <= reward <= high:
            mask |= Check.REWARD_OUT_OF_RANGE.bit
    if reward >= high:
        mask |= FULL_REWARD
    if reward <= low:
        mask |= NO_REWARD
    return mask


def _range(row: Json) -> tuple[float, float] | None:
    """The range of rewards that the task declares; None if it declares none."""
    value = row.get("reward_range")
    if value is None and isinstance(fields := row.get(_ROW_FIELDS), dict):
        value = fields.get("reward_range")
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(each, (int, float)) for each in value)):
        return None
    low, high = value
    return (low, high) if low < high else None


def _temperature(row: Json, response: Json) -> Any:
    params = row.get("responses_create_params")
    requested = params.get("temperature") if isinstance(params, dict) else None
    return response.get("temperature") if requested is None else requested


def _rollout_id(row: Json) -> str | None:
    own = row.get("_ng_rollout_id")
    trajectory = row.get("ng_trajectory")
    if not own and isinstance(trajectory, dict):
        own = trajectory.get("rollout_id")
    return str(own) if own else None
