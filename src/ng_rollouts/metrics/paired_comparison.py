"""Paired comparison of two runs over their common tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ng_rollouts.metrics.estimators import t_quantile

_RESAMPLES = 2000
"""Bootstrap resamples; the smallest p that they can show is 1/2001."""

_CORRECT_FROM = 0.5
"""A task with at least this mean counts as correct, so that crossing it is a flip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second run minus the first, over their common tasks.

    Attributes:
        interval_95: confidence interval of the mean difference, by t over tasks; None for a single task.
        p: two-sided p value, by a paired bootstrap of tasks; None for a single task.
        wins, losses, ties: tasks whose mean is higher, lower or the same in the second run.
        flipped_to_right, flipped_to_wrong: tasks whose mean crosses one half.
    """

    tasks: int
    mean_first: float
    mean_second: float
    difference: float
    interval_95: list[float] | None
    p: float | None
    wins: int
    losses: int
    ties: int
    flipped_to_right: list[int]
    flipped_to_wrong: list[int]


def difference_of(pairs: dict[int, tuple[float, float]], rng: random.Random) -> Difference:
    """Compare the two means of each task.

    Args:
        pairs: the means in the first and in the second run, by task index; at least one pair.
        rng: draws the bootstrap resamples.
    """
    differences = [second - first for first, second in pairs.values()]
    count, mean = len(differences), math.fsum(differences) / len(differences)
    half_width = None
    if count > 1:
        variance = math.fsum((each - mean) ** 2 for each in differences) / (count - 1)
        half_width = t_quantile(count - 1) * math.sqrt(variance / count)
    return Difference(
        tasks=count,
        mean_first=math.fsum(first for first, _ in pairs.values()) / count,
        mean_second=math.fsum(second for _, second in pairs.values()) / count,
        difference=mean,
        interval_95=None if half_width is None else [mean - half_width, mean + half_width],
        p=bootstrap_p(differences, rng),
        wins=sum(each > 0 for each in differences),
        losses=sum(each < 0 for each in differences),
        ties=sum(each == 0 for each in differences),
        flipped_to_right=[index for index, (first, second) in pairs.items() if first < _CORRECT_FROM <= second],
        flipped_to_wrong=[index for index, (first, second) in pairs.items() if second < _CORRECT_FROM <= first],
    )


def bootstrap_p(differences: Sequence[float], rng: random.Random) -> float | None:
    """The two-sided p value of a mean difference; None for one task.

    It is the share of resampled means that are at least as far from zero as the observed mean. The resamples are drawn
    from the differences shifted to mean zero. The result is never less than 2 / 2**tasks, the smallest p of a
    sign-flip test. Without this bound, a bootstrap of two tasks would call any difference certain.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4.
    """
    count = len(differences)
    mean = math.fsum(differences) / count
    if count < 2:
        return None
    if not any(differences):
        return 1.0
    centred = [each - mean for each in differences]
    # The tolerance counts a resample that equals the mean but for rounding as extreme.
    extreme = sum(abs(math.fsum(rng.choices(centred, k=count)) / count) >= abs(mean) - 1e-12 for _ in range(_RESAMPLES))
    # Adding one to both counts the observed mean itself as a resample, so that p is never zero.
    return max((extreme + 1) / (_RESAMPLES + 1), 2.0 ** (1 - count))
