"""The rules about all rollouts of one task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ng_rollouts.health.checks import (
    CALL_SUCCEEDED,
    CALLS_OBSERVED,
    FULL_REWARD,
    GREEDY,
    HAS_OUTPUT,
    LONG_ANSWER,
    NO_REWARD,
    PLAIN_ANSWER,
    REASONED,
    ROLLOUT_FINDINGS,
    VALID,
    Check,
    verdict_of,
)

_MIN_SIBLINGS = 3
"""Equal answers of fewer rollouts may be chance."""

_REWARD_TOLERANCE = 0.1
"""A bonus or penalty, such as one for the length of the reasoning, may make a smaller difference."""


class Repeat(NamedTuple):
    """One rollout of a task, as the rules see it. Several rows of the same rollout are one repeat.

    Attributes:
        verdict: that of its rows if they agree, else `unobserved`.
        observed: whether its verdict is one that counts: it is known, or the checks of responses were made.
        calls_observed: whether the model calls of all its turns are known.
        succeeded: whether one of them succeeded.
    """

    verdict: str
    observed: bool
    calls_observed: bool
    succeeded: bool


class TaskHealth(NamedTuple):
    """The health of one task.

    Attributes:
        mask: the bits of its flags.
        repeats: its rollouts.
        evaluated: how many rollouts had a verdict that counts.
        calls_observed: whether the model calls of all its rollouts are known.
    """

    mask: int
    repeats: list[Repeat]
    evaluated: int
    calls_observed: bool


def task_health(
    indices: Sequence[int], masks: Sequence[int], answers: Sequence[int], rewards: Sequence[float]
) -> TaskHealth:
    """Check the rollouts of a task, given by column, in any order.

    Args:
        indices: rollout indices.
        masks: masks of the rollouts.
        answers: digests of their answers, as integers; 0 without an answer.
        rewards: their rewards; any value if `masks` does not have it as valid.
    """
    repeats = _repeats(indices, masks)
    evaluated = sum(each.observed for each in repeats)
    calls_observed = all(each.calls_observed for each in repeats)
    mask = 0
    if evaluated > 1 and all(each.verdict == "unhealthy" for each in repeats if each.observed):
        mask |= Check.CONSISTENTLY_UNHEALTHY.bit
    if calls_observed and not any(each.succeeded for each in repeats):
        mask |= Check.NO_SUCCESSFUL_CALLS.bit
    # A masked rollout has a reward that means nothing.
    valid = [at for at, each in enumerate(masks) if each & VALID]
    if len({indices[at] for at in valid}) > 1:
        mask |= _reward_flags([masks[at] for at in valid])
        mask |= _answer_flags([masks[at] for at in valid], [answers[at] for at in valid], [rewards[at] for at in valid])
    return TaskHealth(mask, repeats, evaluated, calls_observed)


@lru_cache(maxsize=4096)
def health_of_single(mask: int) -> TaskHealth:
    """The health of a task with one rollout, which depends on its mask only."""
    return task_health((0,), (mask,), (0,), (0.0,))


def _repeats(indices: Sequence[int], masks: Sequence[int]) -> list[Repeat]:
    if len(set(indices)) == len(indices):
        return [_repeat((mask,)) for mask in masks]
    rows = defaultdict(list)
    for index, mask in zip(indices, masks, strict=True):
        rows[index].append(mask)
    return [_repeat(tuple(each)) for each in rows.values()]


@lru_cache(maxsize=4096)
def _repeat(masks: tuple[int, ...]) -> Repeat:
    verdicts = {verdict_of(mask) for mask in masks}
    verdict = verdicts.pop() if len(verdicts) == 1 else "unobserved"
    return Repeat(
        verdict,
        # Without trajectories, the verdict of a good rollout is `unobserved`. That must not make it one that says
        # nothing about its task.
        verdict != "unobserved" or all(mask & HAS_OUTPUT for mask in masks),
        all(mask & CALLS_OBSERVED for mask in masks),
        any(mask & CALL_SUCCEEDED for mask in masks),
    )


def _reward_flags(masks: list[int]) -> int:
    common = masks[0]
    for mask in masks:
        common &= mask
    if common & FULL_REWARD:
        return Check.ALWAYS_SOLVED.bit
    if not common & NO_REWARD:
        return 0
    is_same_failure = common & ROLLOUT_FINDINGS and common & HAS_OUTPUT
    return Check.NEVER_SOLVED.bit | (Check.NEVER_SOLVED_SAME_FAILURE.bit if is_same_failure else 0)


def _answer_flags(masks: list[int], answers: list[int], rewards: list[float]) -> int:
    mask = 0
    if len(masks) >= _MIN_SIBLINGS and len(set(answers)) == 1 and all(map(_is_long_and_sampled, masks)):
        mask |= Check.IDENTICAL_SIBLINGS.bit
    if _disagrees(masks, answers, rewards):
        mask |= Check.VERIFIER_DISAGREES.bit
    return mask


def _disagrees(masks: list[int], answers: list[int], rewards: list[float]) -> bool:
    """Whether equal answers have rewards that contradict each other."""
    if len(set(answers)) == len(answers):
        return False
    by_answer: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for mask, answer, reward in zip(masks, answers, rewards, strict=True):
        if mask & PLAIN_ANSWER:
            by_answer[answer].append((reward, mask))
    return any(map(_contradict, by_answer.values()))


def _contradict(rewards: list[tuple[float, int]]) -> bool:
    (lowest, low_mask), (highest, high_mask) = min(rewards), max(rewards)
    if highest - lowest <= _REWARD_TOLERANCE:
        return False
    # A verifier may also grade the steps of the reasoning. That alone does not lead from nothing to the full reward.
    has_reasoning = any(mask & REASONED for _, mask in rewards)
    return bool(low_mask & NO_REWARD and high_mask & FULL_REWARD) if has_reasoning else True


def _is_long_and_sampled(mask: int) -> bool:
    return bool(mask & LONG_ANSWER) and not mask & GREEDY
