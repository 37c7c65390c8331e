"""Advantages of rollouts: how much better each is than the others of its group."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ng_rollouts.metrics.running_stats import RunningStats

ADVANTAGES = ("grpo", "rloo", "none")

_ADDED_TO_SD = 1e-4
"""What TRL adds to the standard deviation of a group, so that it never divides by 0."""


def advantages_of(rewards: Sequence[float], kind: str) -> list[float | None]:
    """The advantage of each rollout of a group; None for each with `kind="none"`.

    Equal rewards, and a single one, have advantages of 0.
    Source: TRL's GRPOTrainer, with its default `scale_rewards="group"`; Ahmadian et al., 2024, for RLOO.

    Args:
        rewards: those of the valid rollouts of the group.
        kind: `grpo` is the distance from the mean, divided by the standard deviation of the sample (n - 1) plus 1e-4.
            `rloo` is the distance from the mean of the other rollouts.
    """
    if kind == "none":
        return [None] * len(rewards)
    if len(set(rewards)) < 2:
        return [0.0] * len(rewards)
    total, number = math.fsum(rewards), len(rewards)
    if kind == "rloo":
        return [reward - math.fsum((total, -reward)) / (number - 1) for reward in rewards]
    scale = RunningStats.of(rewards).sd + _ADDED_TO_SD
    return [(reward - total / number) / scale for reward in rewards]
